"""Where a run happens: process, account, tools, commit, and who executes the notebook."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from llmd_runbook.manifest import Code, How, Process, Who

RECORDER_VARIABLE = "LLMD_RUNBOOK_RECORDER"
PLAN_ONLY_VARIABLE = "LLMD_RUNBOOK_PLAN_ONLY"
_PACKAGES = ("llmd-runbook", "papermill", "scrapbook", "kubernetes", "google-cloud-container")


def this_process() -> Process:
    """The process that calls."""
    own = psutil.Process()
    return Process(pid=own.pid, host=socket.gethostname(), started_s=own.create_time())


def alive(process: Process) -> bool:
    """False when the process is known to be gone; on another host nothing is known."""
    if process.host != socket.gethostname():
        return True
    try:
        found = psutil.Process(process.pid)
        same = abs(found.create_time() - process.started_s) < 1.0
        return bool(same and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def machine() -> str:
    """What tells the process numbers of this machine or container from another's; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return hashlib.sha256(f"{boot} {numbers}".encode()).hexdigest()[:12]


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def how() -> How:
    """Who executes: our runner says so, Jupyter's server names its session, nbval runs inside pytest."""
    if os.environ.get(RECORDER_VARIABLE) == "runner":
        return How.CLI
    if not in_kernel():
        return How.PYTHON
    if "JPY_SESSION_NAME" in os.environ:
        return How.LAB
    return How.NBVAL if parent_runs("pytest") else How.PAPERMILL


def parent_runs(word: str) -> bool:
    """Whether the parent's command line names this program."""
    parent = psutil.Process().parent()
    return parent is not None and any(word in Path(argument).name for argument in parent.cmdline()[:3])


def parent_process() -> Process | None:
    """The parent; None when it is gone."""
    parent = psutil.Process().parent()
    if parent is None:
        return None
    return Process(pid=parent.pid, host=socket.gethostname(), started_s=parent.create_time())


def who() -> Who:
    """The account and the machine."""
    return Who(user=getpass.getuser(), host=socket.gethostname())


def tools() -> dict[str, str]:
    """Versions of what takes part; helm and kubectl where they are found."""
    found = {"python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in _PACKAGES}
    helm = _output(["helm", "version", "--template", "{{.Version}}"])
    kubectl = _output(["kubectl", "version", "--client", "--output", "json"])
    if helm:
        found["helm"] = helm
    if kubectl:
        found["kubectl"] = str(json.loads(kubectl)["clientVersion"]["gitVersion"])
    return found


def code(root: Path) -> Code:
    """Commit of the checkout at `root`, and whether its files differ from it."""
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    if not commit:
        return Code(commit=None, dirty=None)
    changes = _output(["git", "-C", str(root), "status", "--porcelain"])
    return Code(commit=commit, dirty=changes is None or bool(changes))


def _output(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
