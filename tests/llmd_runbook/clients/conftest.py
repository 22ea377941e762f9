from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llmd_runbook.clients.kubernetes import Kubernetes, connect
from tests.guards import anything
from tests.llmd_runbook.clients.server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """A kubeconfig with the context `here` for the server, and a token."""
    path = tmp_path / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"token": "the-token-of-this-test"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def kube(kubeconfig: Path) -> Kubernetes:
    return connect("", str(kubeconfig), before_change=anything)
