"""What a surge does before a client meets Pattern 3, and what is told for a way back by hand; nothing is asked for."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.clients.inference import Completion, Endpoint
from llmd_runbook.errors import GateFailed
from llmd_runbook.profile import PARAMETERS, Pattern, Profile, load
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages import verify
from llmd_runbook.stages.load import measurement, traffic
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.swap import by_hand, compare, surge
from llmd_runbook.verdicts import CheckSpec
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages import loads

Open = Callable[[str], StageRun]
HERE = Endpoint("http://gateway")
STEPS = {
    "replicas_and_gpus": (verify.REPLICAS, verify.GPUS),
    "answers": (verify.MODELS, verify.ANSWER),
    "prefix_caching": (verify.CACHING,),
    "scorer_weights": (verify.WEIGHTS,),
}
"""Stage 04's cells with the checks that each judges."""


@pytest.fixture
def prove(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None, CheckSpec], Endpoint]:
    """Stage 04's checks by our own route, one of which has that verdict and the others pass."""
    seen: list[Endpoint | None] = []
    answer = Completion("hello", 1, 1, None, 0.1, "id", None)
    monkeypatch.setattr(traffic, "open_own", lambda *_: None)
    monkeypatch.setattr(traffic, "wait_for_answer", lambda *_: answer)

    def proved(verdict: bool | None, of: CheckSpec) -> Endpoint:
        def judging(specs: tuple[CheckSpec, ...]) -> Callable[..., None]:
            def judge(stage: StageRun, via: Endpoint | None = None) -> None:
                seen.append(via)
                for spec in specs:
                    ok = verdict if spec is of else True
                    stage.check(spec.judge(ok, expected="3", observed="0", remedy="" if ok else "mend it"))

            return judge

        for name, specs in STEPS.items():
            monkeypatch.setattr(verify, name, judging(specs))
        own = surge._prove(open_stage("03_swap_patterns"), Memory(), HERE)
        assert own in seen  # and not the clients' address
        return own

    return proved


@pytest.mark.parametrize("spec", verify.CHECKS, ids=lambda spec: spec.id)
def test_each_check_of_stage_04_keeps_the_clients_away_where_it_fails(
    prove: Callable[[bool | None, CheckSpec], Endpoint], spec: CheckSpec
) -> None:
    with pytest.raises(GateFailed, match="no client has met it") as caught:
        prove(False, spec)
    assert spec.id in caught.value.what
    assert caught.value.reason == "expected 3; observed 0"
    assert caught.value.remedy == "mend it"


def test_what_passes_is_asked_for_by_a_header_that_no_client_sends(
    prove: Callable[[bool | None, CheckSpec], Endpoint],
) -> None:
    assert prove(True, verify.MODELS).headers == {traffic.OWN_HEADER: "three"}


def test_all_of_stage_04s_checks_are_among_them() -> None:
    assert {spec.id for specs in STEPS.values() for spec in specs} == {spec.id for spec in verify.CHECKS}


def test_both_patterns_are_measured_by_turns_the_first_one_changing(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, int]] = []

    def measure(_: Profile, target: Endpoint, pattern: Pattern, __: int, step: StepHandle, *, seed: int) -> Measured:
        asked.append((target.url, pattern.model, seed))
        return loads.load(20.0)

    monkeypatch.setattr(measurement, "measure", measure)
    stage = open_stage("03_swap_patterns")
    swap = stage.profile.swap.model_copy(update={"compare_rounds": 2})
    stage.profile = stage.profile.model_copy(update={"swap": swap})
    compare.measure(stage, Endpoint("old"), Endpoint("new"))
    assert [(url, model) for url, model, _ in asked] == [("old", "a"), ("new", "b"), ("new", "b"), ("old", "a")]
    seeds = [seed for *_, seed in asked]
    assert (seeds[0], seeds[2]) == (seeds[1], seeds[3])  # both patterns of a round get the same prompts
    assert seeds[0] != seeds[2]  # which no cache has yet
    kept = stage.finish().data[compare.KEY]
    assert [(entry["round"], entry["pattern"]) for entry in kept] == [
        *((1, "pattern1"), (1, "pattern3")),
        *((2, "pattern3"), (2, "pattern1")),
    ]


def told(profile: Profile) -> list[list[str]]:
    return [shlex.split(command) for command in by_hand.commands(profile, "ctx")]


def at(profile: Profile, kubeconfig: str) -> Profile:
    return profile.model_copy(update={"cluster": profile.cluster.model_copy(update={"kubeconfig": kubeconfig})})


def test_the_commands_for_helm_name_cluster_and_namespace_each(tmp_path: Path) -> None:
    profile = at(load(str(PARAMETERS / "sandbox.yaml")), str(tmp_path / "config"))
    route, own, remove, *install = told(profile)
    assert route[:2] == ["echo", route[1]]
    assert '"gaie-pattern1"' in route[1]
    assert own[-4:] == ["delete", "httproute", "llm-d-route-to-gaie-pattern3", "--ignore-not-found"]
    assert remove[:4] == ["helm", "uninstall", "ms-pattern3", "gaie-pattern3"]
    assert [words[:4] for words in install] == [
        ["helm", "upgrade", "--install", "gaie-pattern1"],
        ["helm", "upgrade", "--install", "ms-pattern1"],
    ]
    for words in (route, own, remove, *install):
        assert words[words.index("--namespace") + 1] == "llm-d"
        assert words[words.index("--kubeconfig") + 1] == str(tmp_path / "config")
        assert "ctx" in words


def test_the_commands_for_helmfile_are_the_drivers_own(bench: Any) -> None:
    *_, remove, install = told(at(bench.profile, "/a/config"))
    file = str(bench.folder / "helmfile.yaml")
    common = ["helmfile", "-f", file, "-e", "gke", "-n", "llm-d", "--kube-context", "ctx"]
    assert remove == ["RELEASE_NAME_POSTFIX=y", "KUBECONFIG=/a/config", *common, "destroy"]
    assert install == ["RELEASE_NAME_POSTFIX=x", "KUBECONFIG=/a/config", *common, "sync"]


def test_a_home_folder_is_spelled_out_for_a_shell_does_not_do_so_within_quotes(bench: Any) -> None:
    text = "\n".join(by_hand.commands(at(bench.profile, "~/my config"), "ctx"))
    assert "~" not in text
    assert shlex.quote(os.path.expanduser("~/my config")) in text
