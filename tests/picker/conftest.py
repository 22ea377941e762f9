"""A sandbox whose pickers' image is a real endpoint picker, as `LLMD_SANDBOX_EPP` names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from llmd_sandbox import given
from llmd_sandbox.errors import NotToBeHad
from tests.end_to_end.conftest import Sandbox, running
from tests.picker.generation import Prepared, prepare


@dataclass(frozen=True)
class Picker:
    """What a profile needs for the binary, and a sandbox in which it works."""

    prepared: Prepared
    sandbox: Sandbox


@pytest.fixture(scope="session")
def picker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Picker]:
    """The sandbox with Pattern 1 serving through the real picker; without a binary the lane does not pass."""
    try:
        epp = given.picker()
    except NotToBeHad as error:
        pytest.exit(str(error), returncode=os.EX_UNAVAILABLE)
    prepared = prepare(epp, "sandbox", tmp_path_factory.mktemp("parameters"))
    with running(tmp_path_factory.mktemp("state"), "--values", prepared.values) as sandbox:
        yield Picker(prepared, sandbox)
