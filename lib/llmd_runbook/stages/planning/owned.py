"""What a GitOps tool or a controller owns is not changed: it would undo that. The plan ends with what to commit."""

from __future__ import annotations

from collections.abc import Sequence

from llmd_runbook.analysis.manifest_diff import diff, name_of, shaped
from llmd_runbook.analysis.owners import owner
from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.clients.live import LiveObjects
from llmd_runbook.errors import Conflict, Forbidden
from llmd_runbook.profile import Profile


def refuse(
    kube: Kubernetes, profile: Profile, *, applied: Sequence[Object] = (), removed: Sequence[Object] = ()
) -> None:
    """Return where nobody else owns what the run would apply or remove; an object that is as it shall be counts for
    nobody, nor does one that the caller may not read (the plan names it).

    Raises:
        Conflict: with owners, and the patch to commit where each takes its objects from.
    """
    live, said, patches = LiveObjects(kube, profile.namespace), [], []
    for item, stays in [*((item, True) for item in applied), *((item, False) for item in removed)]:
        try:
            there = live.find(item)
        except Forbidden:
            continue
        who = owner(there) if there else ""
        if there is None or not who:
            continue
        name = name_of(item, profile.namespace)
        if patch := diff(name, shaped(there, item), item if stays else None):
            said.append(f"{name}: {who}")
            patches.append(patch)
    if said:
        raise Conflict(
            f"{len(said)} objects that this plan would change are in somebody else's care; nothing was changed",
            where=f"namespace {profile.namespace}",
            reason="; ".join(said),
            remedy="commit this where the owner takes them from, or take them out of its care, and run again:\n"
            + "\n".join(patches),
        )
