"""A small cluster's objects, and a sandbox of the test's own."""

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_sandbox.gateway.objects import World
from llmd_sandbox.kube import key
from llmd_sandbox.site import Site

_FIELDS = {
    "GatewayClass": "classes",
    "Gateway": "gateways",
    "HTTPRoute": "routes",
    "InferencePool": "pools",
    "Service": "services",
    "Pod": "pods",
    "Namespace": "namespaces",
}


@pytest.fixture
def world() -> World:
    """The objects of objects.yaml, free to be changed."""
    found: dict[str, dict[str, Any]] = {name: {} for name in _FIELDS.values()}
    text = (Path(__file__).parent / "objects.yaml").read_text()
    for item in yaml.safe_load_all(text):
        found[_FIELDS[item["kind"]]][key(item)] = item
    return World(**found)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A sandbox below tmp_path with a block of addresses that nobody else has."""
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    for octet in random.sample(range(30, 250), 50):
        candidate = Site("gateway-test", octet, startup_scale=0.001)
        with socket.socket() as guard:
            try:
                guard.bind(candidate.guard_address)
            except OSError:
                continue
            guard.listen()
            yield candidate
            return
    raise RuntimeError("no block of loopback addresses is free")
