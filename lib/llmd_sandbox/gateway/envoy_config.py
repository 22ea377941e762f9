"""The pieces of Envoy's configuration, as the JSON form of its v3 API. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Config = dict[str, Any]

DESTINATION_HEADER = "x-gateway-destination-endpoint"
"""Where the endpoint picker writes the chosen pod's address; never taken from a client."""

EXT_PROC, FAULT = "envoy.filters.http.ext_proc", "envoy.filters.http.fault"
MESSAGE_TIMEOUT_S = 10
"""How long Envoy waits for an answer of the picker. While a request's body streams to it Envoy keeps no such time:
a picker that hangs holds the request until the client or the idle time-out ends it."""

STREAM_IDLE_S = 300
SERVICE_TIMEOUT_S = 30
"""What GKE gives a backend without a policy of its own."""

POOL_KEEPALIVE_S = 4
"""Below the 5 s after which uvicorn, and so vLLM, closes idle connections: no request meets a closing one."""

BUFFER_LIMIT_BYTES = 32 << 20
_TYPE = "type.googleapis.com/envoy."


class BodyMode(StrEnum):
    """How bodies travel to the picker: as they come, or the request's in one piece and no response's."""

    FULL_DUPLEX_STREAMED = "FULL_DUPLEX_STREAMED"
    BUFFERED = "BUFFERED"


@dataclass(frozen=True)
class Paths:
    """Where Envoy reads its configuration and writes what it served."""

    files: Path
    access_log: Path

    def resource(self, kind: str) -> Path:
        """The file of all resources of a kind: `cds` or `lds`."""
        return self.files / f"{kind}.json"

    def routes(self, name: str) -> Path:
        """The file of one route configuration; a namespace has no dots, so names cannot meet."""
        return self.files / f"rds.{name.replace('/', '.')}.json"


@dataclass(frozen=True)
class Snapshot:
    """A whole configuration: clusters and listeners, and route configurations by name."""

    clusters: list[Config] = field(default_factory=list)
    routes: dict[str, Config] = field(default_factory=dict)
    listeners: list[Config] = field(default_factory=list)


def file_source(path: Path) -> Config:
    """A configuration source that Envoy reads again whenever a file is moved to `path`."""
    return {"resource_api_version": "V3", "path_config_source": {"path": str(path)}}


def bootstrap(paths: Paths, admin: tuple[str, int]) -> Config:
    """What Envoy starts with: an admin address, and where the rest is."""
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": _address(*admin)},
        "dynamic_resources": {
            "cds_config": file_source(paths.resource("cds")),
            "lds_config": file_source(paths.resource("lds")),
        },
    }


def listener(name: str, address: str, port: int, paths: Paths) -> Config:
    """A listener that takes its routes from the route configuration of the same name.

    Nothing in it depends on routes or pools, so that those change without a listener being drained.
    """
    manager = {
        "@type": _TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": name, "config_source": file_source(paths.routes(name))},
        "use_remote_address": True,
        "internal_address_config": {},
        "preserve_external_request_id": True,
        "normalize_path": True,
        "stream_idle_timeout": f"{STREAM_IDLE_S}s",
        "access_log": [_access_log(paths.access_log)],
        "early_header_mutation_extensions": [_strip_destination()],
        "http_filters": [_fault_filter(), _picker_filter(), _router()],
    }
    return {
        "name": name,
        "address": _address(address, port),
        "enable_reuse_port": False,  # two processes on one port would share its connections silently
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT_BYTES,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def abort(status: int) -> Config:
    """Per-route filter configuration that answers `status`, `fault filter abort`, as GKE does."""
    percentage = {"numerator": 100, "denominator": "HUNDRED"}
    return {FAULT: {**_fault_type(), "abort": {"http_status": status, "percentage": percentage}}}


def picker(cluster: str, mode: BodyMode, fail_open: bool) -> Config:
    """Per-route filter configuration that asks the picker behind `cluster`."""
    streamed = mode is BodyMode.FULL_DUPLEX_STREAMED
    trailers = "SEND" if streamed else "SKIP"
    return {
        EXT_PROC: {
            "@type": _TYPE + "extensions.filters.http.ext_proc.v3.ExtProcPerRoute",
            "overrides": {
                "grpc_service": {"envoy_grpc": {"cluster_name": cluster}},
                "failure_mode_allow": fail_open,
                "processing_mode": {
                    "request_header_mode": "SEND",
                    "request_body_mode": mode.value,
                    "request_trailer_mode": trailers,
                    "response_header_mode": "SEND",
                    "response_body_mode": mode.value if streamed else "NONE",
                    "response_trailer_mode": trailers,
                },
            },
        }
    }


def static_cluster(name: str, endpoints: Iterable[tuple[str, int]]) -> Config:
    """A cluster of known endpoints, served in turn."""
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(*endpoint)}} for endpoint in endpoints]}],
        },
    }


def picker_cluster(name: str, endpoints: Iterable[tuple[str, int]], secure: bool) -> Config:
    """A picker's gRPC endpoints; `secure` takes any certificate, for pickers sign their own."""
    config = {**static_cluster(name, endpoints), **_http(2)}
    if secure:
        config["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _TYPE + "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["h2"]},
            },
        }
    return config


def chosen_cluster(name: str) -> Config:
    """The endpoint that the picker chose, whichever it is; without a choice there is none."""
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "2s",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION_HEADER},
        **_http(1),
    }


def chosen_or_any_cluster(name: str, endpoints: Iterable[tuple[str, int]]) -> Config:
    """The endpoint that the picker chose, or any of `endpoints` in turn when it chose none."""
    config = {**static_cluster(name, endpoints), **_http(1)}
    in_turn = {
        "name": "envoy.load_balancing_policies.round_robin",
        "typed_config": {"@type": _TYPE + "extensions.load_balancing_policies.round_robin.v3.RoundRobin"},
    }
    override = {
        "@type": _TYPE + "extensions.load_balancing_policies.override_host.v3.OverrideHost",
        "override_host_sources": [{"header": DESTINATION_HEADER}],
        "fallback_policy": {"policies": [{"typed_extension_config": in_turn}]},
    }
    policy = {"name": "envoy.load_balancing_policies.override_host", "typed_config": override}
    config["load_balancing_policy"] = {"policies": [{"typed_extension_config": policy}]}
    return config


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}


def _http(version: int) -> Config:
    name = _TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions"
    own: Config = {"http2_protocol_options" if version == 2 else "http_protocol_options": {}}
    options: Config = {"@type": name, "explicit_http_config": own}
    if version == 1:
        options["common_http_protocol_options"] = {"idle_timeout": f"{POOL_KEEPALIVE_S}s"}
    return {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}}


def _fault_type() -> Config:
    return {"@type": _TYPE + "extensions.filters.http.fault.v3.HTTPFault"}


def _fault_filter() -> Config:
    return {"name": FAULT, "disabled": True, "typed_config": _fault_type()}


def _picker_filter() -> Config:
    """Disabled until a route names its picker; the cluster here is only what the schema asks for."""
    return {
        "name": EXT_PROC,
        "disabled": True,
        "typed_config": {
            "@type": _TYPE + "extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "picker"}},
            "message_timeout": f"{MESSAGE_TIMEOUT_S}s",
            "metadata_options": {"receiving_namespaces": {"untyped": ["envoy.lb"]}},
        },
    }


def _router() -> Config:
    kind = _TYPE + "extensions.filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind}}


def _strip_destination() -> Config:
    kind = _TYPE + "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {"@type": kind, "mutations": [{"remove": DESTINATION_HEADER}]},
    }


def _access_log(path: Path) -> Config:
    fields = {
        "start_time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "authority": "%REQ(:AUTHORITY)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "response_code_details": "%RESPONSE_CODE_DETAILS%",
        "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
        "upstream_host": "%UPSTREAM_HOST%",
        "duration_ms": "%DURATION%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": _TYPE + "extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": fields},
        },
    }
