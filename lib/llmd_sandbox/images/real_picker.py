"""`python -m llmd_sandbox.images.real_picker BINARY WORD...`: a real `epp` binary as a pod's program.

The binary listens on every address of its machine, where a pod has one of its own: two pickers would ask for
the same ports, and each would hear what is meant for pods that are not up yet. So it is given free ports, and
what arrives at the pod's address is passed on to them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Sequence

from llmd_sandbox.processes import die_with_parent

PORTS = {"grpc-port": 9002, "grpc-health-port": 9003, "metrics-port": 9090}
"""The ports that the binary opens, by flag, with its defaults."""

_CHUNK_BYTES = 65536


def ports(words: Sequence[str]) -> dict[str, int]:
    """The ports that a command line asks for, by flag; the last word on each counts, as in Go's `flag`.

    Raises:
        ValueError: a port that is no number.
    """
    asked = dict(PORTS)
    for index, word in enumerate(words):
        flag, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-") and flag in asked:
            asked[flag] = int(value if equals else "".join(words[index + 1 : index + 2]))
    return asked


async def run(binary: str, words: Sequence[str], address: str) -> int:
    """Run the binary behind `address` until it ends; its exit code (128 + signal). SIGTERM and SIGINT go to it.

    Raises:
        OSError: no such program, or an address that is taken.
    """
    asked, free = ports(words), _free_ports()
    own = [f"--{flag}={port}" for flag, port in free.items()]
    process = await asyncio.create_subprocess_exec(binary, *words, *own, preexec_fn=die_with_parent())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.send_signal, number)
    servers = [await _forward((address, asked[flag]), port) for flag, port in free.items()]
    code = await process.wait()
    for server in servers:
        server.close()
    return 128 - code if code < 0 else code


def _free_ports() -> dict[str, int]:
    """Ports that nobody has now, on any address; held together, so that they differ."""
    held = [socket.create_server(("", 0)) for _ in PORTS]
    try:
        return {flag: holder.getsockname()[1] for flag, holder in zip(PORTS, held, strict=True)}
    finally:
        for holder in held:
            holder.close()


async def _forward(here: tuple[str, int], port: int) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()  # as from a port where nobody listens yet
            return
        await asyncio.gather(_pump(reader, onward[1]), _pump(onward[0], writer))

    return await asyncio.start_server(serve, *here)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(_CHUNK_BYTES):
            sink.write(chunk)
            await sink.drain()
    except OSError:
        pass  # one end is gone: the other is told by the close
    finally:
        sink.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1], sys.argv[2:], os.environ["LLMD_SANDBOX_POD_IP"])))
