from typing import Any

from llmd_sandbox.gateway.addresses import CAPACITY, AddressBook


def gateway(uid: str, created: str = "2026-01-01T00:00:00Z", shown: str = "") -> dict[str, Any]:
    status = {"addresses": [{"value": shown}]} if shown else {}
    return {"metadata": {"uid": uid, "creationTimestamp": created}, "status": status}


def book() -> AddressBook:
    return AddressBook(lambda index: f"127.0.1.{index + 1}")


def test_stable_while_it_exists_and_free_after() -> None:
    addresses = book()
    assert addresses.assign([gateway("a"), gateway("b")]) == {"a": "127.0.1.1", "b": "127.0.1.2"}
    assert addresses.assign([gateway("b")]) == {"b": "127.0.1.2"}
    assert addresses.assign([gateway("b"), gateway("c")]) == {"b": "127.0.1.2", "c": "127.0.1.1"}


def test_a_restart_keeps_what_statuses_show() -> None:
    shown = gateway("b", created="2026-01-02T00:00:00Z", shown="127.0.1.1")
    assert book().assign([gateway("a"), shown]) == {"a": "127.0.1.2", "b": "127.0.1.1"}


def test_an_address_that_is_not_ours_is_not_kept() -> None:
    assert book().assign([gateway("a", shown="10.0.0.1")]) == {"a": "127.0.1.1"}


def test_two_that_show_the_same_address_get_different_ones() -> None:
    lent = book().assign([gateway("a", shown="127.0.1.5"), gateway("b", shown="127.0.1.5")])
    assert lent == {"a": "127.0.1.5", "b": "127.0.1.1"}


def test_beyond_the_capacity_there_is_no_address() -> None:
    lent = book().assign([gateway(f"{number:03}") for number in range(CAPACITY + 1)])
    assert len(set(lent.values())) == CAPACITY
