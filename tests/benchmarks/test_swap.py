"""`make bench-swap` shows what a probe saw, and nothing where a swap did not pass."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from nbformat import v4

from benchmarks import swap
from llmd_runbook.profile import PROJECT_ROOT, load

SEEN = {
    "requests": 4320,
    "rate_per_s": 24.004,
    "gap_at_least_s": 48.44,
    "gap_at_most_s": 48.56,
    "by_name": {
        "old": {"answered": 1000, "refused as announced": 674, "lost in the announced outage": 584},
        "new": {"answered": 676, "refused as announced": 1484, "lost in the announced outage": 2},
    },
}


def test_the_row_adds_both_names_up() -> None:
    row = swap.row("recreate", SEEN)
    assert row == ["`recreate`", "4,320", "24.0", "1,676", "2,158", "586", "0", "48.4 to 48.6"]
    text = swap.table([row], datetime(2026, 1, 2, tzinfo=UTC))
    head, line, *_ = text.splitlines()
    assert head.count("|") == line.count("|") == len(row) + 1
    assert text.endswith("2026-01-02.")


def test_the_readme_has_a_place_for_it_and_the_pictures_are_there() -> None:
    readme = (PROJECT_ROOT / "README.md").read_text()
    assert readme.index(swap.START) < readme.index(swap.END)
    for strategy in swap.PROFILES:
        assert f"(docs/swap-{strategy}.png)" in readme
        assert (PROJECT_ROOT / f"docs/swap-{strategy}.png").read_bytes().startswith(b"\x89PNG")


def test_the_one_picture_of_a_notebook_is_found() -> None:
    output = v4.new_output("display_data", {"image/png": base64.b64encode(b"picture").decode()})
    book = v4.new_notebook(cells=[v4.new_markdown_cell("a"), v4.new_code_cell("b", outputs=[output])])
    assert swap.picture_of(book) == b"picture"
    with pytest.raises(ValueError, match="not enough values"):
        swap.picture_of(v4.new_notebook(cells=[v4.new_code_cell("b")]))


@pytest.mark.parametrize("strategy", swap.PROFILES)
def test_the_profiles_wait_longer_than_the_gateway_lags(tmp_path: Path, strategy: str) -> None:
    profile = load(str(swap._profile(strategy, tmp_path)))
    assert (profile.swap.strategy, profile.swap.quiet_s) == (strategy, swap.QUIET_S)
    assert profile.cluster.simulated


def test_a_swap_that_does_not_pass_ends_it_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, stdout="")

    monkeypatch.setattr(subprocess, "run", failed)
    before = (PROJECT_ROOT / "README.md").read_bytes()
    assert swap.main() == 1
    assert (PROJECT_ROOT / "README.md").read_bytes() == before
