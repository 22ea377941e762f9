"""The helm driver with the real helm 3 and helm 4 on a real API server."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_runbook.clients.releases import HelmDriver, Outcome, ReleaseSpec, pending, process
from llmd_runbook.errors import ToolCutShort, ToolError
from tests.cli.conftest import Toolbox
from tests.end_to_end.conftest import Sandbox
from tests.guards import anything

pytestmark = [pytest.mark.cli, pytest.mark.timeout(600)]

CHART = "apiVersion: v2\nname: small\nversion: 0.1.0\n"
SETTINGS = """apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}
data:
  greeting: {{ required "a greeting is required" .Values.greeting }}
{{- if .Values.wrong }}
  wrong: {nested: map}
{{- end }}
"""
HOOK = """{{- if .Values.hook }}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-hook
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {no-such: node}
      containers: [{name: never, image: never}]
{{- end }}
"""
NEVER = """{{- if .Values.never }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  progressDeadlineSeconds: {{ .Values.never | int }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      nodeSelector: {no-such: node}
      containers: [{name: never, image: never}]
{{- end }}
"""


def quiet(_: str) -> None:
    """Nobody reads along."""


class Case:
    """One helm, a namespace of its own, a small chart."""

    def __init__(self, sandbox: Sandbox, helm: Path, name: str, folder: Path) -> None:
        self.sandbox, self.helm, self.name = sandbox, helm, name
        self.namespace = f"{name}-{secrets.token_hex(3)}"
        self.chart = folder / "small"
        (self.chart / "templates").mkdir(parents=True)
        (self.chart / "Chart.yaml").write_text(CHART)
        (self.chart / "templates" / "settings.yaml").write_text(SETTINGS)
        (self.chart / "templates" / "hook.yaml").write_text(HOOK)
        (self.chart / "templates" / "never.yaml").write_text(NEVER)

    def driver(self, **values: object) -> HelmDriver:
        spec = {"greeting": "hello", **values}
        return HelmDriver(
            [ReleaseSpec(name, str(self.chart), overrides=spec) for name in ("one", "two")],
            self.namespace,
            kubeconfig=Path(self.sandbox.kubeconfig),
            binary=str(self.helm),
            before_change=anything,
        )

    def greeting(self, name: str) -> str:
        words = ("kubectl", "-n", self.namespace, "get", "configmap", name, "-o", "jsonpath={.data.greeting}")
        done = self.sandbox.start(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, str]:
        return {item.name: item.status for item in self.driver().installed(self.namespace)}

    def argv(self, *words: str, **values: object) -> list[str]:
        """A command of helm that changes the first release."""
        file = self.chart.parent / "values.json"
        file.write_text(json.dumps(values))
        argv = [str(self.helm), *words, "one", str(self.chart), "--namespace", self.namespace]
        return [*argv, "--kubeconfig", self.sandbox.kubeconfig, "--values", str(file)]

    def deployment(self) -> str:
        """UID and generation of the Deployment whose pods never run; empty where there is none."""
        shown = "jsonpath={.metadata.uid} {.metadata.generation}"
        words = ("kubectl", "-n", self.namespace, "get", "deployment", "one", "--ignore-not-found", "-o", shown)
        return self.sandbox.start(*words).stdout.strip()

    def kill_during(self, *words: str, **values: object) -> str:
        """Start helm, kill it as soon as it waits for ever, for its hook or, with values, for the Deployment; the state
        in which it left the release.
        """
        argv = self.argv(*words, **{"greeting": "killed", **(values or {"hook": True})})
        started = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while not self.status().get("one", "").startswith("pending") or (values and not self.deployment()):
                assert started.poll() is None, "helm ended although what it waits for cannot come"
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()
        return self.status()["one"]


@pytest.fixture(params=["helm3", "helm4"])
def case(request: pytest.FixtureRequest, shared: Sandbox, toolbox: Toolbox, tmp_path: Path) -> Iterator[Case]:
    case = Case(shared, toolbox.programs[request.param], request.param, tmp_path)
    made = shared.start("kubectl", "create", "namespace", case.namespace)
    assert made.returncode == 0, made.stderr
    yield case
    shared.start("kubectl", "delete", "namespace", case.namespace, "--wait=false")


def test_installs_upgrades_reads_and_removes(case: Case) -> None:
    major = case.driver().versions()["helm"].split(".")[0]
    assert f"helm{major.removeprefix('v')}" == case.name
    both = [Outcome("one", "changed"), Outcome("two", "changed")]
    assert case.driver().apply(quiet) == both
    assert case.status() == {"one": "deployed", "two": "deployed"}
    assert case.driver().apply(quiet) == [Outcome("one", "ok"), Outcome("two", "ok")]
    assert [item.revision for item in case.driver().installed(case.namespace)] == [1, 1]
    assert case.driver(greeting="good day").apply(quiet) == both
    assert case.greeting("two") == "good day"
    (first, *_) = case.driver().installed(case.namespace)
    assert (first.name, first.chart, first.revision) == ("one", "small-0.1.0", 2)
    assert first.updated.tzinfo is not None
    assert case.driver().destroy(quiet) == [Outcome("two", "changed"), Outcome("one", "changed")]
    assert case.status() == {}
    assert case.driver().destroy(quiet) == [Outcome("two", "skipped"), Outcome("one", "skipped")]


def test_a_failing_chart_says_what_helm_said_and_what_is_done(case: Case) -> None:
    good, bad = case.driver().releases[0], case.driver(greeting=None).releases[1]
    kubeconfig, binary = Path(case.sandbox.kubeconfig), str(case.helm)
    driver = HelmDriver([good, bad], case.namespace, kubeconfig=kubeconfig, binary=binary, before_change=anything)
    with pytest.raises(ToolError, match="helm failed") as caught:
        driver.apply(quiet)
    assert "a greeting is required" in str(caught.value.reason)
    assert "one deployed, changed just now; two is not installed" in str(caught.value.reason)


def test_what_the_api_refuses_is_told_and_mended_by_the_next_run(case: Case) -> None:
    with pytest.raises(ToolError) as caught:
        case.driver(wrong=True).apply(quiet)
    assert "releases now: one" in str(caught.value.reason)
    assert case.driver().apply(quiet) == [Outcome("one", "changed"), Outcome("two", "changed")]


@pytest.mark.parametrize("state", ["pending-install", "pending-upgrade"])
def test_what_a_killed_helm_left_is_finished(case: Case, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if state == "pending-upgrade":
        case.driver().apply(quiet)
    words = ("install",) if state == "pending-install" else ("upgrade",)
    assert case.kill_during(*words) == state
    monkeypatch.setattr(pending, "ABANDONED_S", 3.0)
    lines: list[str] = []
    outcome = case.driver().apply(lines.append)
    assert outcome[0] == Outcome("one", "changed")
    assert case.status() == {"one": "deployed", "two": "deployed"}
    assert case.greeting("one") == "hello"
    assert any(f"one was left {state}" in line for line in lines)


def test_what_a_killed_helm_left_can_be_removed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.kill_during("install") == "pending-install"
    monkeypatch.setattr(pending, "ABANDONED_S", 0.0)
    assert case.driver().destroy(quiet) == [Outcome("two", "skipped"), Outcome("one", "changed")]
    assert case.status() == {}


def test_helms_own_time_out_is_told_apart_and_its_record_settled(case: Case) -> None:
    """Also where the Deployment's progress deadline has passed, which ends the wait of helm 4."""
    argv = case.argv("upgrade", "--install", "--wait", "--timeout", "5s", greeting="hello", never=1)
    with pytest.raises(ToolCutShort):
        process.run(argv, timeout_s=60, guard=anything)
    assert case.status() == {"one": "failed"}
    settled(case, greeting="hello", never=1)


def test_a_hook_that_times_out_is_cut_short_too(case: Case) -> None:
    with pytest.raises(ToolCutShort):
        process.run(
            case.argv("upgrade", "--install", "--timeout", "2s", greeting="x", hook=True), timeout_s=60, guard=anything
        )


@pytest.mark.parametrize("state", ["pending-install", "pending-upgrade"])
def test_what_is_there_though_helm_was_killed_is_settled_without_touching_it(case: Case, state: str) -> None:
    if state == "pending-upgrade":
        case.driver().apply(quiet)
    words = ("install", "--wait") if state == "pending-install" else ("upgrade", "--wait")
    assert case.kill_during(*words, never=600) == state
    settled(case, greeting="killed", never=600)


def settled(case: Case, **values: object) -> None:
    """Helm's record can be settled; nothing is made anew by it, and the next `apply` finds everything as wanted."""
    before = case.deployment()
    assert before
    case.driver().settle(["one"], quiet)
    assert case.status()["one"] == "deployed"
    assert case.greeting("one") == values["greeting"]
    assert case.driver(**values).apply(quiet)[0] == Outcome("one", "ok")
    assert case.deployment() == before
