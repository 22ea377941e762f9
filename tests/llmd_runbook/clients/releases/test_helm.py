from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pytest

from llmd_runbook.clients.releases import Driver, HelmDriver, Outcome, Release, ReleaseSpec
from llmd_runbook.errors import ToolError, UsageError
from llmd_sandbox.control_plane import assets
from tests.guards import anything

Answer = Callable[..., None]
Calls = Callable[..., list[dict[str, Any]]]
CLUSTER = ["--kubeconfig", "/k/config", "--kube-context", "here"]
MANIFEST = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  x: '1'\n"


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    values = tmp_path / "values.yaml"
    values.write_text("a:\n  b: 1\n  c: [1]\n")
    return HelmDriver(
        [
            ReleaseSpec("first", "oci://registry/chart", "v1.2.0", (values,)),
            ReleaseSpec("second", str(tmp_path), values=(values,), overrides={"a": {"b": 2}}),
        ],
        "llm-d",
        kubeconfig=Path("/k/config"),
        context="here",
        before_change=anything,
    )


def listed(*names: str, status: str = "deployed") -> str:
    return json.dumps(
        [
            {
                "name": name,
                "namespace": "llm-d",
                "revision": "3",
                "updated": "2026-01-23T10:00:00Z",
                "status": status,
                "chart": "chart-v1.2.0",
                "app_version": "1",
            }
            for name in names
        ]
    )


def test_installed(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout=listed("first", status="pending-upgrade"))
    when = datetime(2026, 1, 23, 10, tzinfo=UTC)
    assert driver.installed("llm-d") == [Release("first", "llm-d", "chart-v1.2.0", 3, "pending-upgrade", when)]
    argv = calls("helm", "list")[0]["argv"]
    assert argv[-len(CLUSTER) :] == CLUSTER
    assert {"--pending", "--uninstalling", "--failed", "--deployed"} <= set(argv)


@pytest.mark.parametrize("printed", ["", "<html>", "{}x", "[{}]", "[3]", "7", '[{"name": "first", "revision": "r"}]'])
def test_what_no_helm_prints_is_one_message(driver: Driver, answer: Answer, printed: str) -> None:
    answer("helm", "list", stdout=printed)
    with pytest.raises(ToolError, match="`helm list` printed what cannot be read") as caught:
        driver.installed("llm-d")
    assert printed in str(caught.value.reason) if printed else caught.value.reason == "it is not what was asked for"


def test_values_that_cannot_be_read_are_one_message(driver: Driver, answer: Answer) -> None:
    answer("helm", "list", stdout=listed("first"))
    answer("helm", "get", "values", stdout='WARNING: old\n{"password": "hunter2"}')
    with pytest.raises(ToolError, match="`helm get values` printed what cannot be read") as caught:
        driver.differing()
    assert "hunter2" not in str(caught.value)


def test_absent_releases_are_installed_in_order(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout="[]")
    answer("helm", "upgrade", stdout="STATUS: deployed\n")
    lines: list[str] = []
    assert driver.apply(lines.append) == [Outcome("first", "changed"), Outcome("second", "changed")]
    assert lines == ["STATUS: deployed"] * 2
    first, second = calls("helm", "upgrade")
    assert first["argv"][:7] == [
        *("upgrade", "--install", "first", "oci://registry/chart", "--namespace", "llm-d", "--version")
    ]
    assert second["argv"][-6:] == ["--values", "-", *CLUSTER]
    assert json.loads(second["stdin"]) == {"a": {"b": 2}}
    assert "--wait" not in [*first["argv"], *second["argv"]]


@pytest.mark.parametrize(
    ("status", "values", "manifest", "outcome"),
    [
        ("deployed", '{"a":{"b":1,"c":[1]}}', MANIFEST, "ok"),
        ("deployed", '{"a":{"b":1,"c":[1]}}', MANIFEST.replace("1", "2"), "changed"),
        ("deployed", '{"a":{"b":5,"c":[1]}}', MANIFEST, "changed"),
        ("deployed", "null", MANIFEST, "changed"),
        ("failed", '{"a":{"b":1,"c":[1]}}', MANIFEST, "changed"),
    ],
)
def test_only_what_differs_is_upgraded(
    driver: Driver,
    answer: Answer,
    calls: Calls,
    status: str,
    values: str,
    manifest: str,
    outcome: Literal["ok", "changed"],
) -> None:
    answer("helm", "list", stdout=listed("first", status=status))
    answer("helm", "upgrade")
    answer("helm", "get", "values", stdout=values)
    answer("helm", "get", "manifest", stdout=manifest)
    answer("helm", "template", stdout=MANIFEST)
    assert driver.apply(lambda line: None)[0] == Outcome("first", outcome)
    assert ("first" in [call["argv"][2] for call in calls("helm", "upgrade")]) == (outcome == "changed")


def test_overrides_count_as_values(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout=listed("second"))
    answer("helm", "upgrade")
    answer("helm", "get", "values", stdout='{"a":{"b":2,"c":[1]}}')
    answer("helm", "get", "manifest", stdout=MANIFEST)
    answer("helm", "template", stdout=MANIFEST)
    assert driver.apply(lambda line: None)[1] == Outcome("second", "ok")


def test_a_failed_upgrade_stops_there(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout="[]")
    answer("helm", "upgrade", stderr="Error: Kubernetes cluster unreachable: connection refused\n", status=1)
    with pytest.raises(ToolError) as caught:
        driver.apply(lambda line: None)
    assert str(caught.value.where).startswith("helm upgrade --install first")
    assert "connection refused" in str(caught.value.reason)
    assert "kubectl version" in str(caught.value.remedy)
    assert len(calls("helm", "upgrade")) == 1


def test_destroy_skips_what_is_absent(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout=listed("first"))
    answer("helm", "uninstall", stdout='release "first" uninstalled\n')
    assert driver.destroy(lambda line: None) == [Outcome("second", "skipped"), Outcome("first", "changed")]
    assert [call["argv"][:4] for call in calls("helm", "uninstall")] == [["uninstall", "first", "--namespace", "llm-d"]]


def test_render_chosen_releases_without_secrets(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "template", stdout=MANIFEST + "---\nkind: Secret\nmetadata: {name: s}\ndata: {k: djE=}\n")
    kinds = [(found["kind"], found.get("data")) for found in driver.render(["second"])]
    assert kinds == [("ConfigMap", {"x": "1"}), ("Secret", {"k": "[redacted]"})]
    assert [call["argv"][1] for call in calls("helm", "template")] == ["second"]


def test_unknown_release(driver: Driver) -> None:
    with pytest.raises(UsageError, match="no release third here"):
        driver.render(["third"])


def test_versions(driver: Driver, tools: Path) -> None:
    assert driver.versions() == {"helm": "v3.18.0"}


def test_missing_helm(driver: Driver, tools: Path) -> None:
    (tools / "helm").unlink()
    with pytest.raises(ToolError) as caught:
        driver.installed("llm-d")
    assert "install helm 3.12" in str(caught.value.remedy)


def test_old_helm(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "version", stdout="v3.9.4")
    with pytest.raises(ToolError, match=r"helm v3\.9\.4 is too old: 3\.12 or newer is needed"):
        driver.destroy(lambda line: None)
    assert calls("helm") == []


def test_slow_helm(driver: Driver, tools: Path) -> None:
    (tools / "helm").write_text(f"#!/bin/sh\nexec {shutil.which('sleep', path='/bin:/usr/bin')} 600\n")
    slow = HelmDriver([], "llm-d", timeout_s=0.01)
    with pytest.raises(ToolError, match="helm did not end within"):
        slow.installed("llm-d")


def test_the_real_helm_renders_a_chart(tmp_path: Path) -> None:
    program = assets.find().get("helm")
    if program is None:
        pytest.fail("no helm: put helm 3.12 or newer on PATH, or let the sandbox fetch it")
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: tiny\nversion: 0.1.0\n")
    (tmp_path / "templates/map.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}'}\n"
        "data: {x: '{{ .Values.x }}', y: '{{ .Values.y }}'}\n"
    )
    values = tmp_path / "values-of-ours.yaml"
    values.write_text("x: from file\ny: from file\n")
    spec = ReleaseSpec("real", str(tmp_path), values=(values,), overrides={"y": "over it"})
    (found,) = HelmDriver([spec], "llm-d", binary=str(program)).render()
    assert found["metadata"]["name"] == "real"
    assert found["data"] == {"x": "from file", "y": "over it"}
