"""A program in the place of a real picker's binary: it echoes on the ports that it is given."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_sandbox.images.real_picker import PORTS, ports

ECHO = """#!{python}
import re, socket, sys, threading
given = dict(m.groups() for word in sys.argv if (m := re.fullmatch("--(.*-port)=(.*)", word)))

def echo(server, name):
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(name.encode() + b" " + peer.recv(100))

for name, port in given.items():
    threading.Thread(target=echo, args=(socket.create_server(("127.0.0.1", int(port))), name), daemon=True).start()
print(*sys.argv[1:], flush=True)
threading.Event().wait()
"""


@pytest.fixture
def address() -> str:
    """A loopback address on which nobody else listens."""
    return f"127.{os.getpid() % 200 + 30}.{os.getpid() // 200 % 250}.77"


@pytest.fixture
def picker(tmp_path: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    binary = tmp_path / "epp"
    binary.write_text(ECHO.format(python=sys.executable))
    binary.chmod(0o755)
    argv = [sys.executable, "-m", "llmd_sandbox.images.real_picker", str(binary), "--grpc-port", "9102", "-v", "4"]
    variables = {**os.environ, "LLMD_SANDBOX_POD_IP": address}
    with subprocess.Popen(argv, env=variables, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def ask(picker: subprocess.Popen[str], address: str, port: int) -> bytes:
    """What is answered to a word; waits for as long as nobody listens."""
    while picker.poll() is None:
        try:
            with socket.create_connection((address, port), timeout=30) as peer:
                peer.sendall(b"word")
                if answer := peer.recv(100):
                    return answer
        except (ConnectionRefusedError, ConnectionResetError):
            continue
    raise AssertionError(f"it ended with exit status {picker.returncode}")


def test_what_arrives_at_the_pods_address_reaches_the_binary(picker: subprocess.Popen[str], address: str) -> None:
    assert picker.stdout is not None
    assert picker.stdout.readline().startswith("--grpc-port 9102 -v 4 --grpc-port=")
    assert ask(picker, address, 9102) == b"grpc-port word"
    assert ask(picker, address, PORTS["grpc-health-port"]) == b"grpc-health-port word"
    assert ask(picker, address, PORTS["metrics-port"]) == b"metrics-port word"


def test_it_ends_with_the_binary(picker: subprocess.Popen[str], address: str) -> None:
    ask(picker, address, 9102)
    picker.send_signal(signal.SIGTERM)
    assert picker.wait(30) == 128 + signal.SIGTERM


def test_the_last_word_on_a_port_counts() -> None:
    assert ports([]) == PORTS
    assert ports(["-grpc-port", "1", "--grpc-port=2", "--metrics-port", "3"]) == {
        **PORTS,
        "grpc-port": 2,
        "metrics-port": 3,
    }
