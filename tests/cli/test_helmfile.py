"""The guide's helmfile layout driven by the real helmfile: the swap, and what goes wrong with it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from llmd_runbook.clients.releases import HelmfileDriver, Outcome, pending, process
from llmd_runbook.errors import EXIT_USAGE, ToolError
from llmd_runbook.manifest import Run
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT, load
from llmd_runbook.stages import all_checks
from llmd_runbook.stages.load import traffic
from llmd_runbook.verdicts import StageResult, Verdict
from tests.cli.conftest import Toolbox
from tests.end_to_end.conftest import Sandbox
from tests.guards import anything

pytestmark = [pytest.mark.cli, pytest.mark.timeout(900)]

HELMFILE = PARAMETERS / "helm" / "helmfile.yaml.gotmpl"
NAMES = ["gaie-pattern1", "infra-pattern1", "ms-pattern1"]
AS_A_USER_CHANGES_IT = {
    "name: gke-t4": "name: by-helmfile",
    "gke_my-project_us-central1-a_llm-d-cluster": "llmd-sandbox",
    "simulated: false": "simulated: true",
    "project: my-project": "project: sandbox-project",
    "environment: gke": "environment: sandbox",
    "file: helm/": f"file: {PARAMETERS}/helm/",
    "option: scale_to_zero": "option: restore_pattern1",
    "  requests: 300": "  requests: 60",
    "output_tokens: 98": "output_tokens: 16",
}
"""The GKE profile, made one for the sandbox's cluster and charts, with a baseline as short as its p95 allows."""
BY_HELMFILE = ("tools.", "configuration.", "patterns.", "permissions.", "pattern1.releases")
"""What stage 01 judges by what helmfile renders and lists."""


def quiet(_: str) -> None:
    """Nobody reads along."""


CHANGING = ("02", "03", "07")
DOWNLOAD_S = 1200
"""Of a real start; a fiftieth of it here."""


def summary(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last line of a run's output in JSON."""
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def passed(done: subprocess.CompletedProcess[str]) -> list[StageResult]:
    """The results of a run's stages, each of which passed."""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    run = Run.model_validate_json((Path(summary(done)["record"]) / "run.json").read_text())
    results = [record.attempts[-1].result for record in run.stages]
    assert {result.verdict if result else None for result in results} == {Verdict.PASS}
    return [result for result in results if result]


@dataclass(frozen=True)
class Layout:
    """The sandbox as one helm and the real helmfile see it."""

    sandbox: Sandbox
    environment: dict[str, str]
    folder: Path

    def driver(
        self, postfix: str = "pattern1", file: Path = HELMFILE, environment: str = "sandbox", context: str = ""
    ) -> HelmfileDriver:
        kubeconfig = Path(self.sandbox.kubeconfig)
        return HelmfileDriver(
            file, environment, postfix, "llm-d", kubeconfig=kubeconfig, context=context, before_change=anything
        )

    def profile(self, changes: Mapping[str, str] = MappingProxyType({})) -> Path:
        text = (PARAMETERS / "gke-t4.yaml").read_text()
        for old, new in {**AS_A_USER_CHANGES_IT, **changes}.items():
            assert old in text, f"{old!r} is not in the profile any more"
            text = text.replace(old, new)
        file = self.folder / "by-helmfile.yaml"
        file.write_text(text)
        return file

    def routed(self) -> None:
        """The clients' route leads to Pattern 1 through the Gateway of this layout; no chart renders a route."""
        profile = load(str(self.profile()))
        file = self.folder / "route.json"
        file.write_text(json.dumps(traffic.manifest(profile, profile.pattern1)))
        self.sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(file))

    def own_copy(self) -> Path:
        """The layout and its charts in a folder where they can be spoiled; the helmfile."""
        copy = self.folder / "parameters" / "helm"
        shutil.copytree(PARAMETERS / "helm", copy)
        shutil.copytree(PROJECT_ROOT / "lib/llmd_sandbox/charts", self.folder / "lib/llmd_sandbox/charts")
        return copy / HELMFILE.name

    def status(self) -> dict[str, str]:
        return {item.name: item.status for item in self.driver().installed("llm-d")}


@pytest.fixture(params=["helm3", "helm4", pytest.param("helm4+diff", marks=pytest.mark.helm_diff)])
def layout(
    request: pytest.FixtureRequest,
    shared: Sandbox,
    toolbox: Toolbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Layout]:
    """Pattern 1 in the guide's layout; what the sandbox itself installed is taken over by the same names."""
    helm, _, diff = request.param.partition("+")
    plugins = request.getfixturevalue("helm_diff") if diff else None
    environment = toolbox.environment(helm, plugins)
    for name, value in {**shared.environment, **environment}.items():
        monkeypatch.setenv(name, value)
    layout = Layout(shared, environment, tmp_path)
    versions = layout.driver().versions()
    assert versions["helm"].startswith(f"v{helm.removeprefix('helm')}.")
    assert ("helm-diff" in versions) is bool(diff)
    assert {item.release for item in layout.driver().apply(quiet)} == set(NAMES)
    yield layout
    layout.driver("pattern3").destroy(quiet)


def test_the_swap_and_the_way_back(layout: Layout) -> None:
    """Stages 01 to 04 and 07 pass; each pattern has its own Gateway, and Pattern 1 is back at the end."""
    layout.routed()
    words: list[str | Path] = ["llmd-runbook", "run", layout.profile(), "--json", "--output", layout.folder / "runs"]
    done = layout.sandbox.start(*words, "--stages", "01,02,03,04,07", **layout.environment)
    for _ in CHANGING:  # each plan is looked at before the next attempt has its hash
        waiting = {stage["stage"][:2]: stage["needs_approval"] for stage in summary(done)["stages"]}
        ((number, (approved,)),) = [item for item in waiting.items() if item[1]]
        assert done.returncode == 4, done.stdout[-4000:] + done.stderr
        words += ["--approve", f"{number}={approved}"]
        done = layout.sandbox.start(*words, "--resume", summary(done)["run"], **layout.environment)
    review, _, swap, *_ = passed(done)
    judged = {check.id for check in review.checks}
    assert judged >= {spec.id for spec in all_checks() if spec.id.startswith(BY_HELMFILE)}
    steps = {step.name: step.detail for step in swap.steps}
    assert steps["move the HTTPRoute to gaie-pattern3"].endswith("InferencePool/gaie-pattern3")
    assert "infra-pattern3" in steps["install Qwen/Qwen2.5-3B-Instruct"]
    assert {name for name, status in layout.status().items() if status == "deployed"} >= set(NAMES)
    assert not {name for name in layout.status() if name.endswith("pattern3")}
    assert layout.driver().apply(quiet) == [Outcome(name, "ok") for name in NAMES]


@pytest.mark.parametrize("layout", ["helm4"], indirect=True)  # helmfile's time is the same with either helm
def test_helmfiles_own_time_out_is_no_verdict_where_the_replicas_come_later(layout: Layout) -> None:
    """It waits 5 s for Pattern 3, one of whose replicas downloads for 24 s; the stage waits on, and passes."""
    file, servers = layout.own_copy(), "  - name: ms-{{ $postfix }}\n"
    text = file.read_text()
    assert servers in text
    impatient = '    wait: {{ eq $postfix "pattern3" }}\n    timeout: 5\n'
    file.write_text(text.replace(servers, servers + impatient))
    profile = layout.profile({"approval: hash": "approval: self", f"file: {PARAMETERS}/helm/": f"file: {file.parent}/"})
    words: list[str | Path] = ["llmd-runbook", "run", profile, "--json", "--output", layout.folder / "runs", "--stages"]
    layout.sandbox.kubectl("annotate", "node", "--all", f"llmd-sandbox/download-s={DOWNLOAD_S}")
    try:
        _, swap = passed(layout.sandbox.start(*words, "02,03", **layout.environment))
    finally:
        layout.sandbox.kubectl("annotate", "node", "--all", "llmd-sandbox/download-s-")
    steps = {step.name: step.detail for step in swap.steps}
    assert (
        "which is no verdict: looked up, and all objects of ms-pattern3 are there as rendered"
        in (steps["install Qwen/Qwen2.5-3B-Instruct"])
    )
    (starts,) = [table for table in swap.tables if table.title.startswith("How the pods of ms-pattern3")]
    assert "download" in str(starts.rows)  # so they were not Ready when helmfile gave up
    assert layout.status()["ms-pattern3"] == "deployed"
    passed(layout.sandbox.start(*words, "07", **layout.environment))
    assert {layout.status()[name] for name in NAMES} == {"deployed"}


def test_the_guides_selector_matches_nothing_and_the_message_says_so(layout: Layout) -> None:
    argv = ["helmfile", "-f", str(HELMFILE), "-e", "sandbox", "-n", "llm-d", "--selector", "release=pattern3", "apply"]
    environment = {"RELEASE_NAME_POSTFIX": "pattern3", "HELMFILE_UPGRADE_NOTICE_DISABLED": "1"}
    with pytest.raises(ToolError) as caught:
        process.run(argv, timeout_s=60, env=environment)
    assert "no releases found" in str(caught.value.reason)
    assert "--selector name=ms-pattern3" in str(caught.value.remedy)
    assert not {name for name in layout.status() if name.endswith("pattern3")}


def elsewhere(helmfile: Path, what: str) -> None:
    """Have a helmfile, whose first document holds its environments, name another cluster: by flag or by context."""
    spoiled = {
        "flag": ("helmDefaults:\n", 'helmDefaults:\n  args: ["--kube-context", "elsewhere"]\n'),
        "context": ("    version: v1.3.6\n", "    version: v1.3.6\n    kubeContext: elsewhere\n"),
    }
    old, new = spoiled[what]
    assert old in helmfile.read_text()
    helmfile.write_text(helmfile.read_text().replace(old, new))


def test_a_flag_in_the_helmfile_leads_nowhere_else(layout: Layout) -> None:
    """helm would obey it over the context that it is given: nothing is installed, nor is a run begun."""
    file = layout.own_copy()
    elsewhere(file, "flag")
    driver = layout.driver("pattern3", file, context="llmd-sandbox")
    with pytest.raises(ToolError, match="another cluster") as caught:
        driver.apply(quiet)
    assert "helmDefaults.args has --kube-context" in str(caught.value.reason)
    assert not {name for name in layout.status() if name.endswith("pattern3")}
    profile = layout.profile()
    profile.write_text(profile.read_text().replace(str(HELMFILE), str(file)))
    words: list[str | Path] = ["llmd-runbook", "run", profile, "--output", layout.folder / "runs", "--stages", "02"]
    done = layout.sandbox.start(*words, **layout.environment)
    assert done.returncode == EXIT_USAGE
    assert "helmfile means another cluster" in done.stderr
    assert not (layout.folder / "runs").exists()


def test_the_context_of_a_release_gives_way_to_the_profiles(layout: Layout) -> None:
    """There is no such context, so that a helm which obeyed it would fail."""
    file = layout.own_copy()
    elsewhere(file, "context")
    driver = layout.driver("pattern3", file, context="llmd-sandbox")
    assert driver.elsewhere() == []
    assert {item.status for item in driver.apply(quiet)} == {"changed"}
    no_context = layout.driver("pattern3", file)
    assert no_context.elsewhere() == ["release infra-pattern3 has the context elsewhere"]


def test_an_unknown_environment_is_told(layout: Layout) -> None:
    with pytest.raises(ToolError) as caught:
        layout.driver(environment="gke_gpu").apply(quiet)
    assert "gke_gpu" in str(caught.value)


def test_a_chart_that_cannot_be_rendered_changes_nothing(layout: Layout) -> None:
    file = layout.own_copy()
    values = file.parent / "ms-pattern3.yaml"
    values.write_text(values.read_text().replace("  replicas: 3", "  replica: 3"))
    with pytest.raises(ToolError) as caught:
        layout.driver("pattern3", file).apply(quiet)
    assert "replica" in str(caught.value.reason)
    not_done = "; ".join(f"{name}-pattern3 is not installed" for name in ("gaie", "infra", "ms"))
    assert not_done in str(caught.value.reason)


def test_a_chart_that_the_api_refuses_says_what_is_done_and_the_next_run_mends_it(layout: Layout) -> None:
    file = layout.own_copy()
    (file.parents[2] / "lib/llmd_sandbox/charts/modelservice/templates/bad.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: Not_A_Name\n"
    )
    driver = layout.driver("pattern3", file)
    with pytest.raises(ToolError) as caught:
        driver.apply(quiet)
    reason = str(caught.value.reason)
    assert "Not_A_Name" in reason
    assert "infra-pattern3 deployed, changed just now" in reason
    assert "gaie-pattern3 deployed, changed just now" in reason
    assert [item.release for item in layout.driver("pattern3").apply(quiet) if item.status == "changed"] == [
        "ms-pattern3"
    ]


def test_killed_half_way_it_ends_well_the_next_time(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    file = layout.own_copy()
    hook = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "never", "annotations": {"helm.sh/hook": "pre-install"}},
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "nodeSelector": {"no-such": "node"},
                    "containers": [{"name": "never", "image": "never"}],
                }
            }
        },
    }
    (file.parents[2] / "lib/llmd_sandbox/charts/modelservice/templates/hook.yaml").write_text(json.dumps(hook))
    failed: list[ToolError] = []

    def apply() -> None:
        try:
            layout.driver("pattern3", file).apply(quiet)
        except ToolError as error:
            failed.append(error)

    at_work = threading.Thread(target=apply)
    at_work.start()
    try:
        deadline = time.monotonic() + 120
        while layout.status().get("ms-pattern3") != "pending-install":
            assert at_work.is_alive(), failed
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        _kill(_tools())
        at_work.join(60)
    assert "ms-pattern3 pending-install" in str(failed[0].reason)
    monkeypatch.setattr(pending, "ABANDONED_S", 5.0)
    lines: list[str] = []
    layout.driver("pattern3").apply(lines.append)
    assert any("ms-pattern3 was left pending-install" in line for line in lines)
    status = layout.status()
    assert {status[name] for name in ("infra-pattern3", "gaie-pattern3", "ms-pattern3")} == {"deployed"}
    layout.sandbox.kubectl("delete", "job", "never", "--ignore-not-found")


def _tools() -> list[psutil.Process]:
    """helmfile and helm as far as this test started them."""
    mine: list[Any] = psutil.Process(os.getpid()).children(recursive=True)
    return [each for each in mine if each.name() in ("helm", "helmfile")]


def _kill(processes: list[psutil.Process]) -> None:
    for each in processes:
        try:
            each.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
