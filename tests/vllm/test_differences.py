"""The list of differences as it is read; needs no engine, so `make test` has it too."""

from __future__ import annotations

from tests.vllm.differences import DIFFERENCES, PAGE, markdown


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == markdown(), "run `make docs`"


def test_the_page_names_every_place_with_its_reason() -> None:
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in markdown().splitlines()]
    reasons = {place: row[-1] for row in rows for place in row[0].split("<br>")}
    assert all(difference.reason for difference in DIFFERENCES)
    for difference in DIFFERENCES:
        assert {reasons[place] for place in difference.where} == {difference.reason}
