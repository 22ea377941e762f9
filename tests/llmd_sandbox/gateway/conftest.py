"""A small cluster's objects."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_sandbox.gateway.objects import World
from llmd_sandbox.kube import key

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
