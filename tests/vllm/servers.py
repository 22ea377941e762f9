"""Both engines, started with the same words as the kubelet starts a container."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from llmd_sandbox.images import table
from llmd_sandbox.processes import die_with_parent

IMAGE = "ghcr.io/llm-d/llm-d-cuda:v0.4.0"
MODEL = "Qwen/Qwen2.5-3B-Instruct"
BLOCK_TOKENS, BLOCKS, CONTEXT_TOKENS = 32, 41, 512
"""A cache so small (one block is vLLM's own) that a handful of prompts evict one another."""

ARGS = [
    MODEL,
    "--port=8000",
    f"--max-model-len={CONTEXT_TOKENS}",
    "--gpu-memory-utilization=0.75",
    "--enable-prefix-caching",
    "--enable-prompt-tokens-details",
    "--disable-uvicorn-access-log",
    f"--block-size={BLOCK_TOKENS}",
    f"--num-gpu-blocks-override={BLOCKS}",
    "--dtype",
    "half",
]
_START_S = 600.0
_LOOK_S = 0.1


@contextmanager
def server(engine: str, address: str, folder: Path) -> Iterator[httpx.Client]:
    """A server of that engine on `address`, ready; ended afterwards."""
    argv = table.resolve(IMAGE, ["vllm", "serve"], ARGS, engine)
    assert argv is not None
    own = {"HOME": str(folder), "LLMD_SANDBOX_POD_IP": address, "LLMD_SANDBOX_STARTUP_SCALE": "0"}
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv,
            env={**os.environ, **own},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    try:
        with httpx.Client(base_url=f"http://{address}:8000", timeout=60, trust_env=False) as client:
            _wait(client, process, log)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(_LOOK_S)
    raise AssertionError(f"not ready after {_START_S:.0f} s:\n{log.read_text()[-3000:]}")
