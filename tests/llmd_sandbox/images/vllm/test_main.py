"""The program as the kubelet starts it: a process with arguments and environment."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress

import httpx

from llmd_sandbox.images.table import resolve

POD_IP = "127.213.77.5"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((POD_IP, 0))
        port: int = probe.getsockname()[1]
        return port


async def start(*args: str, **variables: str) -> Process:
    argv = resolve("vllm/vllm-openai:v1", ["vllm", "serve"], list(args))
    assert argv is not None
    assert argv[0] == sys.executable
    env = os.environ | {"LLMD_SANDBOX_POD_IP": POD_IP, "LLMD_SANDBOX_STARTUP_SCALE": "0", **variables}
    return await asyncio.create_subprocess_exec(*argv, env=env, stdout=PIPE, stderr=STDOUT)


async def read_until(process: Process, text: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    async for raw in process.stdout:
        lines.append(raw.decode())
        if text in lines[-1]:
            return lines
    raise AssertionError(f"{text!r} never came:\n{''.join(lines)}")


async def test_it_starts_serves_on_the_pods_address_and_ends_with_0_on_sigterm() -> None:
    port = free_port()
    process = await start("Qwen/Qwen3-0.6B", "--port", str(port), "--max-model-len", "2048")
    try:
        lines = await read_until(process, "Uvicorn running on")
        assert any("Application startup complete." in line for line in lines)
        async with httpx.AsyncClient(base_url=f"http://{POD_IP}:{port}") as client:
            assert (await client.get("/health")).status_code == 200
            with suppress(httpx.RemoteProtocolError):  # the stream is cut, as a pod that ends cuts it
                body = {"prompt": "x", "stream": True, "max_tokens": 2000, "ignore_eos": True}
                async with client.stream("POST", "/v1/completions", json=body) as response:
                    async for _ in response.aiter_lines():
                        if process.returncode is None:
                            process.send_signal(signal.SIGTERM)
                    raise AssertionError("the stream ended regularly")
        rest = (await process.stdout.read()).decode() if process.stdout else ""
        assert await process.wait() == 0
        assert '"POST /v1/completions HTTP/1.1" 200' in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_refused_configuration_ends_with_1_and_says_why() -> None:
    process = await start("Qwen/Qwen3-0.6B", "--dtype", "bfloat16")
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"ValueError: Bfloat16 is only supported on GPUs with compute capability" in output


async def test_a_start_that_is_told_to_fail_ends_with_1() -> None:
    process = await start("Qwen/Qwen3-0.6B", LLMD_SANDBOX_START="forbidden")
    output, _ = await process.communicate()
    assert process.returncode == 1
    assert b"403 Client Error" in output
