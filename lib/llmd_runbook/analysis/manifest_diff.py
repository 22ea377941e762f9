"""Kubernetes objects compared for people and pinned for approval. Pure; a Secret's values never leave this module."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import rfc8785
import yaml

Manifest = dict[str, Any]
HIDDEN = "[not shown]"


def name_of(manifest: Manifest, namespace: str) -> str:
    """How an object is called here: `apps/v1 Deployment llm-d/web`; `namespace` where the manifest has none."""
    meta = manifest["metadata"]
    return f"{manifest['apiVersion']} {manifest['kind']} {meta.get('namespace', namespace)}/{meta['name']}"


def digests(manifests: Sequence[Manifest], namespace: str) -> dict[str, str]:
    """`sha256:` of each object's canonical JSON (RFC 8785) by its name; of a Secret, values left out."""
    return {name_of(item, namespace): _digest(hidden(item)) for item in manifests}


def hidden(manifest: Manifest) -> Manifest:
    """The object; where it is a Secret, with its values and all annotations (which may repeat them) hidden."""
    if manifest.get("kind") != "Secret":
        return manifest
    kept = {key: value for key, value in manifest.items() if key not in ("data", "stringData")}
    kept["metadata"] = {key: value for key, value in manifest["metadata"].items() if key != "annotations"}
    return kept | {part: dict.fromkeys(manifest[part], HIDDEN) for part in ("data", "stringData") if manifest.get(part)}


def shaped(live: Any, like: Any) -> Any:
    """Of what the API server holds, the part that a manifest speaks of: defaults and status are left out.

    Keys that `like` lacks are dropped, and empty ones that the server did not keep count as kept; items of a list that
    `like` lacks stay, for a list is replaced as a whole.
    """
    if isinstance(live, dict) and isinstance(like, dict):
        kept = {key: value for key, value in like.items() if key not in live and not value}
        return kept | {key: shaped(live[key], like[key]) for key in like if key in live}
    if isinstance(live, list) and isinstance(like, list):
        both = min(len(live), len(like))
        return [*(shaped(live[at], like[at]) for at in range(both)), *live[both:]]
    return like if not isinstance(like, dict | list) and str(live) == str(like) else live  # "1" and 1: one quantity


def diff(name: str, before: Manifest | None, after: Manifest | None) -> str:
    """Unified diff of two states of an object as YAML, Secrets hidden; empty where nothing differs."""
    old, new = _lines(before), _lines(after)
    if before is not None and after is not None:
        return "\n".join(difflib.unified_diff(old, new, f"{name} (now)", f"{name} (then)", lineterm=""))
    marked = [f"-{line}" for line in old] + [f"+{line}" for line in new]
    heads = [f"--- {name}" if before else "--- (absent)", f"+++ {name}" if after else "+++ (absent)"]
    return "\n".join([*heads, *marked]) if marked else ""


def title(text: str) -> str:
    """What becomes of an object, by the heads of its `diff`: `+` comes, `-` goes, `~` changes."""
    old, new = (line[4:] for line in text.splitlines()[:2])
    if "(absent)" in (old, new):
        return f"+ {new}" if old == "(absent)" else f"- {old}"
    return f"~ {old.removesuffix(' (now)')}"


def _lines(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return []
    return yaml.dump(hidden(manifest), Dumper=_Readable, sort_keys=True, width=1000).splitlines()


class _Readable(yaml.SafeDumper):
    """Texts of several lines (files in a ConfigMap) line by line, so that a diff shows the one that differs."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


def _digest(manifest: Manifest) -> str:
    plain = json.loads(json.dumps(manifest, default=str))  # YAML knows dates, JSON does not
    return f"sha256:{hashlib.sha256(rfc8785.dumps(plain)).hexdigest()}"
