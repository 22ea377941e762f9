"""05, opt-in: the picker logs its choices while the stage runs; the old level is put back, whatever happens.

The old level stands in an annotation of the picker's Deployment as long as it is not put back, so that a later
attempt finds an earlier one's change.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from llmd_runbook.analysis.manifest_diff import diff, name_of
from llmd_runbook.analysis.picker_flags import DEFAULT_VERBOSITY, NEEDED_VERBOSITY, flag, verbosity_flag, with_verbosity
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, Kubernetes, Object
from llmd_runbook.errors import UsageError
from llmd_runbook.plans import Change
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.run.display import Shown, lines
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import owned
from llmd_runbook.stages.planning.planned import Part, permitted, require
from llmd_runbook.topology import endpoint, picker

NAME = "raise_log_level"
ANNOTATION = "llmd-runbook/verbosity-before"
_ARGS = "/spec/template/spec/containers/0/args"
_NOTE = f"/metadata/annotations/{ANNOTATION.replace('/', '~1')}"
_ABSENT = "absent"
_RAISE, _RESTORE = "raise the picker's log level", "put the picker's log level back"


@dataclass(frozen=True)
class PickerArguments:
    """The picker's Deployment as it is: its first container's words, and what an earlier attempt left to put back."""

    deployment: str
    uid: str
    generation: int
    command: list[str]
    args: list[str]
    annotated: bool
    note: str | None

    @property
    def level(self) -> int:
        """The verbosity that its pods have."""
        found = verbosity_flag([*self.command, *self.args])
        return DEFAULT_VERBOSITY if found is None else found

    @property
    def before(self) -> int | None:
        """The arguments' own level, without a change of ours; None where they have none."""
        if self.note is not None:
            return None if self.note == _ABSENT else int(self.note)
        return verbosity_flag(self.args)

    @property
    def facts(self) -> dict[str, object]:
        """What a plan is computed from."""
        name = f"Deployment {self.deployment}"
        return {
            f"{name}: UID": self.uid,
            f"{name}: generation": self.generation,
            f"{name}: arguments": " ".join(self.args),
            f"{name}: level to put back": self.note,
        }


def read(kube: Kubernetes, namespace: str, deployment: str) -> PickerArguments:
    """The picker's arguments now.

    Raises:
        UsageError: its verbosity is no number, or set by a flag that overrides `-v`.
    """
    item = kube.get(DEPLOYMENTS, deployment, namespace)
    meta, container = item["metadata"], item["spec"]["template"]["spec"]["containers"][0]
    notes = meta.get("annotations") or {}
    found = PickerArguments(
        deployment=deployment,
        uid=meta["uid"],
        generation=meta["generation"],
        command=container.get("command") or [],
        args=container.get("args") or [],
        annotated=bool(notes),
        note=notes.get(ANNOTATION),
    )
    try:
        _ = found.level, found.before
        if flag([*found.command, *found.args], "zap-log-level") is not None:
            raise ValueError("--zap-log-level overrides -v")
    except ValueError as error:
        raise UsageError(
            "cannot read the picker's verbosity",
            where=f"deployment {namespace}/{deployment}",
            reason=f"{error}: {' '.join(found.args)}",
            remedy=f"correct its flag -v (and leave --zap-log-level out), or the annotation {ANNOTATION}",
        ) from None
    return found


def planned(kube: Kubernetes, profile: Profile) -> Part:
    """What will be changed.

    Raises:
        Conflict: the picker's Deployment is in somebody else's care, who would put the old level back.
        NotFound, UsageError: there is no picker yet, or its level cannot be read.
    """
    pool = site.pattern3_pool(kube, profile)
    found = read(kube, profile.namespace, picker(kube, profile.namespace, pool).deployment)
    if found.note is None and found.level >= NEEDED_VERBOSITY:
        same = str(found.level)
        return Part(NAME, [Change("log level of the picker (-v)", same, same)])
    owned.refuse(kube, profile, applied=[_raised(found)])
    before = DEFAULT_VERBOSITY if found.before is None else found.before
    now = f"{before} ({found.level} now, by an attempt that did not put it back)" if found.note else str(before)
    return Part(
        NAME,
        [Change("log level of the picker (-v)", now, f"{NEEDED_VERBOSITY} during this stage, then {before} again")],
        [
            f"The picker restarts twice. Each time requests fail until the new one is Ready (strategy Recreate, fail "
            f"closed), and its prefix index is empty: the caches' contents stay, and it does not know of them. "
            f"Deployment {profile.namespace}/{found.deployment}."
        ],
        {
            "deployment": f"{profile.namespace}/{found.deployment}",
            "flag": "v",
            "from": before,
            "to": NEEDED_VERBOSITY,
            "afterwards": before,
        },
        found.facts,
        diffs=_diffs(found, profile.namespace),
        durations=[(step, _deadline_s(profile), "pattern3 and route") for step in (_RAISE, _RESTORE)],
        not_previewed=["The names of the picker's new pods."],
        not_undone=["Requests that fail while the picker restarts are lost; its prefix index starts empty, twice."],
    )


def raise_level(stage: StageRun) -> Shown:
    """Do it, if it is asked for, needed and approved, and wait until the new picker answers."""
    part = permitted(stage, NAME, _RAISE)
    if isinstance(part, Shown):
        return part
    _raise(stage, part)
    return lines(["The picker logs its choices; its prefix index is empty."])


def _raise(stage: StageRun, part: Part) -> None:
    kube, profile = site.kubernetes(stage.profile), stage.profile
    with stage.changing(), stage.step(_RAISE) as step:
        pool = site.pattern3_pool(kube, profile)
        found = read(kube, profile.namespace, picker(kube, profile.namespace, pool).deployment)
        where = f"deployment {profile.namespace}/{found.deployment}"
        require(stage, kube, part, found.facts, where=where)
        stage.undo_at_end(_by_hand(kube, profile.namespace, found), lambda: _put_back(stage, kube, found.deployment))
        if found.level < NEEDED_VERBOSITY:
            raised = with_verbosity(found.args, NEEDED_VERBOSITY)
            operations = [*_noted(found, _note(found)), *_set(found, raised)]
            kube.patch(DEPLOYMENTS, found.deployment, profile.namespace, operations, tell=step.remark)
        _wait(kube, profile, found.deployment, step)
        if found.level < NEEDED_VERBOSITY:
            step.changed(f"-v {found.level} to {NEEDED_VERBOSITY} at {found.deployment}")
        else:
            step.ok(f"-v is {found.level} already, by an attempt that did not put it back")


def restore(stage: StageRun) -> Shown:
    """Put the old level back and wait until the picker answers; nothing where nothing was changed."""
    part = permitted(stage, NAME, _RESTORE)
    if isinstance(part, Shown):
        return part
    kube, profile = site.kubernetes(stage.profile), stage.profile
    with stage.changing(), stage.step(_RESTORE) as step:
        deployment = picker(kube, profile.namespace, site.pattern3_pool(kube, profile)).deployment
        restored = _put_back(stage, kube, deployment)
        if restored is None:
            step.ok("as it was")
        else:
            _wait(kube, profile, deployment, step)
            step.changed(f"-v {restored} at {deployment}")
    return lines([f"The picker's log level is {read(kube, profile.namespace, deployment).level}."])


def _put_back(stage: StageRun, kube: Kubernetes, deployment: str) -> int | None:
    """Undo what the annotation tells; the level that is there again, None where there is nothing to undo."""
    namespace = stage.profile.namespace
    found = read(kube, namespace, deployment)
    if found.note is None:
        return None
    with stage.changing():
        kube.disown(DEPLOYMENTS, kube.patch(DEPLOYMENTS, deployment, namespace, _undone(found)), namespace)
    return DEFAULT_VERBOSITY if found.before is None else found.before


def _undone(found: PickerArguments) -> list[Object]:
    return [*_set(found, with_verbosity(found.args, found.before)), {"op": "remove", "path": _NOTE}]


def _set(found: PickerArguments, args: list[str]) -> list[Object]:
    """Replace the arguments, provided that they are still those of that Deployment."""
    same: list[Object] = [{"op": "test", "path": "/metadata/uid", "value": found.uid}]
    if found.args:
        same.append({"op": "test", "path": _ARGS, "value": found.args})
    return [*same, {"op": "add", "path": _ARGS, "value": args}]


def _note(found: PickerArguments) -> str:
    """What is to be put back, as the annotation says it."""
    return _ABSENT if found.before is None else str(found.before)


def _diffs(found: PickerArguments, namespace: str) -> list[str]:
    """The fields of the Deployment that are changed until the end of the stage."""
    now, then = _shown(found, found.args), _raised(found)
    now["metadata"]["annotations"] = {} if found.note is None else {ANNOTATION: found.note}
    then["metadata"]["annotations"] = {ANNOTATION: _note(found)}
    text = diff(name_of(now, namespace), now, then)
    return [text] if text else []


def _raised(found: PickerArguments) -> Object:
    """The Deployment's fields as they are while the stage runs, without the annotation."""
    enough = found.level >= NEEDED_VERBOSITY
    return _shown(found, found.args if enough else with_verbosity(found.args, NEEDED_VERBOSITY))


def _shown(found: PickerArguments, args: list[str]) -> Object:
    spec = {"template": {"spec": {"containers": [{"args": args}]}}}
    meta = {"name": found.deployment}
    return {"apiVersion": DEPLOYMENTS.api_version, "kind": "Deployment", "metadata": meta, "spec": spec}


def _noted(found: PickerArguments, note: str) -> list[Object]:
    if found.annotated:
        return [{"op": "add", "path": _NOTE, "value": note}]
    return [{"op": "add", "path": "/metadata/annotations", "value": {ANNOTATION: note}}]


def _by_hand(kube: Kubernetes, namespace: str, found: PickerArguments) -> str:
    """The command that puts everything back, whoever reads it and wherever this process ended."""
    operations = [
        {"op": "replace", "path": _ARGS, "value": with_verbosity(found.args, found.before)},
        {"op": "remove", "path": _NOTE},
    ]
    words = ["kubectl", "--context", kube.context, "--namespace", namespace]
    words += ["patch", "deployment", found.deployment, "--type=json", "-p", json.dumps(operations)]
    return shlex.join(words)


def _deadline_s(profile: Profile) -> float:
    return profile.pattern3.ready_timeout_s + profile.route.ready_timeout_s


def _wait(kube: Kubernetes, profile: Profile, deployment: str, step: StepHandle) -> None:
    site.wait_available(kube, profile.namespace, deployment, profile.pattern3.ready_timeout_s, step)
    target = endpoint(kube, profile, profile.pattern3.gateway)
    traffic.wait_for_answer(target, profile, profile.pattern3.model, step)
