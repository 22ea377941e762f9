"""The OpenAI-compatible HTTP API of the gateway (or of one replica), by httpx: single calls, never load."""

from __future__ import annotations

import json
import ssl
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import httpx

from llmd_runbook.clients.bearer import authorization
from llmd_runbook.errors import ApiError, Unreachable

REPLICA_HEADER = "x-inference-pod"
_CONNECT_S = 5.0


@dataclass(frozen=True)
class Endpoint:
    """Where clients send requests.

    Attributes:
        url: scheme, host, port and path prefix, without a trailing slash.
        headers: sent with every request (a Host, never a credential).
        ca_file: CA bundle for https; None means the system's.
        server_name: for https, the name that the certificate must bear and that is asked for (SNI); empty means the
            URL's host.
        bearer_variable, bearer_file: where a bearer token stands; empty means that none is sent.
    """

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    server_name: str = ""
    bearer_variable: str = ""
    bearer_file: str = ""


@dataclass(frozen=True)
class Completion:
    """An answer: text, the server's token counts, the time it took (s), who served it (None: not said).

    `ttft_s` is the time to the first token, connecting included; None for an answer that was not streamed.
    `headers` are the response's, names in small letters; `body` is the request as sent.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None
    elapsed_s: float
    request_id: str
    replica: str | None
    ttft_s: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


class Inference:
    """Calls to one endpoint.

    Every call raises `Unreachable` (no answer in time) or `ApiError` (the server's own body as the reason).
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float = 60) -> None:
        self.endpoint = endpoint
        self._timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S)

    def models(self) -> list[str]:
        """Model ids of GET /v1/models."""
        answer = self._call("GET", "/v1/models")[0]
        try:
            return [str(model["id"]) for model in answer["data"]]
        except (KeyError, TypeError) as error:
            raise self._nonsense("the answer is no list of models", f"{error!r} in {answer!r:.300}") from None

    def complete(self, model: str, prompt: str, *, max_tokens: int, temperature: float | None = 0) -> Completion:
        """One completion, not streamed, with a request id of its own; a temperature of None is left to the server."""
        request_id = str(uuid.uuid4())
        body = _body(model, prompt, max_tokens, temperature)
        started = time.monotonic()
        answer, headers = self._call("POST", "/v1/completions", body, request_id)
        elapsed_s = time.monotonic() - started
        try:
            return _completion(answer["choices"][0]["text"], answer["usage"], elapsed_s, request_id, headers, body)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise self._nonsense("the answer is not a completion", f"{error!r} in {answer!r:.300}") from None

    def stream(self, model: str, prompt: str, *, max_tokens: int, request_id: str = "") -> Completion:
        """One streamed completion, with its time to the first token; the request id is made where none is given."""
        request_id = request_id or str(uuid.uuid4())
        body = _body(model, prompt, max_tokens) | {"stream": True, "stream_options": {"include_usage": True}}
        text, usage, ttft_s, ended, event = "", None, None, False, ""
        with self._http("POST", "/v1/completions") as (http, url):
            started = time.monotonic()
            headers, extensions = self._headers(request_id), self._extensions
            with http.stream("POST", url, json=body, headers=headers, extensions=extensions) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused("POST", "/v1/completions", response)
                try:
                    for event in _events(response):
                        ended = event == "[DONE]"
                        if ended:
                            break
                        piece = json.loads(event)
                        for choice in piece["choices"]:
                            if ttft_s is None:
                                ttft_s = time.monotonic() - started
                            text += choice["text"]
                        usage = piece.get("usage") or usage
                    elapsed_s = time.monotonic() - started
                    if not ended or usage is None:
                        raise ValueError("the stream ended early" if not ended else "no usage in the stream")
                    return _completion(text, usage, elapsed_s, request_id, response.headers, body, ttft_s)
                except (LookupError, TypeError, ValueError, AttributeError) as error:
                    raise self._nonsense(
                        "the answer is not a streamed completion", f"{error!r}; {event:.300}"
                    ) from None

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, request_id: str = ""
    ) -> tuple[dict[str, Any], httpx.Headers]:
        with self._http(method, path) as (http, url):
            headers, extensions = self._headers(request_id), self._extensions
            response = http.request(method, url, json=body, headers=headers, extensions=extensions)
        if response.status_code != 200:
            raise self._refused(method, path, response)
        try:
            answer = response.json()
        except ValueError:
            raise self._nonsense("the answer is not JSON", response.text[:300] or "(empty body)") from None
        if not isinstance(answer, dict):
            raise self._nonsense("the answer is no JSON object", response.text[:300])
        return answer, response.headers

    def _headers(self, request_id: str) -> dict[str, str]:
        bearer = authorization(self.endpoint.bearer_variable, self.endpoint.bearer_file)
        return self.endpoint.headers | bearer | ({"x-request-id": request_id} if request_id else {})

    @property
    def _extensions(self) -> dict[str, Any]:
        name = self.endpoint.server_name
        return {"sni_hostname": name} if name else {}

    @contextmanager
    def _http(self, method: str, path: str) -> Iterator[tuple[httpx.Client, str]]:
        """A client for one call and the URL; its errors become ours."""
        url = self.endpoint.url + path
        try:
            with httpx.Client(timeout=self._timeout, verify=self._verify, trust_env=True) as http:
                yield http, url
        except httpx.TimeoutException as error:
            connects = isinstance(error, httpx.ConnectTimeout)
            waited_s = _CONNECT_S if connects else self._timeout.read
            raise Unreachable(
                f"the gateway gave no {'connection' if connects else 'answer'} within {waited_s:g} s",
                where=f"{method} {url}",
                reason=str(error) or type(error).__name__,
                remedy="see how many requests wait at the replicas, and whether the endpoint picker answers"
                if not connects
                else "check the Gateway's address, and the network and firewalls from here to it",
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(
                "the gateway does not answer",
                where=f"{method} {url}",
                reason=str(error) or type(error).__name__,
                remedy="check the Gateway's address, its HTTPRoute, and the network from here to it",
            ) from None

    def _refused(self, method: str, path: str, response: httpx.Response) -> ApiError:
        return ApiError(
            f"the gateway answered {response.status_code}",
            where=f"{method} {self.endpoint.url}{path}",
            reason=response.text[:500] or "(empty body)",
            remedy="404: HTTPRoute; 500: endpoint picker; 503: no Ready replica",
        )

    def _nonsense(self, what: str, reason: str) -> ApiError:
        remedy = "check that the route leads to a server of the OpenAI API"
        return ApiError(what, where=self.endpoint.url, reason=reason, remedy=remedy)

    @cached_property
    def _verify(self) -> ssl.SSLContext:
        """Made once: loading the CA bundle takes longer than a request."""
        ca_file = self.endpoint.ca_file
        return httpx.create_ssl_context() if ca_file is None else ssl.create_default_context(cafile=ca_file)


def _body(model: str, prompt: str, max_tokens: int, temperature: float | None = 0) -> dict[str, Any]:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens}
    return body if temperature is None else body | {"temperature": temperature}


def _events(response: httpx.Response) -> Iterator[str]:
    """The data of server-sent events."""
    return (line.removeprefix("data:").strip() for line in response.iter_lines() if line.startswith("data:"))


def _completion(
    text: str,
    usage: dict[str, Any],
    elapsed_s: float,
    request_id: str,
    headers: httpx.Headers,
    body: dict[str, Any],
    ttft_s: float | None = None,
) -> Completion:
    return Completion(
        text=str(text),
        prompt_tokens=int(usage["prompt_tokens"]),
        output_tokens=int(usage["completion_tokens"]),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        elapsed_s=elapsed_s,
        request_id=request_id,
        replica=headers.get(REPLICA_HEADER),
        ttft_s=ttft_s,
        headers={name.lower(): value for name, value in headers.items()},
        body=body,
    )
