import pytest

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet.status import Conditions, ContainerState, phase, pod_conditions, statuses_differ


def ended(code: int) -> ContainerState:
    state = ContainerState("c", "image")
    state.runs("id")
    state.ended(code)
    return state


def running() -> ContainerState:
    state = ContainerState("c", "image")
    state.runs("id")
    return state


def crashing() -> ContainerState:
    state = ended(1)
    state.waits("CrashLoopBackOff")
    return state


@pytest.mark.parametrize(
    ("main", "finished", "expected"),
    [
        ([ContainerState("c", "i")], False, "Pending"),
        ([running(), ContainerState("d", "i")], False, "Pending"),
        ([running()], False, "Running"),
        ([crashing()], False, "Running"),
        ([ended(0)], True, "Succeeded"),
        ([ended(0), ended(2)], True, "Failed"),
        ([ContainerState("c", "i")], True, "Failed"),
    ],
)
def test_phase(main: list[ContainerState], finished: bool, expected: str) -> None:
    assert phase([], main, finished=finished) == expected


def test_a_signal_and_its_reason() -> None:
    state = ended(137).terminated
    assert state is not None
    assert (state["exitCode"], state["signal"], state["reason"]) == (137, 9, "Error")
    clean = ended(0).terminated
    assert clean is not None
    assert clean["reason"] == "Completed"
    assert "signal" not in clean


def test_waiting_after_an_end_keeps_how_it_ended() -> None:
    state = crashing()
    assert state.last["terminated"]["exitCode"] == 1
    assert state.as_status()["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("earlier", "restarts", "last_exit"),
    [
        ({"restartCount": 2, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}, 3, 255),
        ({"restartCount": 0, "state": {"terminated": {"exitCode": 3}}}, 1, 3),
        ({"restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}, 0, None),
    ],
)
def test_counting_goes_on_after_the_kubelets_restart(earlier: Object, restarts: int, last_exit: int | None) -> None:
    state = ContainerState("c", "image")
    state.take_over(earlier)
    assert state.restarts == restarts
    assert state.last.get("terminated", {}).get("exitCode") == last_exit


def by_type(conditions: list[Object]) -> dict[str, Object]:
    return {item["type"]: item for item in conditions}


def test_conditions_name_what_is_unready_and_keep_times() -> None:
    old = {"type": "Ready", "status": "False", "lastTransitionTime": "2020-01-01T00:00:00Z"}
    known, state = Conditions([old]), running()
    first = by_type(pod_conditions(known, [], [state], "Running", sandboxed=True))
    assert first["Ready"]["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    assert first["Ready"]["message"] == "containers with unready status: [c]"
    state.ready = True
    second = by_type(pod_conditions(known, [], [state], "Running", sandboxed=True))
    assert second["Ready"]["status"] == second["ContainersReady"]["status"] == "True"
    assert second["Ready"]["lastTransitionTime"] != "2020-01-01T00:00:00Z"


def test_not_initialized_while_an_init_container_has_not_succeeded() -> None:
    conditions = by_type(pod_conditions(Conditions(), [ended(1)], [running()], "Pending", sandboxed=True))
    assert conditions["Initialized"]["status"] == "False"
    assert conditions["Initialized"]["message"] == "containers with incomplete status: [c]"


def test_written_only_when_changed_here_or_overwritten_there() -> None:
    wanted: Object = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    assert statuses_differ(None, wanted, {})
    assert not statuses_differ(wanted, dict(wanted), wanted)
    overwritten = {"conditions": [{"type": "Ready", "status": "False"}]}
    assert statuses_differ(wanted, dict(wanted), overwritten)
