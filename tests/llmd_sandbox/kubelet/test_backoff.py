import pytest

from llmd_sandbox.kubelet.backoff import BackOff, go_duration


def test_first_restart_is_immediate_then_doubles_to_five_minutes() -> None:
    back_off = BackOff(first_at_once=True)
    assert [back_off.next_s() for _ in range(8)] == [0, 10, 20, 40, 80, 160, 300, 300]


def test_image_pulls_wait_from_the_first_failure() -> None:
    assert BackOff(first_at_once=False).next_s() == 10


def test_forgotten_only_after_ten_minutes_of_running() -> None:
    back_off = BackOff(first_at_once=True)
    for _ in range(3):
        back_off.next_s()
    assert back_off.next_s(ran_s=599) == 40
    assert back_off.next_s(ran_s=601) == 0


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (80, "1m20s"), (300, "5m0s")])
def test_go_duration(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
