"""Approvals as an operator gives them, `STAGE=HASH`, and how a stage asks for one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from llmd_runbook.errors import UsageError
from llmd_runbook.plans import Intent, checked_hash
from llmd_runbook.profile import Profile, reference
from llmd_runbook.run.notebooks import takes_approval
from llmd_runbook.verdicts import Approval


def given(words: Sequence[str], chosen: Sequence[str], known: Sequence[str], folder: Path) -> dict[str, str]:
    """The hash for each stage that runs, from words such as `05=HASH` and `@FILE`.

    A file holds lines `STAGE=HASH`, or a YAML mapping from stage to hash. It may approve stages that do not run.

    Args:
        words: as given.
        chosen: the stages that run.
        known: all stages, whose notebooks lie in `folder`.

    Raises:
        UsageError: a word or a file is malformed, names no stage or one with nothing to approve, or approves one twice;
            a word names a stage that does not run.
    """
    found: dict[str, str] = {}
    for word in words:
        in_file = word.startswith("@")
        for where, name, text in _read(word.removeprefix("@")) if in_file else [_split(f"--approve {word}", word)]:
            approved = checked_hash(text, where=where)
            if not approved:
                raise UsageError("an approval has the form STAGE=HASH", where=where, remedy="such as 05=HASH")
            stage = _stage(name, known, folder, where)
            if stage not in chosen and not in_file:
                raise UsageError(f"stage {stage} does not run", where=where, remedy="name it in --stages too")
            if stage in found:
                raise UsageError(f"stage {stage} is approved twice", where=where, remedy="give one hash a stage")
            found[stage] = approved
    return {stage: approved for stage, approved in found.items() if stage in chosen}


def _stage(name: str, known: Sequence[str], folder: Path, where: str) -> str:
    stage = next((stage for stage in known if name in (stage, stage[:2])), None)
    if stage is None:
        raise UsageError(f"unknown stage {name!r}", where=where, remedy=f"name one of: {', '.join(known)}")
    if not takes_approval(folder / f"{stage}.ipynb"):
        able = ", ".join(stage for stage in known if takes_approval(folder / f"{stage}.ipynb"))
        raise UsageError(
            f"stage {stage} has nothing to approve", where=where, remedy=f"stages that have: {able or 'none'}"
        )
    return stage


def _split(where: str, word: str) -> tuple[str, str, str]:
    name, _, text = word.partition("=")
    return where, name.strip(), text.strip()


def _read(file: str) -> list[tuple[str, str, str]]:
    """Where, stage and hash of each approval in a file."""
    where = f"--approve @{file}"
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "cannot read the file of approvals", where=where, reason=str(error), remedy="check its path"
        ) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    said = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if said and all("=" in line for _, line in said):
        return [_split(f"{file}:{number}", line) for number, line in said]
    try:
        content = yaml.load(
            text, Loader=yaml.BaseLoader
        )  # which leaves 03 and a hash of digits the texts that they are
    except yaml.YAMLError as error:
        content = str(error)
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise UsageError(
            "the file of approvals cannot be understood",
            where=where,
            reason="it holds neither lines STAGE=HASH nor a YAML mapping from stage to hash",
            remedy="write a line a stage, such as 03=HASH",
        )
    return [(f"{file}: {name}", str(name), value) for name, value in content.items()]


def judged(intent: Intent, profile: Profile, approve: str) -> Approval:
    """Whether a plan is approved: by this very hash, or by a profile that approves itself."""
    text, approved = intent.canonical.decode(), intent.hash
    if approve == approved:
        return Approval(hash=approved, intent=text, by="hash")
    if approve:  # somebody approved another plan, and meant that one
        return Approval(hash=approved, intent=text, by=None, given=approve)
    return Approval(hash=approved, intent=text, by="self" if profile.approval == "self" else None)


def how_to(approval: Approval, stage: str, profile: Path) -> list[str]:
    """What was decided and, where nobody approved, exactly what to set: lines for people."""
    match approval.by:
        case "self":
            return [f"Approved by the profile itself (approval: self); hash {approval.hash}"]
        case "hash":
            return [f"Approved by hash {approval.hash}"]
    number, named = stage[:2], shlex.quote(reference(profile))
    other = f" The hash that was given, {approval.given}, is another plan's." if approval.given else ""
    return [
        f"NOT APPROVED, nothing of this plan is done.{other} To approve exactly this plan:",
        f'  JupyterLab: set approve = "{approval.hash}" in the parameter cell and run the notebook again',
        f"  headless: llmd-runbook run {named} --stages {number} --approve {number}={approval.hash}",
        f"  papermill: -p approve {approval.hash}",
    ]
