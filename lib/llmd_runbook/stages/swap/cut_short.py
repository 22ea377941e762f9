"""A release tool that did not see the end of what it began: what is in the cluster is the verdict, not its time-out."""

from __future__ import annotations

from llmd_runbook.analysis.manifest_diff import name_of, shaped
from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.clients.live import LiveObjects
from llmd_runbook.clients.releases.base import Driver
from llmd_runbook.errors import ClusterError, RunbookError, ToolCutShort, ToolError
from llmd_runbook.run import StepHandle

_HOOK = "helm.sh/hook"


def apply(kube: Kubernetes, driver: Driver, namespace: str, step: StepHandle) -> list[str]:
    """Install or upgrade a driver's releases; the names of those that were changed.

    Where the tool is cut short (`ToolCutShort`) and all objects of the releases that it was at are as rendered, helm's
    record of them is settled, the step says so, and what it had not begun is begun: whether the pods get ready is for
    the caller to watch.

    Raises:
        ToolError: it failed for another reason, or objects are missing, or that cannot be told.
    """
    settled: list[str] = []
    while True:
        try:
            outcomes = driver.apply(step.progress)
        except ToolCutShort as error:
            step.progress(f"{error.what}: looking up what is there")
            left, begun = _looked_up(kube, driver, namespace, error)
            lacking = [text for name in begun or left for text in left[name]]
            lacking += [f"helm's record of {name} was settled once already" for name in begun if name in settled]
            if lacking:
                raise _failed(error, f"looked up what is there: {'; '.join(lacking)}") from error
            driver.settle(begun, step.progress)
            settled += begun
            step.remark(
                f"{error.what}, which is no verdict: looked up, and all objects of {', '.join(begun or left)} "
                "are there as rendered; whether their pods get ready decides"
            )
            if not any(left.values()):
                return settled or list(left)
        else:
            return list(dict.fromkeys([*settled, *(item.release for item in outcomes if item.status == "changed")]))


def _looked_up(
    kube: Kubernetes, driver: Driver, namespace: str, error: ToolCutShort
) -> tuple[dict[str, list[str]], list[str]]:
    """What each release lacks, in words, and the names of those that helm's record has as failed or half done."""
    live = LiveObjects(kube, namespace)
    try:
        left = {name: _lacking(live, driver.render([name]), namespace) for name in driver.names()}
        recorded = {item.name: item.status for item in driver.installed(namespace)}
    except (ClusterError, ToolError) as failed:
        unknown = f"what is there now could not be looked up: {failed.in_short}"
        raise _failed(error, unknown) from failed
    return left, [name for name in left if recorded.get(name, "deployed") != "deployed"]


def _lacking(live: LiveObjects, manifests: list[Object], namespace: str) -> list[str]:
    """Objects that are absent or differ; a Secret's values are not compared, nor replicas, which may be scaled."""
    found = []
    for item in manifests:
        if _HOOK in (item["metadata"].get("annotations") or {}):
            continue  # helm may have deleted it after its use
        there, wanted = live.find(item), _compared(item)
        if there is None or there["metadata"].get("deletionTimestamp"):
            found.append(f"{name_of(item, namespace)} is absent")
        elif shaped(there, wanted) != wanted:
            found.append(f"{name_of(item, namespace)} differs")
    return found


def _compared(manifest: Object) -> Object:
    if manifest["kind"] == "Secret":
        return {key: value for key, value in manifest.items() if key not in ("data", "stringData")}
    if manifest["kind"] == "Deployment":
        spec = {key: value for key, value in manifest["spec"].items() if key != "replicas"}
        return {**manifest, "spec": spec}
    return manifest


def _failed(error: RunbookError, why: str) -> ToolError:
    """The tool's error, with what became of what it was to change."""
    reason = "\n".join([*([error.reason] if error.reason else []), why])
    return ToolError(error.what, where=error.where, reason=reason, remedy=error.remedy)
