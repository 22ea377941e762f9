"""Whether a change is there, judged from the object that it was for: its answer was lost. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmd_runbook.analysis.manifest_diff import Manifest, shaped

Made = Callable[[Manifest | None], bool | None]
"""Of the object as it is now, None where there is none: whether the change is there; None where that cannot be told."""

_WRITTEN_BY_THE_SERVER = ("metadata", "status")


def applied(manifest: Manifest) -> Made:
    """Of a server-side apply or a creation: every field that was sent is in the object."""
    return lambda found: found is not None and shaped(found, manifest) == manifest


def replaced(manifest: Manifest) -> Made:
    """Of a replacement: the object was written since it was read, and has exactly the content that was sent."""

    def made(found: Manifest | None) -> bool:
        if found is None or found["metadata"].get("resourceVersion") == manifest["metadata"].get("resourceVersion"):
            return False
        return _content(found) == _content(manifest)

    return made


def scaled(replicas: int) -> Made:
    """Of a change of a Deployment's replicas."""
    return lambda found: found is not None and found["spec"].get("replicas", 1) == replicas


def deleted(uid: str) -> Made:
    """Of a deletion: the object with that UID is gone, or it is on its way."""
    return lambda found: (
        found is None or found["metadata"]["uid"] != uid or bool(found["metadata"].get("deletionTimestamp"))
    )


def patched(operations: list[Manifest]) -> Made:
    """Of a JSON Patch (RFC 6902), which is made as a whole or not at all: each value that it sets is there, each key
    that it removes is not. What it inserts into a list, or takes from one, moves others and cannot be told."""
    last = {operation["path"]: operation for operation in operations if operation["op"] != "test"}

    def made(found: Manifest | None) -> bool | None:
        if found is None:
            return False
        answers = [_operated(found, operation) for operation in last.values()]
        return False if False in answers else None if None in answers else True

    return made


def _operated(item: Any, operation: Manifest) -> bool | None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    try:
        for part in parents:
            item = item[int(part) if isinstance(item, list) else part]
    except (LookupError, ValueError, TypeError):
        return bool(operation["op"] == "remove")
    if not isinstance(item, dict):
        return None
    if operation["op"] == "remove":
        return last not in item
    return last in item and bool(shaped(item[last], operation["value"]) == operation["value"])


def _content(item: Manifest) -> Manifest:
    return {key: value for key, value in item.items() if key not in _WRITTEN_BY_THE_SERVER}
