"""The surfaces of simulator and real vLLM: alike, but for what `differences` lists with a reason."""

from __future__ import annotations

import pytest

from llmd_runbook.clients import metrics
from tests.vllm.calls import CALLS
from tests.vllm.conftest import Pair
from tests.vllm.differences import DIFFERENCES
from tests.vllm.surfaces import answer, ask, compare, families

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

Facts = dict[str, tuple[str, str]]

READ = (
    metrics.REQUESTS,
    metrics.PREFIX_QUERIES,
    metrics.PREFIX_HITS,
    metrics.RUNNING,
    metrics.WAITING,
    metrics.KV_USAGE,
    metrics.CACHE_CONFIG,
)
"""What the stages and the picker read; there no difference is allowed, listed or not."""

SHOWN_LABELS = ("enable_prefix_caching", "block_size", "num_gpu_blocks", "gpu_memory_utilization")


@pytest.fixture(scope="module")
def observed(pair: Pair) -> Facts:
    """Every difference that there is."""
    found: Facts = {}
    for name, call in CALLS.items():
        found |= compare(name, answer(ask(pair.simulated, call)), answer(ask(pair.real, call)))
    pages = (families(client.get("/metrics").text) for client in (pair.simulated, pair.real))
    return found | compare("metrics", *pages)


def test_every_difference_is_listed(observed: Facts) -> None:
    listed = _listed()
    unlisted = {where: values for where, values in observed.items() if listed.get(where) != values}
    assert not unlisted, "\n".join(f"{where}: simulated {a}, real {b}" for where, (a, b) in unlisted.items())


def test_every_listed_difference_exists(observed: Facts) -> None:
    assert [where for where in _listed() if where not in observed] == []


def test_no_difference_is_listed_twice() -> None:
    places = [where for difference in DIFFERENCES for where in difference.where]
    assert sorted(set(places)) == sorted(places)


@pytest.mark.parametrize("name", READ)
def test_what_we_read_is_the_same_on_both(pair: Pair, name: str) -> None:
    both = [families(client.get("/metrics").text) for client in (pair.simulated, pair.real)]
    family = name.removesuffix("_total")
    assert family in both[0]
    assert both[0][family] == both[1][family]
    if name != metrics.CACHE_CONFIG:  # its labels are fields of vLLM's configuration; the shown ones follow
        labels = [{fact for fact in facts if fact.startswith(f"{family}{{")} for facts in both]
        assert labels[0] == labels[1]


def test_the_cache_configuration_that_we_show_is_the_same(pair: Pair) -> None:
    for client in (pair.simulated, pair.real):
        labels = metrics.parse("pod", "pod IP", client.get("/metrics").text).labels(metrics.CACHE_CONFIG)
        assert set(SHOWN_LABELS) <= set(labels)
        assert labels["enable_prefix_caching"] == "True"
        assert (labels["block_size"], labels["num_gpu_blocks"]) == ("32", "41")


def _listed() -> Facts:
    return {where: (each.simulated, each.real) for each in DIFFERENCES for where in each.where}
