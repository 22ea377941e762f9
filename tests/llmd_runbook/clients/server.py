"""An HTTP server in a thread that gives scripted answers: lists, watches, refusals, garbage, silence."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Reply:
    """A whole answer; a body that is no text is sent as JSON."""

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)


class Stream:
    """A chunked answer that the test writes, line by line, while it is read."""

    def __init__(self, *events: Any) -> None:
        self._chunks: queue.Queue[bytes | None] = queue.Queue()
        self.cut = False
        for event in events:
            self.send(event)

    def send(self, event: Any) -> Stream:
        """One line: text as it is, anything else as JSON."""
        line = event if isinstance(event, str) else json.dumps(event)
        self._chunks.put(line.encode() + b"\n")
        return self

    def end(self, *, cut: bool = False) -> Stream:
        """The end of the answer; `cut`: in the middle of a chunk, as when a server dies."""
        self.cut = cut
        self._chunks.put(None)
        return self

    def chunks(self, stopped: threading.Event) -> Iterator[bytes]:
        """What was sent, until the end or until the server stops."""
        while not stopped.is_set():
            try:
                chunk = self._chunks.get(timeout=0.05)
            except queue.Empty:
                continue
            if chunk is None:
                return
            yield chunk


class Silence:
    """No answer at all, until the server stops."""


class Cut:
    """The connection ends before the answer."""


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str


Answer = Reply | Stream | Silence | Cut


class Server:
    """Answers by path, in the order given; the last answer of a path repeats."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self.answers: dict[str, list[Answer]] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def answer(self) -> None:
                outer.serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing: the test looks at `requests`."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def on(self, path: str, *answers: Answer) -> None:
        """What a path answers; `?watch` at its end means its watches."""
        self.answers[path] = list(answers)

    def asked(self, path: str) -> list[Request]:
        """The requests for a path, watches apart as in `on`."""
        return [request for request in self.requests if _key(request) == path]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        parts = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        body = handler.rfile.read(int(handler.headers.get("content-length", 0))).decode()
        headers = {key.lower(): value for key, value in handler.headers.items()}
        request = Request(handler.command, parts.path, query, headers, body)
        with self._lock:
            self.requests.append(request)
            left = self.answers.get(_key(request), [Reply(404, status(404, "NotFound", f"no {parts.path}"))])
            answer = left.pop(0) if len(left) > 1 else left[0]
        match answer:
            case Silence():
                self.stopped.wait(10)
                handler.close_connection = True
            case Cut():
                handler.close_connection = True
            case Reply():
                _whole(handler, answer)
            case Stream():
                self._streamed(handler, answer)

    def _streamed(self, handler: BaseHTTPRequestHandler, answer: Stream) -> None:
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for chunk in answer.chunks(self.stopped):
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.write(b"40\r\n{" if answer.cut else b"0\r\n\r\n")
        handler.close_connection = True


def _key(request: Request) -> str:
    return request.path + ("?watch" if "watch" in request.query else "")


def _whole(handler: BaseHTTPRequestHandler, answer: Reply) -> None:
    data = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
    handler.send_response(answer.status)
    for name, value in {"content-length": str(len(data)), **answer.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    """A refusal as the API server words it."""
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port, gone at the end."""
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.http.shutdown()
        thread.join(5)
        server.http.server_close()
    assert not thread.is_alive()
