"""A papermill engine whose notebook tells the truth, however the execution ends.

Papermill's own engine calls cells "completed" after a time-out, a dead kernel or Ctrl-C, and writes in place.
Here the cell that was running is `failed`, cells that were never reached stay `pending`, the reason stands in
the metadata, what a cell still says when it is interrupted is kept, and every save replaces a whole file.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import ensure_async
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from llmd_runbook.manifest import ErrorRecord
from llmd_runbook.records.signals import Interruption
from llmd_runbook.run.display import PROGRESS_MIME
from llmd_runbook.run.files import write_atomically
from llmd_runbook.run.kernel import redacted

ENGINE = "llmd-runbook"
_AUTOSAVE_S = 5.0
_INTERRUPT_GRACE_S = 5.0
_KERNEL_START_TIMEOUT_S = 60

Progress = dict[str, Any]
_log = logging.getLogger(__name__)
_log.addHandler(logging.NullHandler())


class StageFailed(Exception):
    """An execution that did not reach the end of its notebook; `record` says why."""

    def __init__(self, record: ErrorRecord, *, by_cell: bool) -> None:
        super().__init__(record.message)
        self.record = record
        self.by_cell = by_cell


@dataclass(frozen=True)
class Job:
    """What to execute and where to keep it.

    Attributes:
        notebook: the source.
        record: the file to write, as it goes on and at the end.
        parameters: for the cell tagged `parameters`.
        environment: added to the kernel's environment.
        timeout_s: for all cells together; the kernel's start has a limit of its own.
        on_progress: called with each progress message of a stage.
        interruption: asked between cells, and heard while one runs.
        last_tag: the first cell with this tag is the last one that is executed; without it, all are.
    """

    notebook: Path
    record: Path
    parameters: dict[str, Any]
    environment: dict[str, str]
    timeout_s: float
    on_progress: Callable[[Progress], None]
    interruption: Interruption
    last_tag: str = ""


def execute(job: Job) -> None:
    """Execute a notebook in a kernel of its own, and keep the record.

    Raises:
        StageFailed: a cell raised, the time ran out, the kernel died or never started.
        KeyboardInterrupt: somebody ended it; the record is complete.
    """
    try:
        papermill.execute_notebook(
            job.notebook,
            None,
            job.parameters,
            engine_name=ENGINE,
            progress_bar=False,
            cwd=job.notebook.parent,
            job=job,
        )
    except PapermillExecutionError as error:
        record = ErrorRecord(kind=error.ename, message=redacted(error.evalue), cell=_first_line(error.source))
        raise StageFailed(record, by_cell=True) from None


class _Record(NotebookExecutionManager):
    """Papermill's bookkeeping, saved whole and redacted, without guesses about cells that never ran."""

    def __init__(self, nb: Any, job: Job) -> None:
        super().__init__(nb, output_path=str(job.record), progress_bar=False, autosave_cell_every=_AUTOSAVE_S)
        self._file = job.record
        nb.metadata.papermill["output_path"] = str(job.record)

    def save(self, **_: Any) -> None:
        clean = nbformat.from_dict(redacted(copy.deepcopy(self.nb)))
        for cell in clean.cells:
            if cell.cell_type == "code":
                cell.outputs = _joined(cell.outputs)
        write_atomically(self._file, nbformat.writes(clean) + "\n")
        self.last_save_time = self.now()

    def notebook_complete(self, **_: Any) -> None:
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self.save()

    def ended_by(self, record: ErrorRecord) -> None:
        """Say in the notebook what ended it."""
        self.nb.metadata.papermill["exception"] = True
        self.nb.metadata["llmd_runbook"] = {"ended_by": record.model_dump(mode="json")}


class _Client(PapermillNotebookClient):
    """Executes cell by cell; forwards progress; interrupts the kernel before it gives up."""

    def __init__(self, record: _Record, job: Job, **options: Any) -> None:
        super().__init__(record, **options)
        self._job = job
        self._deadline_s = 0.0

    def papermill_execute_cells(self) -> None:
        self._deadline_s = time.monotonic() + self._job.timeout_s
        for index, cell in enumerate(self.nb.cells):
            self._job.interruption.check()
            self.nb_man.cell_start(cell, index)
            try:
                ended = run_sync(self._cell)(cell, index)
                if not ended:
                    self._job.interruption.check()
                    message = f"the stage did not end within its {self._job.timeout_s:g} s"
                    raise _failure("TimedOut", message, cell)
            except CellExecutionError:
                self.nb_man.cell_exception(self.nb.cells[index], cell_index=index)
                return
            except DeadKernelError:
                self.nb_man.cell_exception(cell, cell_index=index)
                raise _failure("KernelDied", self._death(), cell) from None
            except BaseException:
                self.nb_man.cell_exception(cell, cell_index=index)
                raise
            finally:
                self.nb_man.cell_complete(self.nb.cells[index], cell_index=index)
            if self._job.last_tag in cell.metadata.get("tags", []):
                return

    async def _cell(self, cell: Any, index: int) -> bool:
        """Execute one cell; False when the time or somebody's patience ended first. What it said is kept."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        work = asyncio.ensure_future(self.async_execute_cell(cell, index))
        stopped = asyncio.ensure_future(stop.wait())
        with self._job.interruption.waking(lambda: loop.call_soon_threadsafe(stop.set)):
            left_s = max(0.0, self._deadline_s - time.monotonic())
            await asyncio.wait({work, stopped}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if work.done():
            work.result()
            return True
        await ensure_async(self.km.interrupt_kernel())
        await asyncio.wait({work}, timeout=_INTERRUPT_GRACE_S)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return False

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data"):
            progress = msg["content"]["data"].get(PROGRESS_MIME)
            if progress is not None:
                self._job.on_progress(redacted(progress))
        return super().process_message(msg, cell, cell_index)

    def end_kernel(self) -> None:
        """End a kernel that was still starting when the execution ended."""
        if self.km is not None and self.km.has_kernel:
            self._cleanup_kernel()

    def _death(self) -> str:
        code = self.km.provisioner.process.poll()
        if code is None or code >= 0:
            return f"the kernel ended with exit status {code}"
        name = signal.Signals(-code).name
        hint = "; out of memory, or somebody killed it" if name == "SIGKILL" else ""
        return f"the kernel was ended by {name}{hint}"


class TruthfulEngine(NBClientEngine):
    """The engine, for papermill's registry."""

    @classmethod
    def execute_notebook(cls, nb: Any, kernel_name: str, *, job: Job, **_: Any) -> Any:
        """Execute and keep the record; whatever ends it, the record is complete.

        Raises:
            StageFailed: time-out, dead kernel, no kernel.
            KeyboardInterrupt: somebody ended it.
        """
        record = _Record(nb, job)
        record.notebook_start()
        client = _Client(
            record,
            job,
            kernel_name=kernel_name,
            startup_timeout=_KERNEL_START_TIMEOUT_S,
            coalesce_streams=True,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            log=_log,
        )
        try:
            client.execute(env={**os.environ, **job.environment})
        except StageFailed as failed:
            record.ended_by(failed.record)
            raise
        except KeyboardInterrupt as error:
            record.ended_by(ErrorRecord(kind="Interrupted", message=str(error) or "SIGINT"))
            raise
        except Exception as error:
            failure = ErrorRecord(kind=type(error).__name__, message=redacted(str(error)))
            record.ended_by(failure)
            raise StageFailed(failure, by_cell=False) from error
        finally:
            client.end_kernel()
            record.notebook_complete()
        return nb


papermill_engines.register(ENGINE, TruthfulEngine)


def _failure(kind: str, message: str, cell: Any) -> StageFailed:
    return StageFailed(ErrorRecord(kind=kind, message=message, cell=_first_line(cell.source)), by_cell=False)


def _first_line(source: str) -> str:
    return str(redacted(next((line for line in source.splitlines() if line.strip()), "")))


def _joined(outputs: list[Any]) -> list[Any]:
    """Neighbouring pieces of one stream as one output."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    return joined
