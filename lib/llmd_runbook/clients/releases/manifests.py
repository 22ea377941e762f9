"""Kubernetes manifests as the tools print them."""

from __future__ import annotations

import json
from typing import Any

import yaml

from llmd_runbook.errors import REDACTED, ToolError

Manifest = dict[str, Any]
_SHOWN = 80


def parse(text: str, where: str) -> list[Manifest]:
    """The objects in a stream of YAML documents; a `List` counts as its items.

    Raises:
        ToolError: the text is not YAML, or holds what is no object; `where` is the command that printed it.
    """
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ToolError(
            "the rendered manifests are not YAML",
            where=where,
            reason=f"{line}{getattr(error, 'problem', error)}",
            remedy="look at the chart's templates and at the values that they quote",
        ) from None
    objects: list[Manifest] = []
    for document in documents:
        if not isinstance(document, dict):
            raise ToolError(
                "what was printed are no manifests",
                where=where,
                reason=f"an object was expected, not {str(document)[:_SHOWN]!r}",
                remedy="run it by hand: a wrapper of the tool, or a plug-in, may print to its standard output",
            )
        objects += document["items"] if document.get("kind") == "List" else [document]
    return objects


def without_secrets(manifest: Manifest) -> Manifest:
    """The manifest; of a Secret only its name, labels, type and the keys of its data."""
    if manifest.get("kind") != "Secret":
        return manifest
    kept: Manifest = {key: manifest[key] for key in ("apiVersion", "kind", "type") if key in manifest}
    metadata = manifest.get("metadata") or {}
    kept["metadata"] = {key: metadata[key] for key in ("name", "namespace", "labels") if key in metadata}
    for part in ("data", "stringData"):
        if manifest.get(part):
            kept[part] = dict.fromkeys(manifest[part], REDACTED)
    return kept


def same(one: list[Manifest], other: list[Manifest]) -> bool:
    """Whether both hold the same objects, in whatever order."""
    return sorted(map(_canonical, one)) == sorted(map(_canonical, other))


def _canonical(manifest: Manifest) -> str:
    return json.dumps(manifest, sort_keys=True, default=str)
