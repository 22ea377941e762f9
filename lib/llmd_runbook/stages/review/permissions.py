"""01: whether the caller may do what the run does, asked of the API server verb by verb. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from llmd_runbook.analysis.access import Need
from llmd_runbook.errors import ToolError
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import roles, site
from llmd_runbook.verdicts import Check, Table, declare

READ = declare(
    "permissions.read",
    "the caller may read all that stages 01, 04, 05 and 06 read",
    "have `llmd-runbook roles PROFILE --observer` applied and bound to the caller",
)
CHANGE = declare(
    "permissions.change",
    "the caller may do every change of stages 02, 03 and 07, helm's included, so that none ends half way",
    "have `llmd-runbook roles PROFILE --operator` applied and bound to the caller",
)


def permissions(stage: StageRun) -> Shown:
    """One SelfSubjectAccessReview a verb and resource."""
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    with stage.step("ask what the caller may do") as step:
        reads = roles.observer(profile)
        trouble = ""
        try:
            changes = sorted(set(roles.operator(profile)) - set(reads))
        except ToolError as error:
            changes, trouble = [], f"what helm would do is not known: {error.in_short}"
        asked = [*reads, *changes]
        answers: dict[Need, bool] = {}
        for index, need in enumerate(asked):
            step.progress(f"{index} of {len(asked)} permissions", done=index, total=len(asked))
            answers[need] = kube.may(need.review())
        step.ok(f"{sum(answers.values())} of {len(asked)} permitted")
    stage.check(judge_reads({need: answers[need] for need in reads}))
    stage.check(judge_changes({need: answers[need] for need in changes}, trouble))
    stage.note(
        "Google Cloud's own permissions",
        "Reading the node pool shows container.clusters.get. That stages 02 and 07 may change it "
        "(container.clusters.update, container.operations.get: roles/container.clusterAdmin) cannot be asked of the "
        f"GKE API: see `gcloud projects get-iam-policy {profile.pool.project}`.",
    )
    counts = Counter((need.namespace or "(cluster)", answers[need]) for need in asked)
    rows: list[list[str | int | float | None]] = [
        [where, counts[where, True], counts[where, False]] for where in sorted({place for place, _ in counts})
    ]
    return stage.table(Table(title="Permissions", columns=["namespace", "permitted", "refused"], rows=rows))


def judge_reads(answers: Mapping[Need, bool]) -> Check:
    """All of them, or the run cannot see what it judges."""
    missing = [str(need) for need, allowed in answers.items() if not allowed]
    return READ.judge(
        not missing and bool(answers),
        expected=f"{len(answers)} permissions to read",
        observed=f"{len(missing)} missing: {'; '.join(missing)}" if missing else "all",
        evidence=missing,
    )


def judge_changes(answers: Mapping[Need, bool], trouble: str = "") -> Check:
    """All of them: half of them is how a change ends half way.

    Who may change nothing at all is an observer, and says nothing of whoever will run the changing stages.
    """
    missing = [str(need) for need, allowed in answers.items() if not allowed]
    writes = [allowed for need, allowed in answers.items() if need.verb not in ("get", "list", "watch")]
    observing = bool(writes) and not any(writes)
    verdict = None if trouble or not answers or observing else not missing
    said = f"{len(missing)} missing: {'; '.join(missing)}" if missing else "all"
    return CHANGE.judge(
        verdict,
        expected=f"{len(answers)} permissions of the operator",
        observed=trouble or ("none: this caller only observes, and the operator was not asked" if observing else said),
        evidence=missing,
    )
