from __future__ import annotations

import hashlib

import pytest
import rfc8785

from llmd_runbook.errors import Conflict, UsageError
from llmd_runbook.plans import Change, Intent, Plan, Preconditions, checked_hash

SAME, OTHER = Change("nodes", "3", "3"), Change("release web", "absent", "installed")
TARGET = {"to": 4, "name": "café", "from": 1}
INTENT = Intent("05_routing_affinity", "uid-1", TARGET)


def test_a_change_is_needed_where_something_differs() -> None:
    assert (SAME.needed, OTHER.needed) == (False, True)


def test_a_plan_is_empty_when_nothing_would_change() -> None:
    assert Plan([], []).empty
    assert Plan([SAME], ["beware"]).empty
    assert not Plan([SAME, OTHER], []).empty


def test_a_plan_shows_what_stays_too() -> None:
    table = Plan([SAME, OTHER], []).table()
    assert table.columns == ["what", "now", "then", "action"]
    assert table.rows == [["nodes", "3", "3", "as it is"], ["release web", "absent", "installed", "change"]]


def test_anyone_can_recompute_the_hash() -> None:
    """By `printf '%s' '<the canonical text>' | sha256sum`, without a line of ours."""
    text = '{"cluster":"uid-1","stage":"05_routing_affinity","target":{"from":1,"name":"café","to":4}}'
    assert INTENT.canonical.decode() == text
    assert INTENT.hash == "bcb4b94ce8b524adef41b144fa6a45cebb2213a30a1787386b05be542f6879bd"
    assert INTENT.hash == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_keys_does_not_matter() -> None:
    assert Intent(INTENT.stage, INTENT.cluster, dict(reversed(TARGET.items()))).hash == INTENT.hash


@pytest.mark.parametrize(
    "other",
    [
        Intent("06_throughput_and_cost", "uid-1", TARGET),
        Intent("05_routing_affinity", "uid-2", TARGET),
        Intent("05_routing_affinity", "uid-1", TARGET | {"to": 5}),
        Intent("05_routing_affinity", "uid-1", TARGET | {"more": None}),
        Intent("05_routing_affinity", "uid-1", {"from": 1, "to": 4}),
    ],
)
def test_another_stage_cluster_or_target_is_another_hash(other: Intent) -> None:
    assert other.hash != INTENT.hash


def test_a_target_that_is_no_json_is_refused() -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        _ = Intent("05_x", "uid", {"what": object()}).hash


def test_what_moved_is_named() -> None:
    then = Preconditions({"web: generation": 4, "web: UID": "a", "web: replicas": 3})
    then.require(Preconditions(dict(then.facts)), where="deployment web")
    now = Preconditions({"web: generation": 5, "web: UID": "a", "web: paused": True})
    with pytest.raises(Conflict) as refused:
        then.require(now, where="deployment web")
    reason = refused.value.reason or ""
    assert reason == "web: generation: 4 became 5; web: paused: absent became True; web: replicas: 3 became absent"
    assert refused.value.where == "deployment web"
    assert "nothing was changed" in refused.value.what


def test_a_hash_as_it_is_given() -> None:
    assert checked_hash(f" {INTENT.hash}\n", where="here") == INTENT.hash
    assert checked_hash("", where="here") == ""
    for text in ("yes", INTENT.hash[:-1], INTENT.hash.upper(), INTENT.hash + "0"):
        with pytest.raises(UsageError, match="64 hexadecimal digits") as refused:
            checked_hash(text, where="here")
        assert text in str(refused.value)
