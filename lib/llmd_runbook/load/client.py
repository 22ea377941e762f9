"""One completion, streamed or whole: stamped as it arrives, parsed only after the run."""

from __future__ import annotations

import itertools
import json
import ssl
import time
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp

from llmd_runbook.clients import bearer
from llmd_runbook.load.plan import Plan, Prompt
from llmd_runbook.load.samples import Sample
from llmd_runbook.load.timing import TimedBody, TimedConnector, TimedResponse

_DONE = b"data: [DONE]"
_DETAIL_CHARACTERS = 500


@dataclass
class Exchange:
    """A request as it happened; the answer is still bytes. Times are seconds from the start of the run.

    `events_s` are the arrivals of the answer's events, in order.
    """

    index: int
    due_s: float
    sent_s: float
    request_id: str
    streamed: bool = True
    done_s: float = 0.0
    events_s: list[float] = field(default_factory=list)
    status: int | None = None
    failure: str | None = None
    detail: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def looks_good(self) -> bool:
        """Whether it ended well, as far as can be told without parsing."""
        whole = not self.streamed or any(_DONE in chunk for chunk in self.chunks[-2:])
        return self.failure is None and self.status == 200 and whole


class Sender:
    """Sends the plan's requests over one pool of connections; bodies are encoded beforehand.

    `origin` is the `time.perf_counter` of the run's start.
    """

    def __init__(self, plan: Plan, session: aiohttp.ClientSession, origin: float) -> None:
        self._session, self._origin, self._streamed = session, origin, plan.streamed
        self._url = plan.url.rstrip("/") + ("/v1/chat/completions" if plan.api == "chat" else "/v1/completions")
        self._headers = {
            "Accept-Encoding": "identity",
            **plan.headers,
            **authorization(plan),
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if plan.streamed else "application/json",
        }
        self._server_name = plan.server_name or None
        self._ids = itertools.count()
        self._run_id = str(uuid.uuid4())[:-12]  # a call of the system for each would cost more than the sending
        self._keep = {name.lower() for name in plan.keep_headers}
        self._bodies = [_body(plan, prompt) for prompt in plan.prompts]

    async def send(self, index: int, due_s: float) -> Exchange:
        """Send one request and take in its answer; a failure is an exchange too, never an exception."""
        request_id = f"{self._run_id}{next(self._ids):012x}"
        exchange, arrivals = Exchange(index, due_s, self._now(), request_id, self._streamed), None
        body = TimedBody(self._bodies[index], content_type="application/json")
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers={**self._headers, "x-request-id": exchange.request_id},
                server_hostname=self._server_name,
            ) as response:
                assert isinstance(response, TimedResponse)
                arrivals = response.arrivals
                exchange.status = response.status
                exchange.headers = {name: response.headers[name] for name in self._keep if name in response.headers}
                async for chunk in response.content.iter_any():
                    exchange.chunks.append(chunk)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            exchange.failure = _kind(error)
            exchange.detail = str(error) or type(error).__name__
        exchange.done_s = self._now()
        if body.sent is not None:
            exchange.sent_s = body.sent - self._origin
        if arrivals is not None:
            exchange.events_s = [at - self._origin for at in arrivals.events]
            if exchange.failure is None and arrivals.last is not None:
                exchange.done_s = arrivals.last - self._origin
        return exchange

    def _now(self) -> float:
        return time.perf_counter() - self._origin


def open_session(plan: Plan) -> aiohttp.ClientSession:
    """A pool without a limit of its own, so that the schedule alone decides what is in flight."""
    context: ssl.SSLContext | bool = True
    if plan.ca_file is not None:
        context = ssl.create_default_context(cafile=plan.ca_file)
    return aiohttp.ClientSession(
        connector=TimedConnector(context),
        response_class=TimedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),  # requests are of many users, whom no cookie binds to one backend
        timeout=aiohttp.ClientTimeout(total=plan.request_timeout_s, sock_connect=plan.connect_timeout_s),
        proxy=_proxy(plan.url),
    )


def _proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL; looked up once, where aiohttp would for every request."""
    parts = urllib.parse.urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def parse(exchange: Exchange, group: str) -> Sample:
    """The sample of an exchange; to be called when no clock runs."""
    raw = b"".join(exchange.chunks)
    events = _events(raw) if exchange.streamed else _answer(raw)
    usage: dict[str, Any] = next((event["usage"] for event in reversed(events) if event.get("usage")), {})
    error, detail = _judge(exchange, events)
    texts = [_has_text(event) for event in events]
    known = len(events) == len(exchange.events_s)  # else something between cut the stream in its own way
    tokens_s = [at for at, text in zip(exchange.events_s, texts, strict=True) if text] if known else []
    return Sample(
        index=exchange.index,
        group=group,
        due_s=exchange.due_s,
        sent_s=exchange.sent_s,
        first_token_s=tokens_s[0] if tokens_s else None,
        gaps_s=tuple(round(later - at, 6) for at, later in pairwise(tokens_s)),
        done_s=exchange.done_s,
        status=exchange.status,
        error=error,
        detail=detail[:_DETAIL_CHARACTERS],
        prompt_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        events=sum(texts) if exchange.streamed else 0,
        request_id=exchange.request_id,
        headers=exchange.headers,
        body_bytes=len(raw),
    )


def authorization(plan: Plan) -> dict[str, str]:
    """The bearer token, which stands in the environment or a file and nowhere else.

    Raises:
        UsageError: it is not there.
    """
    return bearer.authorization(plan.bearer_variable, plan.bearer_file)


def _has_text(event: dict[str, Any]) -> bool:
    """Whether an event brings text: a chat's first one brings a role alone."""
    choices = event.get("choices") or []
    return any(choice.get("text") or (choice.get("delta") or {}).get("content") for choice in choices)


def _body(plan: Plan, prompt: Prompt) -> bytes:
    body: dict[str, Any] = {
        "model": plan.model,
        **_asked(plan, prompt),
        "max_tokens": prompt.output_tokens or plan.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
    }
    if plan.streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def _asked(plan: Plan, prompt: Prompt) -> dict[str, Any]:
    if plan.api == "completions":
        return {"prompt": f"{prompt.system} {prompt.text}" if prompt.system else prompt.text}
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return {"messages": [*system, {"role": "user", "content": prompt.text}]}


def _judge(exchange: Exchange, events: list[dict[str, Any]]) -> tuple[str | None, str]:
    raw = b"".join(exchange.chunks)
    if exchange.failure:
        return exchange.failure, exchange.detail
    if exchange.status != 200:
        return f"http_{exchange.status}", raw.decode(errors="replace")
    failed = next((event["error"] for event in events if "error" in event), None)
    if failed is not None:
        return "stream_error", json.dumps(failed)
    if not exchange.streamed:
        whole = any(event.get("choices") for event in events)
        return (None, "") if whole else ("truncated", "the answer is no whole completion")
    if _DONE not in raw:
        return "truncated", "the stream ended without [DONE]"
    return None, ""


def _events(raw: bytes) -> list[dict[str, Any]]:
    """The JSON objects of a stream of server-sent events; what is none is left out."""
    found = []
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                found.append(json.loads(line.removeprefix(b"data: ")))
            except ValueError:
                continue  # cut off in the middle: the missing [DONE] tells
    return found


def _answer(raw: bytes) -> list[dict[str, Any]]:
    """The one JSON object of an answer that was not streamed; none where it is something else."""
    try:
        found = json.loads(raw)
    except ValueError:
        return []
    return [found] if isinstance(found, dict) else []


def _kind(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "connect"
    return "disconnected"
