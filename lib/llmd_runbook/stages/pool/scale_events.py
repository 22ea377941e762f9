"""What the cluster's autoscaler says of pods that wait for a node, in its Events."""

from __future__ import annotations

from collections.abc import Collection

from llmd_runbook.clients.kubernetes import EVENTS, Kubernetes, Object
from llmd_runbook.topology import condition

TRIGGERED = "TriggeredScaleUp"
_REASONS = (TRIGGERED, "NotTriggerScaleUp", "FailedScaleUp")
"""It makes nodes for the pod, it makes none, it could not."""


def words(kube: Kubernetes, namespace: str, pods: Collection[str]) -> dict[str, str]:
    """The autoscaler's last word on each of these pods, as `REASON: message`; GKE forgets Events after an hour."""
    found: dict[str, tuple[str, str]] = {}
    for event in kube.all(EVENTS, namespace):
        about, reason = event.get("involvedObject", {}), event.get("reason", "")
        if about.get("kind") != "Pod" or about.get("name") not in pods or reason not in _REASONS:
            continue
        when = _when(event)
        if about["name"] not in found or found[about["name"]][0] <= when:
            found[about["name"]] = when, f"{reason}: {event.get('message', '')}"
    return {name: said for name, (_, said) in found.items()}


def waits_for_a_node(pod: Object) -> bool:
    """Whether the scheduler found no node for a pod."""
    return condition(pod.get("status", {}), "PodScheduled").startswith("False")


def _when(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp", ""))
