"""A sandbox of the test's own."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_sandbox.site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A sandbox below tmp_path with a block of addresses that nobody else has."""
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    for octet in random.sample(range(30, 250), 50):
        candidate = Site("sandbox-test", octet, startup_scale=0.001)
        with socket.socket() as guard:
            try:
                guard.bind(candidate.guard_address)
            except OSError:
                continue
            guard.listen()
            yield candidate
            return
    raise RuntimeError("no block of loopback addresses is free")
