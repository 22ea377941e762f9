"""Which request is hit: counted for each fault by itself."""

from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.door import Door


def spared(_: int) -> None:
    raise AssertionError("nobody is killed here")


def hits(faults: list[Fault], requests: int) -> list[Kind | None]:
    door = Door(faults, spared)
    found = [door.due("PATCH", "/api") for _ in range(requests)]
    return [fault.kind if fault else None for fault in found]


def test_the_first_ones_pass_then_as_many_are_hit_as_declared() -> None:
    assert hits([Fault(Kind.CUT, skip=1, times=2)], 5) == [None, Kind.CUT, Kind.CUT, None, None]


def test_every_one_where_no_number_is_given() -> None:
    assert hits([Fault(Kind.CUT, skip=1, times=0)], 4) == [None, Kind.CUT, Kind.CUT, Kind.CUT]


def test_one_request_meets_one_fault_and_those_that_follow_in_the_list_do_not_count_it() -> None:
    assert hits([Fault(Kind.CUT), Fault(Kind.BREAK)], 3) == [Kind.CUT, Kind.BREAK, None]


def test_others_are_not_counted() -> None:
    door = Door([Fault(Kind.CUT, "PATCH", "/pods", skip=1)], spared)
    assert [door.due("GET", "/pods"), door.due("PATCH", "/nodes"), door.due("PATCH", "/pods")] == [None] * 3
    assert door.due("PATCH", "/pods") is not None
