"""Answering one generation over ASGI: whole or as a stream, and aborted when its client leaves."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from llmd_sandbox.images.vllm.engine import Engine, clock
from llmd_sandbox.images.vllm.errors import ApiError
from llmd_sandbox.images.vllm.protocol import Generation
from llmd_sandbox.images.vllm.scheduler import Request
from llmd_sandbox.images.vllm.shapes import DONE, Shape, usage
from llmd_sandbox.images.vllm.tokens import answer


class Answering:
    """An ASGI response that generates while it answers."""

    def __init__(
        self,
        engine: Engine,
        generation: Generation,
        vocabulary: int,
        identifier: str,
        *,
        headers: dict[str, str],
        details: bool,
    ) -> None:
        self._engine = engine
        self._generation = generation
        self._headers = headers
        self._details = details
        self._shape = Shape(generation, identifier)
        self._tokens: asyncio.Queue[tuple[int, int, str | None]] = asyncio.Queue()
        self._open = len(generation.prompts)
        self._ended = asyncio.Event()
        self._requests = [self._request(index, vocabulary) for index in range(self._open)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Submit, answer, and abort what is left when the client disconnects first."""
        for request in self._requests:
            self._engine.submit(request)
        answering = asyncio.ensure_future(
            self._stream(send) if self._generation.stream else self._whole(scope, receive, send)
        )
        leaving = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        finally:
            for task in (answering, leaving):
                task.cancel()
            for request in self._requests:
                self._engine.abort(request)

    def _request(self, index: int, vocabulary: int) -> Request:
        generation = self._generation
        prompt = generation.prompts[index]
        return Request(
            prompt=prompt,
            answer=answer(prompt, generation.seed, generation.limits, vocabulary),
            arrival_s=clock(),
            on_token=lambda request: self._on_token(index, request),
            max_tokens=generation.limits.max_tokens,
            salt=hash(generation.cache_salt),
        )

    def _on_token(self, index: int, request: Request) -> None:
        if request.finish_reason is not None:
            self._open -= 1
            if not self._open:
                self._ended.set()
        if self._generation.stream:
            self._tokens.put_nowait((index, request.produced, request.finish_reason))

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._ended.wait()
        if any(request.finish_reason == "abort" for request in self._requests):
            stopped = ApiError(
                "EngineCore encountered an issue. See stack trace (above) for the root cause.",
                "InternalServerError",
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )
            await JSONResponse(stopped.body, stopped.code, self._headers)(scope, receive, send)
            return
        body = self._shape.whole(self._requests, usage(self._requests, details=self._details))
        await JSONResponse(body, headers=self._headers)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8"} | self._headers
        raw = [(key.encode(), value.encode()) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if self._generation.chat:
            await _write(send, self._shape.opening())
        left = len(self._requests)
        while left:
            index, produced, finish_reason = await self._tokens.get()
            if finish_reason == "abort":
                return  # the server stops: the connection is cut without an end of the stream
            planned = self._requests[index].answer
            stop_reason = planned.stop_reason if finish_reason else None
            await _write(send, self._shape.token(index, planned.pieces[produced - 1], finish_reason, stop_reason))
            left -= finish_reason is not None
        if self._generation.include_usage:
            await _write(send, self._shape.usage_event(usage(self._requests, details=self._details)))
        await _write(send, DONE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
