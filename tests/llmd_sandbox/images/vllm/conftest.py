"""A server in this process, with an engine whose steps take a tenth of a millisecond."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
import pytest
from starlette.types import ASGIApp

from llmd_sandbox.images.vllm.__main__ import build
from llmd_sandbox.images.vllm.args import parse
from llmd_sandbox.images.vllm.engine import Engine
from llmd_sandbox.images.vllm.http import Api

MODEL = "Qwen/Qwen2.5-3B-Instruct"


@dataclass
class Server:
    app: ASGIApp
    engine: Engine
    client: httpx.AsyncClient

    async def complete(self, **fields: object) -> httpx.Response:
        body = {"model": MODEL, "prompt": "Hello there", "max_tokens": 4} | fields
        return await self.client.post("/v1/completions", json=body)

    async def chat(self, **fields: object) -> httpx.Response:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4} | fields
        return await self.client.post("/v1/chat/completions", json=body)


@asynccontextmanager
async def _serving(words: tuple[str, ...]) -> AsyncIterator[Server]:
    config = parse(["vllm", "serve", MODEL, "--max-model-len=2048", *words])
    engine = build(config)
    engine.step_s = lambda _tokens, _sequences, _context_tokens: 1e-4
    app = Api(config, engine).app()
    running = asyncio.create_task(engine.run())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://pod") as client:
        yield Server(app, engine, client)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    async with AsyncExitStack() as stack:

        async def start(*words: str) -> Server:
            return await stack.enter_async_context(_serving(words))

        yield start


@pytest.fixture
async def server(serve: Callable[..., Awaitable[Server]]) -> Server:
    return await serve()
