"""Parameter files in YAML: read with the line of every key, so that each error names file, line, key and value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmd_runbook.errors import ProfileError

Loc = tuple[str | int, ...]


def read(file: Path, kind: str, example: str) -> tuple[dict[str, Any], dict[Loc, int]]:
    """A file's content, and the line of each of its keys.

    Args:
        kind: what the file is, for messages: `profile`, `price file`.
        example: a file to start from.

    Raises:
        ProfileError: missing file, bad YAML, a key that stands twice, no mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
        lines = dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"cannot read the {kind}", where=str(file), reason=str(error), remedy="check the file"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        reason = getattr(error, "problem", None) or str(error)
        raise ProfileError(f"the {kind} is not YAML", where=where, reason=reason, remedy="mend that line") from None
    if not isinstance(content, dict):
        raise ProfileError(
            f"the {kind} is empty or no mapping", where=f"{file}:1", remedy=f"start from parameters/{example}"
        )
    return content, lines


def explain(
    error: ValidationError,
    file: Path,
    lines: dict[Loc, int],
    *,
    kind: str,
    known_keys: Callable[[Loc], list[str]],
    tags: frozenset[str],
    see: str,
) -> ProfileError:
    """What pydantic found wrong, each with file, line, key, value and remedy; all of it at once.

    Args:
        known_keys: the keys that are known beside an unknown one.
        tags: parts of pydantic's locations that are no keys of the file.
        see: where the keys are described.
    """
    messages = []
    for detail in error.errors():
        loc = tuple(part for part in detail["loc"] if part not in tags)
        line = next((lines[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in lines), 1)
        key = ".".join(map(str, loc)) or f"the whole {kind}"
        match detail["type"]:
            case "extra_forbidden":
                text, remedy = "unknown key", f"remove it; known here: {', '.join(known_keys(loc[:-1]))}"
            case "missing":
                text, remedy = "missing key", "add it"
            case _:
                text, remedy = detail["msg"].removeprefix("Value error, "), "correct the value"
        value = (
            "" if detail["type"] == "missing" or isinstance(detail["input"], dict) else f" (value: {detail['input']!r})"
        )
        known = detail["type"] != "extra_forbidden"  # a misspelt key explains the one that is missing
        messages.append((known, line, f"{file}:{line}: {key}: {text}{value}", remedy))
    messages.sort()
    (_, _, first, remedy), *rest = messages
    others = "".join(f"\n          {text}" for _, _, text, _ in rest)
    return ProfileError(
        f"the {kind} cannot be used; nothing was started", where=first + others, remedy=f"{remedy} ({see})"
    )


def _lines(node: yaml.Node | None, loc: Loc = ()) -> Iterator[tuple[Loc, int]]:
    if node is None:
        return
    yield loc, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
            yield from ((at, line) for at, line in _lines(value, (*loc, key.value)) if at != (*loc, key.value))
            yield (*loc, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*loc, index))
