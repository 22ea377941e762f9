"""The folder of a run: making it, finding it, and changing `run.json` one writer at a time."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout
from pydantic import ValidationError

from llmd_runbook.errors import RunbookError, UsageError
from llmd_runbook.manifest import (
    Attempt,
    ClusterIdentity,
    How,
    Process,
    ProfileRecord,
    Run,
    StageRecord,
    Status,
)
from llmd_runbook.profile import PROJECT_ROOT, Profile
from llmd_runbook.run.context import code, tools, who
from llmd_runbook.run.files import write_atomically

OUTPUT_VARIABLE = "LLMD_RUNBOOK_OUTPUT"
MANIFEST = "run.json"
_LOCK_TIMEOUT_S = 30.0
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def output_root(folder: Path | None = None) -> Path:
    """Where runs lie: the given folder, else `LLMD_RUNBOOK_OUTPUT`, else `outputs/` of the project."""
    named = os.environ.get(OUTPUT_VARIABLE)
    return (folder or (Path(named) if named else PROJECT_ROOT / "outputs")).absolute()


@dataclass(frozen=True)
class RunStore:
    """One run's folder."""

    folder: Path

    @property
    def run_id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.folder.name

    def read(self) -> Run:
        """The record as it was last written.

        Raises:
            UsageError: there is none, or it cannot be understood.
        """
        file = self.folder / MANIFEST
        try:
            return Run.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise UsageError(
                "cannot read the record of a run",
                where=str(file),
                reason=str(error).splitlines()[0],
                remedy="name another run: llmd-runbook records list",
            ) from None

    @contextmanager
    def change(self) -> Iterator[Run]:
        """Hold the lock, hand out the record, and write it whole; an exception inside writes nothing.

        Raises:
            RunbookError: somebody holds the lock for too long, or the record cannot be written.
        """
        try:
            with FileLock(self.folder / ".run.lock", timeout=_LOCK_TIMEOUT_S):
                run = self.read()
                yield run
                self._write(run)
        except Timeout:
            raise RunbookError(
                "the record is locked",
                where=str(self.folder / ".run.lock"),
                reason=f"another process has held it for {_LOCK_TIMEOUT_S:.0f} s",
                remedy="end the other notebook or runner of this run",
            ) from None

    def add_attempt(self, stage: str, process: Process | None, status: Status) -> Attempt:
        """Enter a new attempt, with a notebook name that is not taken."""
        with self.change() as run:
            record = run.stage(stage)
            number = len(record.attempts) + 1
            attempt = Attempt(
                number=number,
                notebook=self._free_name(stage, number),
                status=status,
                started=now() if status is Status.RUNNING else None,
                process=process,
            )
            record.not_run = None
            record.attempts.append(attempt)
        return attempt

    def _free_name(self, stage: str, number: int) -> str:
        while True:
            name = f"{stage}.ipynb" if number == 1 else f"{stage}.{number}.ipynb"
            if not (self.folder / name).exists():
                return name
            number += 1

    def _write(self, run: Run) -> None:
        try:
            write_atomically(self.folder / MANIFEST, run.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise RunbookError(
                "cannot write the record of the run",
                where=str(self.folder / MANIFEST),
                reason=str(error),
                remedy="make the folder writable or free space on its disk",
            ) from None


def create(
    root: Path,
    profile: Profile,
    cluster: ClusterIdentity,
    how: How,
    *,
    requested: list[str] | None = None,
    process: Process | None = None,
    approvals: Mapping[str, str] = MappingProxyType({}),
) -> RunStore:
    """Make a run's folder, never an existing one, with its first record.

    Raises:
        RunbookError: the folder cannot be made.
    """
    started = now()
    folder = root / profile.name / f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise UsageError(
            "cannot make the folder of the run",
            where=str(folder),
            reason=error.strerror,
            remedy="choose a folder that you may write to: --output or LLMD_RUNBOOK_OUTPUT",
        ) from None
    store = RunStore(folder)
    run = Run(
        id=store.run_id,
        profile=ProfileRecord(
            name=profile.name,
            path=str(profile.path),
            digest=profile.digest,
            content=profile.model_dump(mode="json"),
        ),
        simulated=cluster.simulated,
        cluster=cluster,
        how=how,
        who=who(),
        code=code(PROJECT_ROOT),
        tools=tools(),
        process=process,
        status=Status.RUNNING if how is How.CLI else Status.OPEN,
        started=started,
        requested=requested or [],
        approvals=dict(approvals),
        stages=[StageRecord(stage=stage) for stage in requested or []],
    )
    store._write(run)
    return store


def all_runs(root: Path, profile: str = "*") -> list[RunStore]:
    """The runs below an output folder, newest first."""
    manifests = root.glob(f"{profile}/*/{MANIFEST}")
    folders = [path.parent for path in manifests if _RUN_ID.fullmatch(path.parent.name)]
    return [RunStore(folder) for folder in sorted(folders, key=lambda folder: folder.name, reverse=True)]


def find(root: Path, profile: str, run_id: str) -> RunStore:
    """The run of this profile with exactly this id.

    Raises:
        UsageError: not an id, or no such run; the newest ones are named.
    """
    store = RunStore(root / profile / run_id)
    if _RUN_ID.fullmatch(run_id) and (store.folder / MANIFEST).is_file():
        return store
    known = ", ".join(other.run_id for other in all_runs(root, profile)[:3]) or "none yet"
    raise UsageError(
        f"no run {run_id!r} of profile {profile!r}",
        where=str(root / profile),
        remedy=f'give the id of a run (newest: {known}), "" for the one that is open, or "new"',
    )
