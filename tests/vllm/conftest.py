"""Two servers for all tests of this folder, both on loopback addresses of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest
from rich.console import Console

from llmd_sandbox.site import SIMULATOR, VLLM
from tests.vllm.differences import table
from tests.vllm.servers import server


@dataclass(frozen=True)
class Pair:
    """The two engines, serving the same model by the same words."""

    simulated: httpx.Client
    real: httpx.Client


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(server(engine, address, tmp_path_factory.mktemp(engine)))
            for engine, address in ((SIMULATOR, "127.254.77.1"), (VLLM, "127.254.77.2"))
        ]
        yield Pair(*clients)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of differences, after tests that compared."""
    passed = terminalreporter.stats.get("passed", [])
    if any(report.nodeid.startswith("tests/vllm/test_contract.py") for report in passed):
        Console(width=160).print(table())
