"""Each system that a run talks to, unreachable, forbidden, slow, or answering nonsense: what `llmd-runbook run` says
and what its record keeps. Real notebooks' steps in real kernels, the systems are scripted.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook import cli
from llmd_runbook.clients import cluster, gke
from llmd_runbook.clients.releases.binary import Helm
from llmd_runbook.manifest import Run, Status
from llmd_runbook.run.store import all_runs
from llmd_runbook.verdicts import StepStatus, Verdict
from tests.llmd_runbook.clients.server import Answer, Reply, Server, Silence, serving, status
from tests.llmd_runbook.clients.test_cluster import CLUSTER, PARTS, answering
from tests.llmd_runbook.conftest import Bench, Command

HELM = "{driver: helm, releases: [{name: ms, chart: chart}]}"
HELMFILE = "{driver: helmfile, file: helmfile.yaml, postfix: x}"
IMPATIENT_S = 1.0
"""What is slow is waited for so long, in place of the clients' own limits; what is not slow is given those."""
OPERATIONS = "/v1/projects/p/locations/l/operations"
POOLS = "/apis/inference.networking.k8s.io/v1/namespaces/llm-d/inferencepools/three"

HTML = Reply(body="<html>Sign in</html>")
DENIED = Reply(403, {"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "no container.operations.list"}})
NOT_ALLOWED = Reply(403, status(403, "Forbidden", 'User "u" cannot get this resource'))
KUBERNETES: dict[str, Answer] = {"forbidden": NOT_ALLOWED, "slow": Silence(), "nonsense": HTML}
GOOGLE: dict[str, Answer] = {"forbidden": DENIED, "slow": Silence(), "nonsense": HTML}

SAYS_UNREACHABLE = "echo 'Error: Kubernetes cluster unreachable: no such host' >&2; exit 1"
SAYS_FORBIDDEN = "echo 'Error: secrets is forbidden: User u cannot list' >&2; exit 1"
SAYS_NONSENSE = "echo '<html>Sign in</html>'"
SAYS_NOTHING = "exec sleep 600"
SCRIPTS = {
    "unreachable": (SAYS_UNREACHABLE, "cluster unreachable: no such host"),
    "forbidden": (SAYS_FORBIDDEN, "secrets is forbidden"),
    "slow": (SAYS_NOTHING, f"did not end within {IMPATIENT_S:g} s"),
    "nonsense": (SAYS_NONSENSE, "Sign in"),
}
"""What helm and helmfile do for each fault, and what must be told of it."""


def program(folder: Path, name: str, version: str, script: str) -> None:
    """A tool that says its version, and for everything else runs a line of shell."""
    file = folder / name
    file.write_text(f'#!/bin/sh\ncase "$*" in *version*) echo {version};; *) {script};; esac\n')
    file.chmod(0o755)


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder of PATH; no tool of the machine is found before those that a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "helm", "v3.12.3", "exit 1")  # which cannot tell which cluster it reaches, and so is not asked
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def google(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A GKE API that names the test's API server as its cluster."""
    with serving() as made:
        monkeypatch.setenv(gke.ENDPOINT_VARIABLE, made.url)
        made.on(CLUSTER, Reply(body={"name": "c", "endpoint": server.url.removeprefix("http://")}))
        yield made


def profile(bench: Bench, kubeconfig: Path, *, releases: str = HELM, gateway: str = "", patient: bool = True) -> str:
    """The bench's profile for these systems."""
    (bench.folder / "chart").mkdir()
    timeout_s = 60 if patient else IMPATIENT_S
    text = bench.profile_file.read_text()
    for old, new in {
        "{context: c, simulated: true}": f'{{context: here, kubeconfig: "{kubeconfig}", simulated: true}}',
        "{driver: helmfile, file: helmfile.yaml, postfix: x}": releases,
        "{driver: helmfile, file: helmfile.yaml, postfix: y}": releases,
        "route: {name: r}": f"route: {{name: r, url: '{gateway}'}}\nload: {{request_timeout_s: {timeout_s}}}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    bench.profile_file.write_text(text)
    return str(bench.profile_file)


def nobody() -> str:
    """A URL at which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


# --- before a run: nothing is started ---------------------------------------------------------------------------


def kubernetes_before(fault: str, server: Server, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, **_: Any) -> str:
    if fault == "unreachable":
        kubeconfig.write_text(kubeconfig.read_text().replace(server.url, nobody()))
        return "the Kubernetes API does not answer"
    server.on("/version", KUBERNETES[fault])
    if fault == "slow":
        monkeypatch.setattr(cluster, "of", partial(cluster.of, read_s=IMPATIENT_S))
    return {"forbidden": "cannot get this resource", "slow": "Read timed out", "nonsense": "Sign in"}[fault]


def gke_before(fault: str, google: Server, monkeypatch: pytest.MonkeyPatch, **_: Any) -> str:
    if fault == "unreachable":
        monkeypatch.setenv(gke.ENDPOINT_VARIABLE, nobody())
        return "Connection refused"
    google.on(CLUSTER, GOOGLE[fault])
    if fault == "slow":
        monkeypatch.setattr(gke, "_CALL_TIMEOUT_S", IMPATIENT_S)
    return {"slow": f"no answer within {IMPATIENT_S:g} s", "nonsense": "what answers is not GKE's API"}[fault]


def helm_before(fault: str, tools: Path, monkeypatch: pytest.MonkeyPatch, **_: Any) -> str:
    script, said = SCRIPTS[fault]
    if fault == "slow":
        monkeypatch.setattr(cluster, "Helm", partial(Helm, timeout_s=IMPATIENT_S))
    program(tools, "helm", "v3.18.0", script)
    return said


BEFORE: list[tuple[Callable[..., str], str]] = [
    *((kubernetes_before, fault) for fault in ("unreachable", "forbidden", "slow", "nonsense")),
    *(
        (gke_before, fault) for fault in ("unreachable", "slow", "nonsense")
    ),  # who may not ask it is not confirmed by it
    *((helm_before, fault) for fault in ("unreachable", "forbidden", "slow", "nonsense")),
]


@pytest.mark.parametrize(("breaks", "fault"), BEFORE, ids=[f"{how.__name__[:-7]}-{fault}" for how, fault in BEFORE])
def test_trouble_before_a_run_is_one_message_and_starts_nothing(
    bench: Bench,
    command: Command,
    server: Server,
    google: Server,
    kubeconfig: Path,
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    breaks: Callable[..., str],
    fault: str,
) -> None:
    answering(server, PARTS)
    said = breaks(fault, server=server, google=google, kubeconfig=kubeconfig, tools=tools, monkeypatch=monkeypatch)
    code, out, err = command("run", profile(bench, kubeconfig), "--stages", "01", "--output", str(bench.output))
    assert (code, out) == (2, ""), err
    assert said in err
    assert [err.count(f"\n  {part}: ") for part in ("where", "reason", "to do")] == [1, 1, 1]
    assert "None" not in err
    assert "Traceback" not in err
    assert all_runs(bench.output) == []


# --- within a run: the record is kept, and says so --------------------------------------------------------------

LOOK = "from llmd_runbook.stages import verify\nverify.prefix_caching(stage)"
SIZE = "from llmd_runbook.stages.pool import scale\nscale.plan(stage)"
SWAP = "from llmd_runbook.stages.swap import plan\nplan.plan(stage)"
ASK = "from llmd_runbook.stages import verify\nverify.answers(stage)"
HURRY = f"""
from functools import partial
from llmd_runbook.clients import cluster, gke
from llmd_runbook.clients.releases.helm import HelmDriver
from llmd_runbook.clients.releases.helmfile import HelmfileDriver
gke._CALL_TIMEOUT_S = {IMPATIENT_S}
cluster.of = partial(cluster.of, read_s={IMPATIENT_S})
for driver in (HelmDriver, HelmfileDriver):
    driver.__init__.__kwdefaults__["timeout_s"] = {IMPATIENT_S}
"""
"""The stages' own clients with less patience."""


class Ground:
    """The systems of one run, as a fault needs them."""

    def __init__(self, bench: Bench, server: Server, google: Server, kubeconfig: Path, tools: Path, patch: Any) -> None:
        self.bench, self.server, self.google = bench, server, google
        self.kubeconfig, self.tools, self.patch = kubeconfig, tools, patch
        self.releases, self.gateway = HELM, nobody()


def kubernetes_within(fault: str, ground: Ground) -> None:
    if fault == "unreachable":
        ground.kubeconfig.write_text(ground.kubeconfig.read_text().replace(ground.server.url, nobody()))
        return
    ground.server.on(POOLS, KUBERNETES[fault])


def gke_within(fault: str, ground: Ground) -> None:
    if fault == "unreachable":
        ground.patch.setenv(gke.ENDPOINT_VARIABLE, nobody())
        return
    ground.google.on(OPERATIONS, GOOGLE[fault])


def helm_within(fault: str, ground: Ground) -> None:
    program(ground.tools, "helm", "v3.18.0", SCRIPTS[fault][0])


def helmfile_within(fault: str, ground: Ground) -> None:
    ground.releases = HELMFILE
    program(ground.tools, "helm", "v3.18.0", "exit 1")
    program(ground.tools, "helmfile", "1.1.0", SCRIPTS[fault][0])


WITHIN: list[tuple[Callable[..., None], str, str, str, str]] = [
    (kubernetes_within, "unreachable", LOOK, "Unreachable", "the Kubernetes API does not answer"),
    (kubernetes_within, "forbidden", LOOK, "Forbidden", "cannot get this resource"),
    (kubernetes_within, "slow", LOOK, "Unreachable", "Read timed out"),
    (kubernetes_within, "nonsense", LOOK, "ApiError", "the Kubernetes API answered nonsense"),
    (gke_within, "unreachable", SIZE, "Unreachable", "Connection refused"),
    (gke_within, "forbidden", SIZE, "Forbidden", "no container.operations.list"),
    (gke_within, "slow", SIZE, "Unreachable", f"no answer within {IMPATIENT_S:g} s"),
    (gke_within, "nonsense", SIZE, "ApiError", "what answers is not GKE's API"),
    *((helm_within, fault, SWAP, "ToolError", said) for fault, (_, said) in SCRIPTS.items()),
    *((helmfile_within, fault, SWAP, "ToolError", said) for fault, (_, said) in SCRIPTS.items()),
]


@pytest.fixture
def ground(
    bench: Bench, server: Server, google: Server, kubeconfig: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> Ground:
    """Everything answers, but for what a test breaks; the cluster is known, so that a run begins."""
    monkeypatch.setattr(cli, "identify_cluster", lambda _: bench.cluster)
    monkeypatch.setattr(cli, "FOLDER", bench.notebooks)
    monkeypatch.setattr(cli, "stage_names", lambda: ["01_first", "02_second"])
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return Ground(bench, server, google, kubeconfig, tools, monkeypatch)


def a_run(ground: Ground, command: Command, fault: str, cell: str) -> tuple[Run, str]:
    """The record after two stages, the first of which meets the trouble, and all that was printed."""
    bench = ground.bench
    bench.notebook("01_first", *([HURRY] if fault == "slow" else []), cell, "result = stage.finish()")
    bench.notebook("02_second", "stage.check(judge(True))\nresult = stage.finish()")
    file = profile(bench, ground.kubeconfig, releases=ground.releases, gateway=ground.gateway, patient=fault != "slow")
    code, out, err = command("run", file, "--output", str(bench.output))
    shown, told, _ = command("records", "show", "latest", "--output", str(bench.output))
    assert (code, shown) == (1, 0), err
    assert "Traceback" not in out + err + told
    (store,) = all_runs(bench.output)
    run = store.read()
    assert (run.status, run.exit_code, run.stage("02_second").status) == (Status.FAILED, 1, Status.NOT_RUN)
    return run, " ".join((out + told).split())


@pytest.mark.parametrize(
    ("breaks", "fault", "cell", "kind", "said"),
    WITHIN,
    ids=[f"{how.__name__[:-7]}-{fault}" for how, fault, *_ in WITHIN],
)
def test_trouble_within_a_run_ends_the_stage_with_one_message_in_its_record(
    ground: Ground,
    command: Command,
    breaks: Callable[..., None],
    fault: str,
    cell: str,
    kind: str,
    said: str,
) -> None:
    breaks(fault, ground)
    run, printed = a_run(ground, command, fault, cell)
    attempt = run.stage("01_first").attempts[0]
    assert (attempt.status, attempt.verdict) == (Status.FAILED, None)
    assert attempt.error is not None
    assert attempt.error.kind == kind
    assert said in attempt.error.message
    parts = ("where", "to do") if fault == "slow" and kind == "ToolError" else ("where", "reason", "to do")
    assert [attempt.error.message.count(f"\n  {part}: ") for part in parts] == [1] * len(parts)
    assert attempt.result is not None
    assert {step.status for step in attempt.result.steps} <= {StepStatus.OK, StepStatus.FAILED}  # none changed anything
    first_line = attempt.error.message.splitlines()[0]
    assert " ".join(first_line.split()) in printed
    cells = [item for item in ground.bench.record("01_first.ipynb").cells if item.source == cell]
    (output,) = [found for found in cells[0].outputs if found.output_type == "error"]
    assert "\n".join(output.traceback) == f"{kind}: {attempt.error.message}"


GATEWAY = [
    ("unreachable", None, "the gateway does not answer"),
    ("forbidden", Reply(403, "RBAC: access denied"), "the gateway answered 403: RBAC: access denied"),
    ("slow", Silence(), f"the gateway gave no answer within {IMPATIENT_S:g} s"),
    ("nonsense", HTML, "the answer is not JSON: <html>Sign in</html>"),
]


@pytest.mark.parametrize(("fault", "answer", "said"), GATEWAY, ids=[fault for fault, *_ in GATEWAY])
def test_a_gateway_in_trouble_fails_the_checks_that_ask_it(
    ground: Ground, command: Command, fault: str, answer: Any, said: str
) -> None:
    with ExitStack() as open_:
        if answer:
            gateway = open_.enter_context(serving())
            for path in ("/v1/models", "/v1/completions"):
                gateway.on(path, answer)
            ground.gateway = gateway.url
        run, printed = a_run(ground, command, fault, ASK)
    attempt = run.stage("01_first").attempts[0]
    assert (attempt.status, attempt.verdict, attempt.error) == (Status.FINISHED, Verdict.FAIL, None)
    assert attempt.result is not None
    found = {check.id: check for check in attempt.result.checks}
    assert {name: check.verdict for name, check in found.items()} == {
        "verify.models": Verdict.FAIL,
        "verify.answer": Verdict.FAIL,
    }
    for check in found.values():
        assert said in str(check.observed)
        assert check.remedy
    assert f"GET {ground.gateway}/v1/models" in found["verify.models"].evidence
    assert said in printed
    if fault == "forbidden":
        assert "route.bearer_variable" in str(found["verify.answer"].remedy)
