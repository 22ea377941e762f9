"""What can be compared of two servers: the shapes of their answers and the families of their metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

Facts = dict[str, str]
"""Each fact of a surface by its name: a field and its type, a family and its labels."""


@dataclass(frozen=True)
class Call:
    """One request; `raw` instead of `body` for what is no JSON."""

    method: str
    path: str
    body: object = None
    raw: bytes | None = None
    content_type: str = "application/json"


def ask(client: httpx.Client, call: Call) -> httpx.Response:
    """Send it."""
    content = call.raw if call.raw is not None else json.dumps(call.body).encode() if call.body is not None else None
    headers = {"content-type": call.content_type} if content is not None else {}
    return client.request(call.method, call.path, content=content, headers=headers)


def answer(response: httpx.Response) -> Facts:
    """Status, content type and body of an answer; of an error, the values too."""
    kind = response.headers.get("content-type", "none")
    verbatim = response.status_code >= 400
    facts = {"status": str(response.status_code), "content-type": kind}
    if kind.startswith("text/event-stream"):
        return facts | _events(response.text)
    if not kind.startswith("application/json"):
        return facts | {"body": repr(response.text)}
    return facts | fields(response.json(), verbatim=verbatim)


def fields(value: Any, *, verbatim: bool, path: str = "") -> Facts:
    """Every field of a JSON value: its type, or its value with `verbatim`; of a list, the fields of all items."""
    if isinstance(value, dict) and value:
        parts = [
            fields(item, verbatim=verbatim, path=f"{path}.{name}" if path else name) for name, item in value.items()
        ]
    elif isinstance(value, list) and value:
        parts = [fields(item, verbatim=verbatim, path=f"{path}[]") for item in value]
    else:
        shown = json.dumps(value) if verbatim or value in (None, {}, []) else type(value).__name__
        return {path: shown}
    return {name: shown for part in parts for name, shown in part.items()}


def families(text: str) -> Facts:
    """Every family of a metrics page with its type, each of its labels, the bounds of its buckets.

    The times at which counters were created are one fact together: every family has them, or none.
    """
    facts: Facts = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            facts["*_created"] = family.type
            continue
        facts[family.name] = family.type
        labels = {name for sample in family.samples for name in sample.labels} - {"le", "quantile"}
        facts |= {f"{family.name}{{{label}}}": "label" for label in labels}
        if bounds := dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels):
            facts[f"{family.name} buckets"] = " ".join(bounds)
    return facts


def compare(where: str, simulated: Mapping[str, str], real: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Where two surfaces differ: the simulator's fact and the real one, `-` where there is none.

    Answers with different status are not compared any further, nor are the labels of a family that one lacks.
    """
    names = sorted({*simulated, *real})
    if simulated.get("status") != real.get("status"):
        names = ["status"]
    alone = {name for name in names if (name in simulated) != (name in real)}
    names = [name for name in names if _family(name) == name or _family(name) not in alone]
    return {
        f"{where}: {name}": (simulated.get(name, "-"), real.get(name, "-"))
        for name in names
        if simulated.get(name) != real.get(name)
    }


def _family(name: str) -> str:
    return name.partition("{")[0].removesuffix(" buckets")


def _events(text: str) -> Facts:
    """The events of a stream: the first, the last with a choice, and those without; those between as one."""
    *events, done, rest = text.split("\n\n")
    facts = {"end": f"{done!r} {rest!r}"}
    bodies = [json.loads(event.removeprefix("data: ")) for event in events]
    with_choice = [body for body in bodies if body["choices"]]
    named = {"first": with_choice[:1], "between": with_choice[1:-1], "last": with_choice[-1:]}
    named["usage"] = [body for body in bodies if not body["choices"]]
    for name, kind in named.items():
        for body in kind:
            facts |= {f"{name}.{field}": shown for field, shown in fields(body, verbatim=False).items()}
    return facts
