from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmd_runbook.analysis.comparison import COST, THROUGHPUT, Conditions, Load, comparability, compare
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput

SAME = Conditions(
    prompts=64 * "a",
    recipe="unique, 70 tokens each",
    requests=200,
    prompt_tokens=70.0,
    output_tokens=98.0,
    arrival="closed loop",
    in_flight=20,
    replicas=1,
    cache="cold",
    client="",
    model="m",
    context_tokens=2048,
)


def load(rate: float, *, n: int = 400, seed: int = 0, **conditions: Any) -> Load:
    """Latencies of 20 / rate with a spread, and a throughput of even blocks."""
    rng = np.random.default_rng(seed)
    latencies = (20 / rate * rng.lognormal(0, 0.3, n)).tolist()
    done = tuple((number + 1) / rate for number in range(200))
    throughput = Throughput(rate, 98 * rate, 200 / rate, 200, 20, done, 0.0, 20 / rate, 30 / rate)
    return Load(replace(SAME, **conditions), 0, throughput, {"latency": latencies, "ttft": latencies})


def test_equal_loads_are_compared() -> None:
    found = comparability(SAME, SAME)
    assert found.refusal is None
    assert (found.different, found.client, found.unknown, found.labels) == ((), (), (), ())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"prompts": 64 * "b"}, "prompts aaaaaaaaaaaa and bbbbbbbbbbbb"),
        ({"requests": 100}, "measured requests 200 and 100"),
        ({"output_tokens": 50.0}, "tokens of an answer 98.0 and 50.0"),
        ({"in_flight": 60}, "requests in flight 20 and 60"),
        ({"arrival": "poisson"}, "arrival closed loop and poisson"),
        ({"cache": "warm"}, "cache cold and warm"),
        ({"client": "INVALID (client-bound)"}, "INVALID (client-bound)"),
    ],
)
def test_each_condition_that_differs_refuses(changed: dict[str, Any], said: str) -> None:
    found = comparability(SAME, replace(SAME, **changed))
    assert found.refusal is not None
    assert said in found.refusal.reason
    everything = compare([(load(1), load(2, **changed))], usd_per_hour=(1, 3))
    assert set(everything.ratios.values()) == {found.refusal}
    assert THROUGHPUT in everything.ratios
    assert COST in everything.ratios


@pytest.mark.parametrize("condition", ["prompts", "output_tokens", "arrival", "cache", "client", "model", "in_flight"])
def test_a_condition_that_nobody_stated_is_said_and_does_not_refuse(condition: str) -> None:
    found = comparability(SAME, replace(SAME, **{condition: None}))
    assert found.refusal is None
    assert len(found.unknown) == 1


def test_the_model_is_what_is_compared() -> None:
    """Two tokenizers count the same prompts differently."""
    found = comparability(SAME, replace(SAME, model="n", context_tokens=4096, prompt_tokens=80.0))
    assert found.refusal is None
    assert "different models: m and n" in found.labels
    assert "different context lengths: 2048 and 4096" in found.labels
    assert "tokens of a prompt 70.0 and 80.0" in found.labels
    assert comparability(SAME, replace(SAME, prompts=64 * "b", prompt_tokens=80.0)).different[1].startswith("tokens of")


def test_as_much_work_a_replica_needs_the_same_recipe_and_not_the_same_prompts() -> None:
    three = replace(SAME, prompts=64 * "b", requests=600, in_flight=60, replicas=3)
    assert comparability(SAME, three).refusal is not None
    found = comparability(SAME, three, per_replica=True)
    assert found.refusal is None
    assert found.labels == ("20 and 60 requests in flight, as many a replica",)
    assert comparability(SAME, replace(three, in_flight=50), per_replica=True).refusal is not None
    assert comparability(SAME, replace(three, recipe="service"), per_replica=True).refusal is not None


def test_fresh_prompts_need_the_same_recipe_and_the_same_requests_in_flight() -> None:
    fresh = replace(SAME, prompts=64 * "b", replicas=3)
    found = comparability(SAME, fresh, fresh_prompts=True)
    assert (found.refusal, found.unknown, found.labels) == (None, (), ())
    assert compare([(load(1), load(2, prompts=64 * "b"))], fresh_prompts=True).gate.refusal is None
    for changed, said in (
        ({"recipe": "service"}, "prompts made as unique, 70 tokens each and service"),
        ({"in_flight": 60}, "requests in flight 20 and 60"),
        ({"requests": 600}, "measured requests 200 and 600"),
        ({"cache": "warm"}, "cache cold and warm"),
    ):
        assert comparability(SAME, replace(fresh, **changed), fresh_prompts=True).different == (said,)


def test_one_pair_has_intervals_of_its_samples_and_of_the_cost() -> None:
    found = compare([(load(10), load(25, seed=1))], usd_per_hour=(0.5, 1.5)).ratios
    rate, tail, cost = found[THROUGHPUT], found["latency p95"], found[COST]
    assert isinstance(rate, Estimate)
    assert rate.value == 2.5
    assert isinstance(tail, Estimate)
    assert tail.low is not None
    assert tail.high is not None
    assert tail.low < 0.4 < tail.high
    assert isinstance(cost, Estimate)
    assert cost.value == pytest.approx(1.2)


def test_pairs_of_runs_have_an_interval_over_runs() -> None:
    pairs = [(load(10 * drift, seed=n), load(20 * drift, seed=9 + n)) for n, drift in enumerate((1, 1.3, 0.8, 1.1))]
    found = compare(pairs).ratios
    rate, middle = found[THROUGHPUT], found["latency p50"]
    assert isinstance(rate, Estimate)
    assert rate.value == pytest.approx(2)
    assert rate.n == 4
    assert isinstance(middle, Estimate)
    assert middle.low is not None
    assert middle.high is not None
    assert middle.low < 0.5 < middle.high


@pytest.mark.parametrize(("n", "refused"), [(58, "latency p95"), (298, "latency p99"), (299, "")])
def test_no_ratio_of_percentiles_that_the_samples_cannot_bear(n: int, refused: str) -> None:
    found = compare([(load(10), load(10, n=n))]).ratios
    assert isinstance(found["latency p50"], Estimate)
    for name, needed in (("latency p95", 59), ("latency p99", 299)):
        if n < needed:
            assert found[name] == Refusal(f"p{name[-2:]} needs {needed} samples, there are {n}")
        else:
            assert isinstance(found[name], Estimate)
    assert not refused or isinstance(found[refused], Refusal)


def test_failures_make_another_load() -> None:
    found = compare([(load(10), replace(load(10), failed=3))])
    assert "failed requests 0 and 3" in str(found.gate.refusal)


def test_stated_figures_have_a_ratio_and_no_interval() -> None:
    one, other = (
        Load(SAME, 0, Refusal("totals alone"), stated={THROUGHPUT: rate, "latency p95": 1 / rate}) for rate in (10, 25)
    )
    found = compare([(one, other)]).ratios
    rate = found[THROUGHPUT]
    assert isinstance(rate, Estimate)
    assert (rate.value, rate.low, rate.high) == (2.5, None, None)
    assert "nothing bounds it" in rate.caveat
    assert found["latency p50"] == Refusal("latency p50 is not stated on both sides")


def test_nothing_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([])
