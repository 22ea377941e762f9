"""The table of checks is what registry and tests say now."""

from __future__ import annotations

import subprocess
import sys

from llmd_runbook.profile import PROJECT_ROOT
from llmd_runbook.stages import all_checks
from tests.end_to_end import checks_table


def test_the_file_is_current() -> None:
    """In a process of its own: what others have imported changes the order of the registry."""
    program = f"from {checks_table.__name__} import text; print(text(), end='')"
    written = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert checks_table.FILE.read_text() == written.stdout, "run `make docs`"


def test_every_check_has_a_fault_and_every_section_of_the_guide_a_check_that_exists() -> None:
    known = {spec.id for spec in all_checks()}
    assert checks_table.faults().keys() == known
    for section, stage, names in checks_table.GUIDE:
        assert stage, section
        assert names, section
        assert set(names.split()) <= known, section
