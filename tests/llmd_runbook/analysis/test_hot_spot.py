"""The hot-spot formulas, held against the reference picker."""

from __future__ import annotations

import random

import pytest

from llmd_runbook.analysis.hot_spot import home_load, hot_spot
from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER, Endpoint, Picker, Rules

WEIGHTS = {QUEUE_SCORER: 2.0, KV_SCORER: 2.0, PREFIX_SCORER: 3.0}
HOT = {"model": "m", "prompt": "shared " * 40}


def test_the_default_weights() -> None:
    found = hot_spot(WEIGHTS, 3, 0.5)
    assert found.binding_match == pytest.approx(2 / 3)
    assert found.releasing_kv == pytest.approx(0.5)
    assert found.hot_share == pytest.approx(0.5)
    assert found.certain_share == pytest.approx(2 / 3)
    assert home_load(found.hot_share, 3) == pytest.approx(1 / (3 * 0.5))
    assert "67% of their blocks" in found.warning
    assert "a prefix with 50% of the traffic overloads its replica (from 67% even" in found.warning


@pytest.mark.parametrize(
    ("weights", "utilisation", "says"),
    [
        ({QUEUE_SCORER: 3, PREFIX_SCORER: 2}, 0.9, "a longer queue sends a shared prefix elsewhere"),
        (WEIGHTS, 0.3, "no single prefix overloads one"),
    ],
)
def test_other_warnings(weights: dict[str, float], utilisation: float, says: str) -> None:
    assert says in hot_spot(weights, 3, utilisation).warning


@pytest.mark.parametrize(("replicas", "utilisation"), [(1, 0.5), (3, 0), (3, 1.5)])
def test_no_hot_spot_of_impossible_figures(replicas: int, utilisation: float) -> None:
    with pytest.raises(ValueError, match="no hot spot"):
        hot_spot(WEIGHTS, replicas, utilisation)


@pytest.mark.parametrize(("blocks", "stays"), [(6, False), (7, True)])
def test_the_picker_lets_go_below_the_binding_match_and_not_above(blocks: int, stays: bool) -> None:
    picker = Picker(Rules.v0_4(WEIGHTS))
    endpoints = [Endpoint(name) for name in "abc"]
    picker.learn(picker.decide({"model": "m", "prompt": "x" * 64 * blocks}, endpoints[:1]))
    endpoints[0].waiting = 1
    decision = picker.decide({"model": "m", "prompt": "x" * 64 * blocks + "y" * 64 * (10 - blocks)}, endpoints)
    assert decision.matched_blocks == {"a": blocks}
    assert (decision.picked.name == "a") is stays


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_shared_prefix_loads_its_home_as_said(share: float) -> None:
    rng = random.Random(1)
    picker, endpoints = Picker(Rules.v0_4(WEIGHTS), rng=rng), [Endpoint(name) for name in "abc"]
    first = picker.decide(HOT, endpoints)
    picker.learn(first)
    requests, at_home = 4000, 0
    for number in range(requests):
        body = HOT if rng.random() < share else {"model": "m", "prompt": f"{number} " * 30}
        decision = picker.decide(body, endpoints)
        picker.learn(decision)
        at_home += decision.picked.name == first.picked.name
    assert at_home / requests == pytest.approx(home_load(share, 3), abs=0.03)


@pytest.mark.parametrize(("excess", "overloaded"), [(-0.15, False), (0.15, True)])
def test_beyond_the_certain_share_the_queue_grows_though_all_else_avoids_it(excess: float, overloaded: bool) -> None:
    """Three replicas that each serve one request a step, at 60 % use; the rest goes by queue."""
    utilisation = 0.6
    share = hot_spot(WEIGHTS, 3, utilisation).certain_share + excess
    rng = random.Random(2)
    picker, endpoints = Picker(Rules.v0_4(WEIGHTS), rng=rng), [Endpoint(name) for name in "abc"]
    picker.learn(picker.decide(HOT, endpoints[:1]))
    for step in range(3000):
        for arrival in range(3):
            if rng.random() < utilisation:
                body = HOT if rng.random() < share else {"model": "m", "prompt": f"{step}-{arrival} " * 30}
                decision = picker.decide(body, endpoints)
                picker.learn(decision)
                decision.picked.waiting += 1
        for endpoint in endpoints:
            endpoint.waiting = max(0, endpoint.waiting - 1)
    assert (endpoints[0].waiting > 100) is overloaded
    assert max(endpoint.waiting for endpoint in endpoints[1:]) < 20
