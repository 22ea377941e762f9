"""What the cluster's autoscaler says of pods that wait for a node, in its Events."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llmd_runbook.clients.kubernetes import EVENTS, Kubernetes, Object
from llmd_runbook.topology import condition

TRIGGERED, NOT_TRIGGERED = "TriggeredScaleUp", "NotTriggerScaleUp"
_REASONS = (TRIGGERED, NOT_TRIGGERED, "FailedScaleUp")
"""It makes nodes for the pod, it makes none, it could not."""


def words(kube: Kubernetes, namespace: str, pods: Collection[str]) -> dict[str, str]:
    """The autoscaler's last word on each of these pods, as `REASON: message`; GKE forgets Events after an hour."""
    about_pods = [item for item in kube.all(EVENTS, namespace) if item.get("involvedObject", {}).get("kind") == "Pod"]
    found = {name: [event for event in about_pods if event["involvedObject"].get("name") == name] for name in pods}
    return {name: said for name, events in found.items() if (said := last_word(sorted(events, key=when)))}


def last_word(events: Iterable[Object]) -> str:
    """The autoscaler's last word among Events about one pod, the latest last; empty where it said nothing."""
    said = [f"{event['reason']}: {event.get('message', '')}" for event in events if event.get("reason") in _REASONS]
    return said[-1] if said else ""


def waits_for_a_node(pod: Object) -> bool:
    """Whether the scheduler found no node for a pod."""
    return condition(pod.get("status", {}), "PodScheduled").startswith("False")


def when(event: Object) -> str:
    """When an Event was last seen, as text that sorts by time."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp", ""))
