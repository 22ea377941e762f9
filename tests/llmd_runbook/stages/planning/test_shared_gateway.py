"""A Gateway that serves both patterns does not go with one of them."""

from __future__ import annotations

from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.errors import ProfileError
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import cleanup_plan, site
from llmd_runbook.stages.planning import beside, gate, owned, shared_gateway
from llmd_runbook.stages.planning.facts import rendered
from llmd_runbook.stages.swap import plan
from tests.llmd_runbook.conftest import PROFILE, Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import Releases
from tests.llmd_runbook.stages.rendered import gateway

NO_WAY_BACK = "swap: {rollback: never}\n"
KEPT = ("infra-one", "other", "")
"""Gateways that are not the one of the profile's patterns, which is g; or none."""


class WithGateway(Releases):
    gateway = ""

    def render(self) -> list[Object]:
        return [*super().render(), *([gateway(self.gateway)] if self.gateway else [])]


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> dict[str, WithGateway]:
    """The releases of each model."""
    made = {model: WithGateway(f"ms-{model}", present=True) for model in "ab"}
    monkeypatch.setattr(site, "driver", lambda _, pattern: made[pattern.model])
    monkeypatch.setattr(site, "kubernetes", lambda _: Memory())
    return made


def refuse(profile: Profile) -> None:
    removed, stays = rendered(profile, profile.pattern1), rendered(profile, profile.pattern3)
    shared_gateway.refuse(profile, removed=removed, stays=stays)


def test_the_gateway_of_the_pattern_that_stays_is_not_removed(bench: Bench, releases: dict[str, WithGateway]) -> None:
    releases["a"].gateway = "g"
    with pytest.raises(ProfileError, match="would remove the Gateway that b is served through") as caught:
        refuse(bench.profile)
    assert "Gateway llm-d/g" in str(caught.value.where)
    assert caught.value.reason == "it is rendered by ms-a alone; its address would go with it"


@pytest.mark.parametrize("name", KEPT)
def test_another_gateway_may_go(bench: Bench, releases: dict[str, WithGateway], name: str) -> None:
    releases["a"].gateway = name
    refuse(bench.profile)


def test_one_that_comes_with_the_pattern_that_stays_may_go(bench: Bench, releases: dict[str, WithGateway]) -> None:
    releases["a"].gateway = releases["b"].gateway = "g"
    refuse(bench.profile)


@pytest.mark.parametrize(
    ("model", "settings", "refused"),
    [
        ("a", "", True),
        ("b", "", True),
        ("a", "swap: {rollback: never}\n", True),
        ("b", "swap: {rollback: never}\n", False),
    ],
)
def test_the_swap_is_planned_for_neither_way(
    bench: Bench,
    releases: dict[str, WithGateway],
    open_stage: Any,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    settings: str,
    refused: bool,
) -> None:
    """Pattern 3 is removed only by a way back."""
    bench.profile_file.write_text(PROFILE + settings)
    releases[model].gateway = "g"
    stage: StageRun = open_stage("03_swap_patterns")
    reached: list[object] = []
    monkeypatch.setattr(beside, "before", lambda *_: reached.append(True))
    monkeypatch.setattr(owned, "refuse", lambda *_, **__: None)
    monkeypatch.setattr(gate, "propose", lambda *_, **__: None)
    if refused:
        with pytest.raises(ProfileError, match="would remove the Gateway"):
            plan.plan(stage)
    else:
        plan.plan(stage)
    assert bool(reached) is not refused


@pytest.mark.parametrize(("option", "refused"), [("restore_pattern1", True), ("delete", False)])
def test_cleaning_up_takes_no_gateway_from_pattern_1(
    bench: Bench,
    releases: dict[str, WithGateway],
    open_stage: Any,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    refused: bool,
) -> None:
    bench.profile_file.write_text(PROFILE.replace("option: delete", f"option: {option}"))
    releases["b"].gateway = "g"
    stage: StageRun = open_stage("07_cleanup")
    monkeypatch.setattr(beside, "before", lambda *_: None)
    monkeypatch.setattr(owned, "refuse", lambda *_, **__: None)
    monkeypatch.setattr(gate, "propose", lambda *_, **__: None)
    if refused:
        with pytest.raises(ProfileError, match="would remove the Gateway that a is served through"):
            cleanup_plan.plan(stage)
    else:
        cleanup_plan.plan(stage)
