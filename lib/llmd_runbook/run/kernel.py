"""The recorder inside a kernel: hears what cells publish, keeps the notebook, and says when a cell fails.

Plain papermill, JupyterLab and nbval do not know of our record, so the kernel keeps it: every message that it
publishes (stream, display, result, error) passes `Session.send`, with the request that it answers.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from llmd_runbook.errors import redact
from llmd_runbook.run.files import write_atomically
from llmd_runbook.run.store import now

OnError = Callable[[str, str, str], None]
_log = logging.getLogger(__name__)


@dataclass
class Output:
    """One output of a cell; `display_id` names those that a later message may replace."""

    node: dict[str, Any]
    display_id: str | None = None


@dataclass
class Execution:
    """One execution of one cell."""

    source: str
    count: int
    started: datetime
    ended: datetime | None = None
    failed: bool = False
    outputs: list[Output] = field(default_factory=list)
    clear_first: bool = False

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """Add what was published, as a notebook keeps it."""
        if kind == "clear_output":
            self.clear_first = bool(content.get("wait"))
            if not self.clear_first:
                self.outputs.clear()
            return
        if self.clear_first:
            self.outputs.clear()
            self.clear_first = False
        last = self.outputs[-1].node if self.outputs else {}
        if kind == "stream" and last.get("name") == content["name"]:
            last["text"] += content["text"]
            return
        node = {"output_type": kind, **{name: content[name] for name in _FIELDS[kind]}}
        self.outputs.append(Output(node, (content.get("transient") or {}).get("display_id")))


_FIELDS = {
    "stream": ("name", "text"),
    "display_data": ("data", "metadata"),
    "execute_result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
}
_SHOWN = frozenset({*_FIELDS, "clear_output"})


class Recorder:
    """Hears one kernel. With a `target` it writes the notebook there, after every cell and when asked.

    Args:
        target: the notebook to keep; None where the runner keeps it.
        source: the notebook that is being executed, for its prose and the cells that never ran.
        parameters: as really used.
        about: run, stage and attempt.
    """

    def __init__(self, target: Path | None, source: Path, parameters: dict[str, Any], about: dict[str, Any]) -> None:
        from IPython import get_ipython  # only a kernel has it loaded

        shell = get_ipython()
        self._target = target
        self._source = source
        self._parameters = parameters
        self._about = about
        self._session = shell.kernel.session
        self._send = self._session.send
        self._language = shell.kernel.language_info
        self._on_error: OnError | None = None
        self._lock = threading.RLock()
        history = shell.history_manager.input_hist_raw
        self._earlier = [
            Execution(source, count, started=now(), ended=now()) for count, source in enumerate(history[1:-1], start=1)
        ]
        current = Execution(history[-1], len(history) - 1, started=now())
        self._executions = {_message_id(shell.get_parent()): current}

    def attach(self, on_error: OnError) -> None:
        """Begin to hear; `on_error` gets kind, message and the first line of the cell."""
        self._on_error = on_error
        self._session.send = self._hear

    def detach(self) -> None:
        """Stop hearing."""
        self._session.send = self._send

    def _hear(
        self,
        stream: Any,
        msg_or_type: Any,
        content: dict[str, Any] | None = None,
        parent: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        sent = self._send(stream, msg_or_type, content, parent, *args, **kwargs)
        if isinstance(msg_or_type, str):
            self._note(msg_or_type, content or {}, _message_id(parent))
        else:
            kind = msg_or_type["header"]["msg_type"]
            self._note(kind, msg_or_type["content"], _message_id(msg_or_type["parent_header"]))
        return sent

    def _note(self, kind: str, content: dict[str, Any], parent: str) -> None:
        with self._lock:
            if kind == "execute_input":
                self._executions[parent] = Execution(content["code"], content["execution_count"], now())
                return
            if kind == "update_display_data":
                self._replace(content)
                return
            execution = self._executions.get(parent)
            if execution is None:
                return
            if kind in _SHOWN:
                execution.take(kind, content)
            ended = kind == "status" and content["execution_state"] == "idle"
            if ended:
                execution.ended = now()
            if kind == "error":
                execution.failed = True
        if kind == "error" and self._on_error:
            line = next((line for line in execution.source.splitlines() if line.strip()), "")
            self._on_error(content["ename"], content["evalue"], line)
        if ended:
            self._keep()

    def _replace(self, content: dict[str, Any]) -> None:
        wanted = content["transient"]["display_id"]
        for execution in self._executions.values():
            for output in execution.outputs:
                if output.display_id == wanted:
                    output.node["data"], output.node["metadata"] = content["data"], content["metadata"]

    def _keep(self) -> None:
        try:
            self.write()
        except OSError as error:
            _log.error("cannot write the record %s: %s", self._target, error)

    def write(self) -> None:
        """Write the notebook as it stands, redacted.

        Raises:
            OSError: it cannot be written.
        """
        if self._target is None:
            return
        with self._lock:
            text = json.dumps(redacted(self._notebook()), indent=1, ensure_ascii=False)
        write_atomically(self._target, text + "\n")

    def _notebook(self) -> dict[str, Any]:
        original = _read(self._source)
        executed = [*self._earlier, *self._executions.values()]
        began = next(iter(self._executions.values())).started
        ended = executed[-1].ended
        metadata = {
            **original["metadata"],
            "language_info": self._language,
            "papermill": {
                "parameters": self._parameters,
                "input_path": str(self._source),
                "output_path": str(self._target),
                "start_time": began.isoformat(),
                "end_time": ended.isoformat() if ended else None,
                "duration": (ended - began).total_seconds() if ended else None,
                "exception": any(execution.failed for execution in executed) or None,
            },
            "llmd_runbook": self._about,
        }
        cells = list(self._cells(original["cells"]))
        return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}

    def _cells(self, original: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The source's cells with what they did; executed ones that it lacks follow the cell before them."""
        places, extra = self._places(original)
        for number, execution in enumerate(extra.get(-1, [])):
            yield _code_cell({"id": f"extra-0-{number}"}, execution)
        for index, cell in enumerate(original):
            known = {"id": f"cell-{index}", **cell}
            yield _code_cell(known, places.get(index)) if cell["cell_type"] == "code" else known
            for number, execution in enumerate(extra.get(index, [])):
                yield _code_cell({"id": f"extra-{index + 1}-{number}"}, execution)

    def _places(self, original: list[dict[str, Any]]) -> tuple[dict[int, Execution], dict[int, list[Execution]]]:
        sources = {index: _text(cell).strip() for index, cell in enumerate(original) if cell["cell_type"] == "code"}
        begun = next(iter(self._executions.values()))
        limit = min((i for i, text in sources.items() if text == begun.source.strip()), default=len(original))
        places: dict[int, Execution] = {}
        extra: dict[int, list[Execution]] = {}
        last = -1
        before = [(execution, True) for execution in self._earlier]
        since = [(execution, False) for execution in self._executions.values()]
        for execution, earlier in [*before, *since]:
            matches = [index for index, text in sources.items() if text == execution.source.strip()]
            following = [index for index in matches if index > last] or matches
            if not following:
                extra.setdefault(last, []).append(execution)
            elif not earlier or following[0] < limit:
                last = following[0]
                places[last] = execution
        return places, extra


def redacted(value: Any) -> Any:
    """JSON values without anything that looks like a credential; bytes (a picture) as base64."""
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case str():
            return redact(value)
        case dict():
            return {key: redacted(item) for key, item in value.items()}
        case list() | tuple():
            return [redacted(item) for item in value]
        case _:
            return value


def _read(source: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    except OSError:
        return {"cells": [], "metadata": {}}
    return content


def _text(cell: dict[str, Any]) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def _message_id(parent: dict[str, Any] | None) -> str:
    return str((parent or {}).get("header", parent or {}).get("msg_id", ""))


def _code_cell(cell: dict[str, Any], execution: Execution | None) -> dict[str, Any]:
    metadata = dict(cell.get("metadata", {}))
    if execution is None:
        metadata["papermill"] = {"status": "pending", "exception": None, "start_time": None, "end_time": None}
        return {**cell, "metadata": metadata, "execution_count": None, "outputs": []}
    if "source" not in cell and execution.source.startswith("# Parameters"):
        metadata["tags"] = ["injected-parameters"]
    status = "failed" if execution.failed else "completed" if execution.ended else "running"
    metadata["papermill"] = {
        "status": status,
        "exception": execution.failed,
        "start_time": execution.started.isoformat(),
        "end_time": execution.ended.isoformat() if execution.ended else None,
        "duration": (execution.ended - execution.started).total_seconds() if execution.ended else None,
    }
    return {
        **cell,
        "cell_type": "code",
        "metadata": metadata,
        "source": execution.source,
        "execution_count": execution.count,
        "outputs": [output.node for output in execution.outputs],
    }
