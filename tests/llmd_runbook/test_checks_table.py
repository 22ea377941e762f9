"""The table of checks is what registry, tests and the guide's headings say now."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmd_runbook.profile import PROJECT_ROOT
from llmd_runbook.stages import all_checks
from tests.end_to_end import checks_table
from tests.end_to_end.cases import observed
from tests.end_to_end.guide_sections import SCRIPT, SECTIONS, Section

KNOWN = {spec.id: spec for spec in all_checks()}


def test_the_file_is_current() -> None:
    """In a process of its own: what others have imported changes the order of the registry."""
    program = f"from {checks_table.__name__} import text; print(text(), end='')"
    written = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert checks_table.FILE.read_text() == written.stdout, "run `make docs`"


def test_every_check_has_a_fault() -> None:
    assert checks_table.faults().keys() == KNOWN.keys()


def test_what_was_observed_is_of_tests_and_checks_that_exist() -> None:
    tests = {node_id.partition("::")[2] for _, node_id in checks_table.faults().values()}
    assert observed().keys() <= tests
    assert {name for checks in observed().values() for name in checks} <= KNOWN.keys()


@pytest.mark.parametrize("check", KNOWN)
def test_every_check_fails_or_says_why_it_never_does(check: str) -> None:
    """As observed: one whose fault ever makes it only inconclusive needs a reason, and no other may have one."""
    said = checks_table.verdicts(check, checks_table.faults()[check][1], observed())
    assert said == (["inconclusive"] if KNOWN[check].never_fails else ["fail"])


def test_every_heading_of_the_guide_has_a_row_or_a_reason() -> None:
    assert list(SECTIONS) == checks_table.headings()
    assert len(SECTIONS) == len(checks_table.headings()) > 60


@pytest.mark.parametrize("check", KNOWN)
def test_the_fault_of_a_check_makes_no_other_fail(check: str) -> None:
    """What depends on what is broken may prove nothing then; it may not fail."""
    beside = observed().get(checks_table.faults()[check][1].partition("::")[2], {})
    assert [name for name, said in beside.items() if name != check and "fail" in said] == []


@pytest.mark.parametrize("heading", SECTIONS)
def test_no_row_is_empty_and_all_it_names_exists(heading: str) -> None:
    section = SECTIONS[heading]
    if not isinstance(section, Section):
        assert section
        return
    assert section.stages
    assert section.checks or section.tests
    assert set(section.checks) <= KNOWN.keys()
    assert [name for name in section.tests if not checks_table.exists(name)] == []


def test_the_guides_errors_are_each_said_once() -> None:
    said = [section.differs for section in SECTIONS.values() if isinstance(section, Section) and section.differs]
    assert len(said) == len(set(said))
    assert sum("ModelService" in text for text in said) == 1


def test_every_part_of_the_guides_script_has_a_check_of_stage_04() -> None:
    assert [part.part[:2] for part in SCRIPT] == ["1.", "2.", "3.", "4."]
    assert {part.check for part in SCRIPT} <= {name for name in KNOWN if name.startswith("verify.")}


def test_a_test_that_is_not_there_is_found_out() -> None:
    assert checks_table.exists("tests/llmd_runbook/test_checks_table.py::test_every_check_has_a_fault")
    assert not checks_table.exists("tests/llmd_runbook/test_checks_table.py::test_nothing")
    assert not checks_table.exists("tests/nowhere.py::test_nothing")
