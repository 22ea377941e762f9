"""What counts as progress, and when it has been missing for too long."""

from __future__ import annotations

import pytest

from llmd_runbook.profile import ProgressDeadlines
from llmd_runbook.stages.waiting.phases import Phase
from llmd_runbook.stages.waiting.progress import Progress, limits

LIMITS = limits(ProgressDeadlines(capacity_s=10, image_pull_s=20, download_s=30, load_s=40, warm_up_s=50))


def seen(*states: tuple[Phase, int, list[str], float]) -> Progress:
    progress = Progress(0)
    for state in states:
        progress.see(*state)
    return progress


def test_without_a_log_one_phase_has_the_time_of_the_three_that_it_stands_for() -> None:
    assert LIMITS[Phase.START] == 30 + 40 + 50
    assert not {Phase.READY, Phase.ENDING} & LIMITS.keys()


@pytest.mark.parametrize(("phase", "limit_s"), LIMITS.items())
def test_each_phase_has_its_own_deadline(phase: Phase, limit_s: float) -> None:
    progress = seen((phase, 0, [], 5))
    begun_s = 0 if phase is Phase.CAPACITY else 5
    assert not progress.overdue(LIMITS, begun_s + limit_s - 0.1)
    assert progress.overdue(LIMITS, begun_s + limit_s)


def test_what_is_new_begins_the_time_anew_and_what_is_said_again_does_not() -> None:
    progress = seen((Phase.DOWNLOAD, 0, ["1%"], 0), (Phase.DOWNLOAD, 0, ["1%", "2%"], 25))
    assert progress.still_s(50) == 25
    progress.see(Phase.DOWNLOAD, 0, ["2%", "1%"], 50)
    assert progress.overdue(LIMITS, 55)


def test_a_download_of_any_length_passes_while_it_advances() -> None:
    progress = Progress(0)
    for percent in range(100):
        progress.see(Phase.DOWNLOAD, 0, [f"{percent}%"], 20.0 * percent)
        assert not progress.overdue(LIMITS, 20.0 * percent + 19)
    assert progress.in_phase_s(1990) == 1990


def test_a_crash_loop_is_no_progress_however_much_it_says() -> None:
    progress = seen((Phase.LOAD, 0, ["took 1 s"], 0))
    for restart in range(1, 4):
        progress.see(Phase.DOWNLOAD, restart, [f"run {restart}"], 10.0 * restart)
        progress.see(Phase.LOAD, restart, [f"took {restart}.5 s"], 10.0 * restart + 5)
    assert progress.still_s(40) == 40
    assert progress.overdue(LIMITS, 40)


def test_a_restarted_container_that_comes_further_than_the_one_before_makes_progress_again() -> None:
    progress = seen((Phase.LOAD, 0, [], 0), (Phase.DOWNLOAD, 1, ["again"], 10), (Phase.WARM_UP, 1, [], 30))
    assert progress.still_s(30) == 0
    progress.see(Phase.WARM_UP, 1, ["graphs"], 45)
    assert progress.still_s(45) == 0


def test_restarts_from_before_the_wait_are_not_held_against_it() -> None:
    progress = seen((Phase.DOWNLOAD, 7, ["a"], 0), (Phase.DOWNLOAD, 7, ["b"], 20))
    assert progress.still_s(20) == 0


def test_a_line_that_left_the_end_of_the_log_takes_nothing_back() -> None:
    progress = seen((Phase.WARM_UP, 0, [], 0), (Phase.DOWNLOAD, 0, [], 10))
    assert progress.phase is Phase.WARM_UP
    assert progress.still_s(10) == 10


def test_a_ready_pod_has_no_deadline_and_one_that_stops_being_ready_gets_it_from_then() -> None:
    progress = seen((Phase.READY, 0, [], 0), (Phase.READY, 0, [], 1000), (Phase.WARM_UP, 0, [], 1010))
    assert not progress.overdue(LIMITS, 1049)
    assert progress.overdue(LIMITS, 1050)


def test_the_time_in_each_phase_adds_up() -> None:
    progress = seen((Phase.CAPACITY, 0, [], 0), (Phase.IMAGE_PULL, 0, [], 3), (Phase.DOWNLOAD, 0, [], 10))
    assert progress.spent_s(30) == {Phase.CAPACITY: 3, Phase.IMAGE_PULL: 7, Phase.DOWNLOAD: 20}
    assert sum(progress.spent_s(30).values()) == 30
