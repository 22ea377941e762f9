"""The HTTP surface of the server."""

from __future__ import annotations

import os
import time
import uuid

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmd_sandbox.images.vllm import VERSION, shapes
from llmd_sandbox.images.vllm.args import Config
from llmd_sandbox.images.vllm.engine import Engine
from llmd_sandbox.images.vllm.errors import ApiError
from llmd_sandbox.images.vllm.generate import Answering
from llmd_sandbox.images.vllm.metrics import CONTENT_TYPE
from llmd_sandbox.images.vllm.protocol import Served, decode, read_generation, read_tokenize
from llmd_sandbox.images.vllm.tokens import encode

_UNCOUNTED = {"/metrics", "/health", "/ping", "/version"}


class Api:
    """The endpoints of one server."""

    def __init__(self, config: Config, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._served = Served(config.served_names, config.max_model_len, config.model.vocabulary)
        self._created = int(time.time())
        self._headers = _pod_headers(config.port)

    def app(self) -> ASGIApp:
        """The ASGI application."""
        routes = [
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/tokenize", self.tokenize, methods=["POST"]),
            Route("/reset_prefix_cache", self.reset_prefix_cache, methods=["POST"]),
            Route("/health", _ok),
            Route("/ping", _ok, methods=["GET", "POST"]),
            Route("/version", _version),
            Route("/metrics", self.metrics),
        ]
        starlette = Starlette(routes=routes, exception_handlers={ApiError: _refused, HTTPException: _no_such_endpoint})
        return self._counted(starlette)

    async def completions(self, request: HttpRequest) -> ASGIApp:
        """POST /v1/completions."""
        return await self._generate(request, chat=False)

    async def chat(self, request: HttpRequest) -> ASGIApp:
        """POST /v1/chat/completions."""
        return await self._generate(request, chat=True)

    async def _generate(self, request: HttpRequest, *, chat: bool) -> ASGIApp:
        body = decode(await request.body(), request.headers.get("content-type", ""))
        generation = read_generation(body, self._served, chat=chat)
        identifier = request.headers.get("x-request-id") or uuid.uuid4().hex
        echoed = {"x-request-id": identifier} if self._config.request_id_headers else {}
        return Answering(
            self._engine,
            generation,
            self._served.vocabulary,
            identifier,
            headers=self._headers | echoed,
            details=self._config.prompt_tokens_details,
        )

    async def models(self, _request: HttpRequest) -> Response:
        """GET /v1/models."""
        config = self._config
        return JSONResponse(shapes.models(config.served_names, config.model_name, config.max_model_len, self._created))

    async def tokenize(self, request: HttpRequest) -> Response:
        """POST /tokenize."""
        body = decode(await request.body(), request.headers.get("content-type", ""))
        tokens = encode(read_tokenize(body), self._served.vocabulary)
        return JSONResponse(
            {
                "count": len(tokens),
                "max_model_len": self._config.max_model_len,
                "tokens": tokens,
                "token_strs": None,
            }
        )

    async def reset_prefix_cache(self, _request: HttpRequest) -> Response:
        """POST /reset_prefix_cache: forgets the cached blocks unless requests hold some."""
        self._engine.reset_prefix_cache()
        return Response()

    async def metrics(self, _request: HttpRequest) -> Response:
        """GET /metrics."""
        return Response(self._engine.metrics.render(), headers={"content-type": CONTENT_TYPE})

    def _counted(self, inner: ASGIApp) -> ASGIApp:
        """Authorise, count and, unless disabled, log requests."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await inner(scope, receive, send)
                return
            began, status = time.monotonic(), 500
            path, method = scope["path"], scope["method"]

            async def noting(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            if path.startswith("/v1") and not self._authorised(scope):
                await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, noting)
            else:
                await inner(scope, receive, noting)
            if path not in _UNCOUNTED:
                handler = path if "endpoint" in scope else "none"
                self._engine.metrics.http_requests.add(1, handler, method, f"{status // 100}xx")
                self._engine.metrics.http_duration.observe(time.monotonic() - began, handler, method)

        return counted

    def _authorised(self, scope: Scope) -> bool:
        if not self._config.api_keys:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        return given.removeprefix("Bearer ") in self._config.api_keys


def _pod_headers(port: int) -> dict[str, str]:
    """Which pod answered, when its name is known from the environment."""
    pod, namespace = os.environ.get("POD_NAME"), os.environ.get("POD_NAMESPACE")
    if not pod or not namespace:
        return {}
    return {"x-inference-pod": pod, "x-inference-namespace": namespace, "x-inference-port": str(port)}


async def _ok(_request: HttpRequest) -> Response:
    return Response()


async def _version(_request: HttpRequest) -> Response:
    return JSONResponse({"version": VERSION})


async def _refused(_request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.code)


async def _no_such_endpoint(_request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
