"""Whose selectors reach whose pods, when several patterns live in one namespace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from llmd_runbook.analysis.routing_lint import selects


@dataclass(frozen=True)
class Selecting:
    """What selects pods: `what` is `Kind name`, `of` the pattern, `selector` a label selector (the API's JSON)."""

    what: str
    of: str
    selector: Mapping[str, Any]


@dataclass(frozen=True)
class PodTemplate:
    """Pods to be: `what` makes them, `of` is the pattern."""

    what: str
    of: str
    labels: Mapping[str, str]


def overlaps(selecting: Iterable[Selecting], pods: Iterable[PodTemplate]) -> list[str]:
    """Every selector of one pattern that matches pods of another, in both directions, each said once.

    A Deployment whose selector matches foreign pods is not supported by Kubernetes; an InferencePool's picker sends
    requests to foreign pods, which answer 404 for a model that they do not serve.
    """
    templates = list(pods)
    return sorted(
        {
            f"{one.what} ({one.of}) selects the pods of {other.what} ({other.of})"
            for one in selecting
            for other in templates
            if one.of != other.of and selects(one.selector, other.labels)
        }
    )


def own_labels(model: str, shared: Mapping[str, str]) -> dict[str, str]:
    """Labels that no other model's pods have: what a pattern's InferencePool selects by, and the model's name.

    >>> own_labels("Qwen/Qwen2.5-3B-Instruct", {"llm-d.ai/guide": "optimized-baseline"})
    {'llm-d.ai/guide': 'optimized-baseline', 'llm-d.ai/model': 'Qwen2.5-3B-Instruct'}
    """
    return {**shared, "llm-d.ai/model": model.rpartition("/")[2][:63]}
