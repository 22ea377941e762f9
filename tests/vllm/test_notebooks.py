"""The seven notebooks, unchanged, on a sandbox whose every replica is the real vLLM; and what that takes.

Where `LLMD_SANDBOX_EPP` names a real endpoint picker, that one decides too: then all is real but the GPU.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from llmd_runbook.manifest import Run
from llmd_runbook.run.notebooks import stage_names
from llmd_runbook.verdicts import Verdict
from llmd_sandbox import given, processes
from llmd_sandbox.images import vllm_cpu
from tests.end_to_end.conftest import PROGRAMS
from tests.picker.generation import prepare
from tests.vllm import everything_real

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3600)]

WITH_PICKER = bool(os.environ.get(given.EPP_BINARY))

_LOOK_S = 1.0


@dataclass
class Watch:
    """The largest memory that a sandbox's processes had at once, shared pages counted once (PSS), and how many."""

    folder: Path
    bytes: int = 0
    count: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Look until told to end."""
        while not self.ended.wait(_LOOK_S):
            sizes = [size for pid in processes.find(self.folder) if (size := _pss(pid))]
            if sum(sizes) > self.bytes:
                self.bytes, self.count = sum(sizes), len(sizes)


@dataclass(frozen=True)
class Migration:
    """One run of all stages on real engines."""

    status: int
    run: Run
    folder: Path
    watch: Watch
    duration_s: float


@pytest.fixture(scope="module")
def migration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Migration]:
    state, output = tmp_path_factory.mktemp("state"), tmp_path_factory.mktemp("runs")
    name = f"vllm-{secrets.token_hex(3)}"
    watch = Watch(state / "llmd-sandbox" / name)
    watching = threading.Thread(target=watch.look)
    watching.start()
    words, profile = [str(PROGRAMS / "llmd-sandbox"), "run", "--engine", "vllm", "--name", name], "sandbox-vllm"
    if WITH_PICKER:
        prepared = prepare(given.picker(), profile, tmp_path_factory.mktemp("parameters"))
        words, profile = [*words, "--values", str(prepared.values)], str(prepared.profile)
    words += ["--", str(PROGRAMS / "llmd-runbook"), "run", profile, "--output", str(output)]
    began = time.monotonic()
    try:
        done = subprocess.run(words, env={**os.environ, "LLMD_SANDBOX_STATE": str(state)}, check=False)
    finally:
        watch.ended.set()
        watching.join()
    records = list(output.glob("*/*/run.json"))
    assert records, f"no run was begun (exit status {done.returncode}): see above"
    run = Run.model_validate_json(records[0].read_text())
    yield Migration(done.returncode, run, records[0].parent, watch, time.monotonic() - began)
    assert processes.find(watch.folder) == []


def test_every_stage_passes(migration: Migration) -> None:
    verdicts = {record.stage: record.verdict for record in migration.run.stages}
    assert verdicts == dict.fromkeys(stage_names(), Verdict.PASS)
    assert migration.status == 0


def test_the_record_says_that_the_engine_was_real_and_the_rest_of_it_a_sandbox(migration: Migration) -> None:
    cluster = migration.run.cluster
    assert cluster.simulated
    assert cluster.real["engine"].startswith(f"real vLLM {vllm_cpu.VERSION}")
    assert cluster.real["control-plane"].startswith("real, Kubernetes v1.")
    assert cluster.real["gateway"].startswith("real Envoy")
    assert cluster.real["picker"].startswith("real") is WITH_PICKER
    assert cluster.stamp == f"sandbox: real vLLM {vllm_cpu.VERSION} on CPU"


def test_notebooks_show_in_their_header_what_was_real_and_in_pictures_that_no_gpu_was(migration: Migration) -> None:
    (notebook,) = migration.folder.glob("06_*.ipynb")
    shown = notebook.read_text()
    assert all(f"{part}: {what}" in shown for part, what in migration.run.cluster.real.items())
    assert f"[{migration.run.cluster.stamp}]" in shown
    assert "[simulated engine]" not in shown


def test_repeated_prefixes_were_found_in_real_caches(migration: Migration) -> None:
    result = migration.run.stage("05_routing_affinity").attempts[-1].result
    assert result is not None
    groups, control = result.data["groups"], result.data["independent"]
    assert len(groups["replicas"]) == 3
    assert groups["cached_tokens"] > 0.3 * groups["prompt_tokens"]
    assert control["cached_tokens"] < 0.1 * control["prompt_tokens"]


def test_what_it_took(migration: Migration) -> None:
    watch = migration.watch
    assert watch.count > 10
    print(f"\nseven notebooks on real vLLM: {migration.duration_s:.0f} s, sandbox's start and end included")
    print(f"peak memory {watch.bytes / 1e9:.1f} GB (PSS) in {watch.count} processes of the sandbox")
    if WITH_PICKER and (named := os.environ.get(everything_real.PAGE)):
        shown = everything_real.page(migration.run, took_s=migration.duration_s, peak_bytes=watch.bytes)
        Path(named).write_text(shown)


def _pss(pid: int) -> int:
    """Proportional memory of a process; 0 when it is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.Error:
        return 0
