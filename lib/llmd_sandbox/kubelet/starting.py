"""What goes wrong on purpose when a model server starts: an annotation of its node says so."""

from __future__ import annotations

from llmd_sandbox.kube import Object

START = "llmd-sandbox/start"
"""The annotation of a Node: `oom`, `hang`, `cuda-oom` or `forbidden`, for containers with a GPU that start there from
now on. The last two are for the simulated vLLM, which says them in the words of the real one."""

DOWNLOAD_S = "llmd-sandbox/download-s"
"""The annotation of a Node: how long the simulated vLLM downloads its weights there, seconds times the site's scale."""

_INSTEAD = {
    "oom": ["sh", "-c", "echo 'loading the model' && sleep 0.2 && kill -KILL $$"],
    "hang": ["sh", "-c", "echo 'loading the model' && exec sleep infinity"],
}


def instead(node: Object | None, container: Object) -> list[str] | None:
    """The command line that runs in the container's place; None where it runs as it is."""
    limits = (container.get("resources") or {}).get("limits") or {}
    if node is None or "nvidia.com/gpu" not in limits:
        return None
    return _INSTEAD.get((node["metadata"].get("annotations") or {}).get(START, ""))


def variables(node: Object | None) -> dict[str, str]:
    """What the simulated vLLM is told of its node's network, and of how its start ends."""
    said = (node["metadata"].get("annotations") or {}) if node else {}
    how = said.get(START, "")
    found = {"LLMD_SANDBOX_DOWNLOAD_S": said.get(DOWNLOAD_S), "LLMD_SANDBOX_START": "" if how in _INSTEAD else how}
    return {name: str(value) for name, value in found.items() if value}


def reason(argv: list[str], exit_code: int) -> str | None:
    """Why a container ended, where the exit code alone does not say it."""
    return "OOMKilled" if argv == _INSTEAD["oom"] and exit_code == 137 else None
