from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.drills.ground import Ground, ground_of
from tests.end_to_end.conftest import Sandbox, running

OPTIONS = ("--startup-scale", "0.01", "--node-grace-s", "10")


@pytest.fixture(scope="session")
def drill_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox for all drills: each puts back what it broke."""
    with running(tmp_path_factory.mktemp("state"), *OPTIONS) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def ground(drill_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with ground_of(drill_sandbox, tmp_path_factory.mktemp("drills")) as ground:
        yield ground
