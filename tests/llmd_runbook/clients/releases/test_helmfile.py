from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.clients.releases import Driver, HelmfileDriver, Outcome
from llmd_runbook.errors import ToolError
from tests.guards import anything

Answer = Callable[..., None]
Calls = Callable[..., list[dict[str, Any]]]
NAMES = ["infra-pattern3", "gaie-pattern3", "ms-pattern3"]
PLUGINS = "NAME\tVERSION\tDESCRIPTION\ndiff\t3.12.0\tPreview helm upgrade changes as a diff\n"


def built(*, flags: dict[str, list[str]] | None = None, context: str = "here") -> str:
    """What `helmfile build` prints for a helmfile that includes another one."""
    included, own = ({"name": name, "kubeContext": "here"} for name in NAMES[:2])
    defaults = {"kubeContext": "here", **(flags or {})}
    states = [
        {"releases": [included]},
        {"helmDefaults": defaults, "releases": [own, {"name": NAMES[2], "kubeContext": context}]},
    ]
    return "".join(f"---\n#  Source: /h/helmfile.yaml\n\n{json.dumps(state)}\n" for state in states)


@pytest.fixture
def driver(tools: Path, answer: Answer) -> Driver:
    answer("helm", "plugin", stdout=PLUGINS)
    answer("helm", "list", "-o", stdout="[]")
    entries = [{"name": name, "enabled": True, "installed": True} for name in NAMES]
    answer("helmfile", "build", stdout=built())
    unwanted = {"name": "off", "enabled": False, "installed": True}
    answer("helmfile", "list", stdout=json.dumps([*entries, unwanted]))
    return HelmfileDriver(
        Path("/h/helmfile.yaml.gotmpl"),
        "gke",
        "pattern3",
        "llm-d",
        kubeconfig=Path("/k/c"),
        context="here",
        before_change=anything,
    )


def listed(revisions: dict[str, int]) -> str:
    return json.dumps(
        [
            {
                "name": name,
                "namespace": "llm-d",
                "revision": str(revision),
                "updated": "2026-01-23T10:00:00+01:00",
                "status": "deployed",
                "chart": "c-1",
            }
            for name, revision in revisions.items()
        ]
    )


def test_apply_reports_by_revision_what_changed(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", "-o", stdout=listed({"infra-pattern3": 1, "gaie-pattern3": 2, "ms-pattern3": 1}))
    answer("helm", "list", "-o", stdout=listed({"infra-pattern3": 1, "gaie-pattern3": 1}), once=True)
    answer("helmfile", "apply", stdout="Upgrading release\n")
    lines: list[str] = []
    assert driver.apply(lines.append) == [
        Outcome("infra-pattern3", "ok"),
        Outcome("gaie-pattern3", "changed"),
        Outcome("ms-pattern3", "changed"),
    ]
    assert lines == ["Upgrading release"]
    (call,) = calls("helmfile", "apply")
    assert call["argv"] == [
        *("-f", "/h/helmfile.yaml.gotmpl", "-e", "gke", "-n", "llm-d", "--no-color", "--helm-binary", "helm"),
        *("--kube-context", "here", "apply", "--suppress-secrets"),
    ]
    assert (call["postfix"], call["kubeconfig"]) == ("pattern3", "/k/c")


STORED = "kind: ConfigMap\nmetadata: {name: a}\n"


def test_without_helm_diff_what_helm_has_stored_decides(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "plugin", stdout="NAME\tVERSION\n")
    answer("helm", "list", "-o", stdout=listed({"infra-pattern3": 1, "gaie-pattern3": 2, "ms-pattern3": 1}))
    answer("helm", "list", "-o", stdout=listed({"infra-pattern3": 1, "gaie-pattern3": 1}), once=True)
    answer("helm", "get", "manifest", stdout=STORED)
    answer("helmfile", "template", stdout=STORED)
    answer("helmfile", "template", "name=gaie-pattern3", stdout=STORED.replace("name: a", "name: b"))
    answer("helmfile", "sync")
    assert driver.apply(lambda line: None) == [
        Outcome("infra-pattern3", "ok"),
        Outcome("gaie-pattern3", "changed"),
        Outcome("ms-pattern3", "changed"),
    ]
    assert calls("helmfile", "apply") == []
    (call,) = calls("helmfile", "sync")
    assert call["argv"][-5:] == ["--selector", "name=gaie-pattern3", "--selector", "name=ms-pattern3", "sync"]


def test_without_helm_diff_nothing_is_run_for_nothing(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "plugin", stdout="NAME\tVERSION\n")
    answer("helm", "list", "-o", stdout=listed(dict.fromkeys(NAMES, 1)))
    answer("helm", "get", "manifest", stdout=STORED)
    answer("helmfile", "template", stdout=STORED)
    assert {outcome.status for outcome in driver.apply(lambda line: None)} == {"ok"}
    assert calls("helmfile", "sync") == []


@pytest.mark.parametrize("listed_as", ["[]", "null"])
def test_a_helmfile_without_releases_is_told(driver: Driver, answer: Answer, listed_as: str) -> None:
    answer("helmfile", "list", stdout=listed_as)
    with pytest.raises(ToolError, match="no release for environment gke and postfix pattern3"):
        driver.names()


@pytest.mark.parametrize("listed_as", ["", "<html>", "[{}]", "[3]", "7"])
def test_what_no_helmfile_prints_is_one_message(driver: Driver, answer: Answer, listed_as: str) -> None:
    answer("helmfile", "list", stdout=listed_as)
    with pytest.raises(ToolError, match="`helmfile list` printed what cannot be read"):
        driver.names()


def test_a_plug_in_without_a_version_is_one_message(driver: Driver, answer: Answer) -> None:
    answer("helm", "plugin", stdout="NAME\tVERSION\ndiff\n")
    with pytest.raises(ToolError, match="`helm plugin list` printed what cannot be read"):
        driver.versions()


def test_destroy(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", "-o", stdout=listed({"ms-pattern3": 1, "ms-pattern1": 1}))
    answer("helmfile", "destroy")
    assert driver.destroy(lambda line: None) == [
        Outcome("infra-pattern3", "skipped"),
        Outcome("gaie-pattern3", "skipped"),
        Outcome("ms-pattern3", "changed"),
    ]
    assert len(calls("helmfile", "destroy")) == 1


def test_destroy_of_nothing_runs_nothing(driver: Driver, calls: Calls) -> None:
    assert {outcome.status for outcome in driver.destroy(lambda line: None)} == {"skipped"}
    assert calls("helmfile", "destroy") == []


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (built(flags={"args": ["--kube-context", "other"]}), "helmDefaults.args has --kube-context"),
        (built(flags={"syncArgs": ["--wait", "--kubeconfig=/o"]}), "helmDefaults.syncArgs has --kubeconfig"),
        (built(flags={"diffArgs": ["--kube-token=secret"]}), "helmDefaults.diffArgs has --kube-token"),
        (built(context="other"), "release ms-pattern3 has the context other"),
    ],
)
@pytest.mark.parametrize("does", ["apply", "sync", "destroy"])
def test_a_helmfile_that_leads_helm_elsewhere_changes_nothing(
    driver: Driver, answer: Answer, calls: Calls, does: str, build: str, why: str
) -> None:
    answer("helmfile", "build", stdout=build)
    answer("helmfile", "template", stdout=STORED)
    if does == "sync":
        answer("helm", "plugin", stdout="NAME\tVERSION\n")
    if does == "destroy":
        answer("helm", "list", "-o", stdout=listed({"ms-pattern3": 1}))
    with pytest.raises(ToolError, match="the helmfile means another cluster") as caught:
        (driver.destroy if does == "destroy" else driver.apply)(lambda line: None)
    assert caught.value.reason is not None
    assert caught.value.reason.splitlines()[0] == why
    assert "take these out of the helmfile" in str(caught.value.remedy)
    assert calls("helmfile", does) == []


@pytest.mark.parametrize("printed", ["", "---\n", "releases: []\n", "a: [", "7", "releases: [{}]"])
def test_a_helmfile_that_does_not_say_where_it_leads_changes_nothing(
    driver: Driver, answer: Answer, calls: Calls, printed: str
) -> None:
    answer("helmfile", "build", stdout=printed)
    with pytest.raises(ToolError, match="`helmfile build` printed what cannot be read"):
        driver.apply(lambda line: None)
    assert calls("helmfile", "apply") == []


@pytest.mark.parametrize(("wanted", "selectors"), [([], []), (["ms-pattern3"], ["--selector", "name=ms-pattern3"])])
def test_render(driver: Driver, answer: Answer, calls: Calls, wanted: list[str], selectors: list[str]) -> None:
    answer("helmfile", "template", stdout="kind: A\n---\nkind: Secret\ndata: {k: djE=}\n")
    assert driver.render(wanted) == [
        {"kind": "A"},
        {"kind": "Secret", "metadata": {}, "data": {"k": "[redacted]"}},
    ]
    assert calls("helmfile", "template")[0]["argv"][-len(selectors) - 1 :] == [*selectors, "template"]


def test_failure(driver: Driver, answer: Answer) -> None:
    answer("helmfile", "apply", stderr="values file matching gaie-pattern9.yaml does not exist\n", status=1)
    answer("helm", "list", "-o", stdout=listed({"infra-pattern3": 1}))
    answer("helm", "list", "-o", stdout="[]", once=True)
    with pytest.raises(ToolError, match="helmfile failed with exit status 1") as caught:
        driver.apply(lambda line: None)
    assert str(caught.value.reason).splitlines() == [
        "values file matching gaie-pattern9.yaml does not exist",
        "releases now: infra-pattern3 deployed, changed just now; gaie-pattern3 is not installed; "
        "ms-pattern3 is not installed",
    ]


def test_versions(driver: Driver) -> None:
    assert driver.versions() == {"helmfile": "1.1.0", "helm": "v3.18.0", "helm-diff": "3.12.0"}


def test_old_helmfile(driver: Driver, answer: Answer) -> None:
    answer("helmfile", "version", stdout="0.171.0")
    with pytest.raises(ToolError, match=r"helmfile 0\.171\.0 is too old"):
        driver.names()


def test_a_development_build_of_helmfile_is_taken(driver: Driver, answer: Answer) -> None:
    answer("helmfile", "version", stdout="(devel)")
    assert driver.names() == NAMES


def test_missing_helmfile(driver: Driver, tools: Path) -> None:
    (tools / "helmfile").unlink()
    with pytest.raises(ToolError) as caught:
        driver.names()
    assert "install helmfile 1.1" in str(caught.value.remedy)
