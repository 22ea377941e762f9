"""Which run a notebook belongs to."""

from __future__ import annotations

from pathlib import Path

from llmd_runbook.errors import UsageError
from llmd_runbook.manifest import ENDED, ClusterIdentity, How, Process, Run, Status
from llmd_runbook.profile import Profile
from llmd_runbook.run.context import alive, who
from llmd_runbook.run.store import RunStore, all_runs, create, find


def join(
    root: Path,
    profile: Profile,
    cluster: ClusterIdentity,
    reference: str,
    *,
    stage: str,
    how: How,
    process: Process,
    session: Process | None,
) -> RunStore:
    """The run for this notebook: the one named, the newest open one that fits, or a new one.

    Args:
        root: the output folder.
        profile: the profile of the notebook.
        cluster: the cluster that answers now.
        reference: an id, `new`, or nothing.
        stage: the stage that begins.
        how: who executes the notebook.
        process: the notebook's process.
        session: the process that all notebooks of one nbval session share.

    Raises:
        UsageError: no such run, or one of another profile, cluster or owner, or one that has ended.
    """
    if reference and reference != "new":
        store = find(root, profile.name, reference)
        reason = _obstacle(store.read().observed(alive), profile, cluster, how)
        if reason:
            raise UsageError(
                f"run {reference} cannot be joined",
                where=str(store.folder),
                reason=reason,
                remedy='start another: run = "new"',
            )
        return store
    if reference != "new":
        for store in all_runs(root, profile.name):
            try:
                run = store.read().observed(alive)
            except UsageError:
                continue  # a record that cannot be read is no run to join
            if _obstacle(run, profile, cluster, how) is None and _fits(run, stage, how, process, session):
                return store
    return create(root, profile, cluster, how, process=session if how is How.NBVAL else None)


def _obstacle(run: Run, profile: Profile, cluster: ClusterIdentity, how: How) -> str | None:
    if run.status in ENDED:
        return f"it has ended ({run.status})"
    if run.how is How.CLI and how is not How.CLI:
        return "llmd-runbook is running it"
    if run.profile.digest != profile.digest:
        return "the profile has changed since it began"
    if run.cluster.kube_system_uid != cluster.kube_system_uid:
        return f"it is a run on another cluster ({run.cluster.context}, {run.cluster.server})"
    return None


def _fits(run: Run, stage: str, how: How, process: Process, session: Process | None) -> bool:
    if run.who != who():
        return False
    if How.NBVAL in (how, run.how) and (how is not run.how or run.process != session):
        return False
    attempts = run.stage(stage).attempts
    elsewhere = bool(attempts) and attempts[-1].status is Status.RUNNING and attempts[-1].process != process
    return not elsewhere
