"""An ext_proc server in a process of its own (gRPC and fork do not go together): ADDRESS ENDPOINT RECORD [REFUSAL].

It holds each request until its body is there, then sends it to ENDPOINT, or answers 503 with REFUSAL. What it was
sent is in the file RECORD, a JSON line a request.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

BUFFERED = 2


class Picker:
    def __init__(self, endpoint: str, record: str, refusal: str = "") -> None:
        self.endpoint, self.record, self.refusal = endpoint, record, refusal

    async def process(self, requests: AsyncIterator[Any], _context: object) -> AsyncIterator[Any]:
        body, mode, headers = b"", 0, {}
        async for request in requests:
            kind = request.WhichOneof("request")
            if request.HasField("protocol_config"):
                mode = request.protocol_config.request_body_mode
            if kind == "request_headers":
                headers = {h.key: h.raw_value.decode() for h in request.request_headers.headers.headers}
                if request.request_headers.end_of_stream:
                    yield self.choose("request_headers", mode, headers, body)
                elif mode == BUFFERED:
                    yield ext_proc.ProcessingResponse(request_headers={})
            elif kind == "request_body":
                body += request.request_body.body
                if not request.request_body.end_of_stream:
                    continue
                chosen = "request_body" if mode == BUFFERED else "request_headers"
                yield self.choose(chosen, mode, headers, body)
                if mode != BUFFERED:
                    yield streamed("request_body", body, True)
            elif kind == "response_body":
                part = request.response_body
                yield streamed("response_body", part.body, part.end_of_stream)
            elif kind == "response_headers":
                yield with_header("response_headers", "x-went-into-resp-headers", "true")
            else:
                yield ext_proc.ProcessingResponse(**{kind: {}})

    def choose(self, kind: str, mode: int, headers: dict[str, str], body: bytes) -> Any:
        with open(self.record, "a") as file:
            file.write(json.dumps({"mode": mode, "headers": headers, "body": body.decode()}) + "\n")
        if self.refusal:
            refusal = {"status": {"code": 503}, "body": self.refusal.encode()}
            return ext_proc.ProcessingResponse(immediate_response=refusal)
        return with_header(kind, "x-gateway-destination-endpoint", self.endpoint)


def with_header(kind: str, name: str, value: str) -> Any:
    header = {"key": name, "raw_value": value.encode()}
    mutation = {"set_headers": [{"header": header}]}
    return ext_proc.ProcessingResponse(**{kind: {"response": {"header_mutation": mutation}}})


def streamed(kind: str, body: bytes, end: bool) -> Any:
    mutation = {"streamed_response": {"body": body, "end_of_stream": end}}
    return ext_proc.ProcessingResponse(**{kind: {"response": {"body_mutation": mutation}}})


async def main(address: str, *words: str) -> None:
    handler = grpc.stream_stream_rpc_method_handler(
        Picker(*words).process,
        request_deserializer=ext_proc.ProcessingRequest.FromString,
        response_serializer=ext_proc.ProcessingResponse.SerializeToString,
    )
    service = "envoy.service.ext_proc.v3.ExternalProcessor"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Process": handler}),))
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
