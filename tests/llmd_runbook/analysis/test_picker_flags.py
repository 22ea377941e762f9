"""Flags in all their spellings, and what holds where none is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.analysis.picker_flags import (
    KV_METRIC,
    REMOVED_KV_METRIC,
    default_kv_metrics,
    flag,
    verbosity,
    verbosity_flag,
    what_is_logged,
    with_verbosity,
)

FORMS = [["--v", "1"], ["-v", "1"], ["--v=1"], ["-v=1"]]
OTHERS = st.lists(st.sampled_from(["--pool-name", "gaie", "--tracing=false", "--verbose", "-V", "--zap-encoder=json"]))


@pytest.mark.parametrize("words", [["-v", "4"], ["-v=4"], ["--v", "4"], ["--v=4"], ["-v=1", "--v", "4"]])
def test_all_spellings_mean_the_same_and_the_last_counts(words: list[str]) -> None:
    assert flag(["epp", *words, "--tracing=false"], "v") == "4"
    assert verbosity(words) == 4


def test_what_is_not_there() -> None:
    assert flag(["epp", "v", "--vv=3", "--pool-name", "v"], "v") is None
    assert flag(["--config-file"], "config-file") == ""


@pytest.mark.parametrize(
    ("words", "whole", "said"),
    [
        (["-v=5"], True, "-v 5: every score and choice"),
        (["-v=4"], True, "-v 4: every score and choice"),
        (["--v", "3"], False, "-v 3: the choices, not the scores"),
        (["-v=2"], False, "-v 2: no scores, no choices"),
        ([], False, "-v 2: no scores"),
        (["-v=x"], False, "no number: -v=x"),
    ],
)
def test_what_a_level_logs_of_a_decision(words: list[str], whole: bool, said: str) -> None:
    text, all_of_it = what_is_logged(words)
    assert said in text
    assert all_of_it is whole


@pytest.mark.parametrize(
    ("words", "level"),
    [([], 2), (["-v=x"], None), (["--zap-log-level=debug", "-v=5"], 1), (["--zap-log-level", "4"], 4)],
)
def test_zap_overrides_and_two_is_the_default(words: list[str], level: int | None) -> None:
    assert verbosity(words) == level


@pytest.mark.parametrize(
    ("image", "metrics"),
    [
        ("ghcr.io/llm-d/llm-d-inference-scheduler:v0.4.0", (REMOVED_KV_METRIC,)),
        ("ghcr.io/llm-d/llm-d-inference-scheduler:v0.4.0-rc.1", (REMOVED_KV_METRIC,)),
        ("ghcr.io/llm-d/llm-d-inference-scheduler:v0.5.0", (KV_METRIC,)),
        ("registry.k8s.io/gateway-api-inference-extension/epp:v1.2.0", (REMOVED_KV_METRIC,)),
        ("registry.k8s.io/gateway-api-inference-extension/epp:v1.3.0@sha256:abc", (KV_METRIC,)),
        ("ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.10.0", (KV_METRIC,)),
        ("mirror:5000/epp@sha256:abc", (REMOVED_KV_METRIC, KV_METRIC)),
        ("example.com/my-picker:v9.9", (REMOVED_KV_METRIC, KV_METRIC)),
        ("", (REMOVED_KV_METRIC, KV_METRIC)),
    ],
)
def test_an_image_tells_its_default_metric_or_both_are_possible(image: str, metrics: tuple[str, ...]) -> None:
    assert default_kv_metrics(image) == metrics


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_and_kept(form: list[str]) -> None:
    words = ["--pool-name", "p", *form, "--tracing=false"]
    assert verbosity_flag(words) == 1
    raised = with_verbosity(words, 4)
    assert verbosity_flag(raised) == 4
    assert [word.replace("4", "1") for word in raised] == words


def test_the_last_one_counts_as_in_go() -> None:
    words = ["--v=1", "--v", "3"]
    assert verbosity_flag(words) == 3
    assert with_verbosity(words, 4) == ["--v=1", "--v", "4"]


def test_where_there_is_none_it_comes_first_and_goes_again() -> None:
    words = ["--tracing", "false", "--pool-name", "p"]  # `false` ends the flags: what follows is not read
    assert verbosity_flag(words) is None
    assert with_verbosity(words, 4) == ["--v=4", *words]
    assert with_verbosity(with_verbosity(words, 4), None) == words
    assert with_verbosity(words, None) == words


@pytest.mark.parametrize("words", [["--v"], ["--v", "high"], ["--v="]])
def test_a_value_that_is_no_number(words: list[str]) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        verbosity_flag(words)


@given(before=OTHERS, after=OTHERS, form=st.sampled_from([[], *FORMS]), level=st.integers(0, 9))
def test_there_and_back_again(before: list[str], after: list[str], form: list[str], level: int) -> None:
    words = [*before, *form, *after]
    raised = with_verbosity(words, level)
    assert verbosity_flag(raised) == level
    assert with_verbosity(raised, verbosity_flag(words)) == words
