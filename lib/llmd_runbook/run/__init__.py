"""The run that every notebook opens, in JupyterLab as under papermill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmd_runbook import profile as profiles
from llmd_runbook.manifest import ClusterIdentity, How, Status
from llmd_runbook.plans import checked_hash
from llmd_runbook.profile import Profile
from llmd_runbook.run import display
from llmd_runbook.run.context import how as who_executes
from llmd_runbook.run.context import in_kernel, parent_process, this_process
from llmd_runbook.run.joining import join
from llmd_runbook.run.kernel import Recorder
from llmd_runbook.run.notebooks import FOLDER, checked_name
from llmd_runbook.run.stage import StageRun, StepHandle, adopt, changes
from llmd_runbook.run.store import output_root
from llmd_runbook.verdicts import StageResult

__all__ = ["StageRun", "StepHandle", "begin", "changes", "verdicts"]

Identify = Callable[[Profile], ClusterIdentity]
_current: list[StageRun] = []


def identify_cluster(profile: Profile) -> ClusterIdentity:
    """The cluster that the profile names, asked for who it is.

    Raises:
        ClusterError: it does not answer.
        UsageError: it is another one than the profile says.
    """
    from llmd_runbook.clients.cluster import identify  # the Kubernetes client takes half a second to load

    return identify(profile)


def begin(
    stage: str,
    profile: str,
    run: str = "",
    approve: str = "",
    *,
    identify: Identify = identify_cluster,
    output: Path | None = None,
    notebooks: Path = FOLDER,
) -> StageRun:
    """Open the run and begin one attempt at a stage.

    Args:
        stage: name of the stage, which is its notebook's.
        profile: a profile in `parameters/`, or a path.
        run: id of a run, `new`, or nothing for the open one (or a new one where none fits).
        approve: hash of the plan that is approved; nothing where none is.
        identify: asks the cluster who it is.
        output: folder of all runs; `LLMD_RUNBOOK_OUTPUT` or `outputs/` where it is not given.
        notebooks: folder of the notebooks.

    Raises:
        ProfileError: the profile cannot be used.
        ClusterError: the cluster does not answer.
        UsageError: the cluster or the run does not fit, or `approve` is no hash.
    """
    checked_name(stage)
    approved = checked_hash(approve, where="parameter approve")
    loaded = profiles.load(profile)
    cluster = identify(loaded)
    while _current:
        _current.pop().abandon("BegunAgain", "another attempt was begun in the same process")
    how = who_executes()
    store = join(
        output_root(output),
        loaded,
        cluster,
        run,
        stage=stage,
        how=how,
        process=this_process(),
        session=parent_process() if how is How.NBVAL else None,
    )
    attempt = adopt(store, stage) if how is How.CLI else store.add_attempt(stage, this_process(), Status.RUNNING)
    recorder = None
    if in_kernel():
        recorder = Recorder(
            target=None if how is How.CLI else store.folder / attempt.notebook,
            source=notebooks / f"{stage}.ipynb",
            parameters={"profile": profile, "run": run, **({"approve": approved} if approved else {})},
            about={"run": store.run_id, "stage": stage, "attempt": attempt.number},
        )
    opened = StageRun(stage, loaded, cluster, store, attempt, recorder, how, approved)
    _current.append(opened)
    display.show(display.header(stage, store.run_id, loaded.name, cluster, store.folder))
    return opened


def verdicts(result: StageResult) -> display.Shown:
    """Identifiers and verdicts alone: what a regression test may compare word for word."""
    text = display.verdict_text(result)
    return display.Shown(f"<pre>{text}</pre>", text)
