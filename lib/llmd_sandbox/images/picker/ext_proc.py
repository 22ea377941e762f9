"""Envoy's external processing protocol: one stream a request, in both of the body modes that gateways use.

FULL_DUPLEX_STREAMED: nothing is answered before the body is complete; then headers and body go back in order.
BUFFERED: the headers are let through at once, and the destination comes with the answer to the body.
Bodies are passed on byte by byte as they came, so that a Content-Length stays true where Envoy keeps it (BUFFERED);
where bodies stream it drops the header, whatever the picker sets.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.type.v3 import http_status_pb2
from google.protobuf import struct_pb2

from llmd_sandbox.images.picker.director import Choice, Director, Refusal
from llmd_sandbox.images.picker.event_log import DEFAULT, EventLog

DESTINATION = "x-gateway-destination-endpoint"
SEEN_RESPONSE = "x-went-into-resp-headers"
REQUEST_ID = "x-request-id"
OBJECTIVES = ("x-gateway-inference-objective", "x-llm-d-inference-objective")
CHUNK_BYTES = 62_000
"""Largest piece of a body in one message; Envoy takes 64 kB."""

_DUPLEX = processing_mode_pb2.ProcessingMode.FULL_DUPLEX_STREAMED


class ExternalProcessor:
    """The gRPC service."""

    def __init__(self, director: Director, log: EventLog) -> None:
        self._director = director
        self._log = log

    async def Process(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer one stream."""
        stream = _Stream(self._director)
        try:
            async for request in requests:
                for answer in stream.answers(request):
                    yield answer
        except Refusal as refusal:
            self._log.event(DEFAULT, "Failed to process request", **{REQUEST_ID: stream.request_id}, error=str(refusal))
            self._director.metrics.errors.labels(stream.model, stream.model, refusal.code).inc()
            yield _immediate(refusal)
        finally:
            stream.close()


class _Stream:
    """What is known of one HTTP request so far."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self._metrics = director.metrics
        self._duplex_request = self._duplex_response = False
        self._objective = ""
        self._body = bytearray()
        self._started_s = time.perf_counter()
        self._running = False
        self.request_id = ""
        self.model = ""

    def answers(self, request: Any) -> Iterator[Any]:
        """What to answer to one message, nothing if it has to wait.

        Raises:
            Refusal: the picker answers the client itself.
        """
        if request.HasField("protocol_config"):
            self._duplex_request = request.protocol_config.request_body_mode == _DUPLEX
            self._duplex_response = request.protocol_config.response_body_mode == _DUPLEX
        kind = request.WhichOneof("request")
        answer: Callable[[Any], Iterator[Any]] = getattr(self, f"_{kind}")
        return answer(getattr(request, kind))

    def close(self) -> None:
        """The stream has ended."""
        if self._running:
            self._running = False
            self._metrics.running.labels(self.model).dec()

    def _request_headers(self, message: Any) -> Iterator[Any]:
        self._started_s = time.perf_counter()
        headers = {h.key: h.raw_value.decode("latin-1") or h.value for h in message.headers.headers}
        self.request_id = headers.get(REQUEST_ID) or str(uuid.uuid4())
        self._objective = next((headers[name] for name in OBJECTIVES if name in headers), "")
        if message.end_of_stream:
            # No body means no model: upstream takes this for a GET and sends it anywhere.
            destination = self._director.any_destination()
            answer = pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=_route(destination)))
            answer.dynamic_metadata.CopyFrom(_metadata(destination))
            yield answer
        elif not self._duplex_request:
            yield pb.ProcessingResponse(request_headers=pb.HeadersResponse())

    def _request_body(self, message: Any) -> Iterator[Any]:
        self._body += message.body
        if message.end_of_stream:
            yield from self._send_on(end_of_stream=True)

    def _request_trailers(self, message: Any) -> Iterator[Any]:
        if self._duplex_request:
            yield from self._send_on(end_of_stream=False)
        yield pb.ProcessingResponse(request_trailers=pb.TrailersResponse())

    def _send_on(self, *, end_of_stream: bool) -> Iterator[Any]:
        body = bytes(self._body)
        choice = self._director.choose(self.request_id, self._objective, body)
        self._count(choice)
        route = _route(choice.destination)
        if not self._duplex_request:
            answer = pb.ProcessingResponse(request_body=pb.BodyResponse(response=route))
            answer.dynamic_metadata.CopyFrom(_metadata(choice.destination))
            yield answer
            return
        first = pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=route))
        first.dynamic_metadata.CopyFrom(_metadata(choice.destination))
        yield first
        for piece in _pieces(body, end_of_stream):
            yield pb.ProcessingResponse(request_body=pb.BodyResponse(response=piece))

    def _count(self, choice: Choice) -> None:
        self.model = choice.model
        self._metrics.requests.labels(self.model, self.model).inc()
        self._metrics.running.labels(self.model).inc()
        self._running = True

    def _response_headers(self, message: Any) -> Iterator[Any]:
        mutation = pb.HeaderMutation(set_headers=[_header(SEEN_RESPONSE, "true")])
        yield pb.ProcessingResponse(
            response_headers=pb.HeadersResponse(response=pb.CommonResponse(header_mutation=mutation))
        )
        if message.end_of_stream:
            self._finish()

    def _response_body(self, message: Any) -> Iterator[Any]:
        if self._duplex_response:
            for piece in _pieces(message.body, message.end_of_stream):
                yield pb.ProcessingResponse(response_body=pb.BodyResponse(response=piece))
        else:
            yield pb.ProcessingResponse(response_body=pb.BodyResponse())
        if message.end_of_stream:
            self._finish()

    def _response_trailers(self, message: Any) -> Iterator[Any]:
        yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())
        self._finish()

    def _finish(self) -> None:
        if self.model:
            self._metrics.duration_s.labels(self.model, self.model).observe(time.perf_counter() - self._started_s)


def _route(destination: str) -> Any:
    mutation = pb.HeaderMutation(set_headers=[_header(DESTINATION, destination)])
    return pb.CommonResponse(header_mutation=mutation, clear_route_cache=True)


def _header(key: str, value: str) -> Any:
    return base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=key, raw_value=value.encode()),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _metadata(destination: str) -> Any:
    inner = struct_pb2.Struct(fields={DESTINATION: struct_pb2.Value(string_value=destination)})
    return struct_pb2.Struct(fields={"envoy.lb": struct_pb2.Value(struct_value=inner)})


def _pieces(body: bytes, end_of_stream: bool) -> Iterator[Any]:
    """The body in messages that Envoy takes; one empty message for an empty body."""
    for start in range(0, max(1, len(body)), CHUNK_BYTES):
        last = end_of_stream and start + CHUNK_BYTES >= len(body)
        piece = pb.StreamedBodyResponse(body=body[start : start + CHUNK_BYTES], end_of_stream=last)
        yield pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=piece))


def _immediate(refusal: Refusal) -> Any:
    status = http_status_pb2.HttpStatus(code=refusal.status)
    return pb.ProcessingResponse(immediate_response=pb.ImmediateResponse(status=status, body=str(refusal).encode()))
