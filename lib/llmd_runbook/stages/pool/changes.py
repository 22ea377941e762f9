"""Changes of a node pool: one operation at a time on GKE, found and waited for where one runs, never begun twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmd_runbook.clients.gke import GkePool, OperationState
from llmd_runbook.errors import ApiError, Conflict, Unreachable
from llmd_runbook.run import StepHandle

_LOOK_UP_S = 10.0


@dataclass(frozen=True)
class Reached:
    """How it came to be as it should: by our own operation (its name, else empty), after others had ended."""

    operation: str
    after: list[OperationState]

    def then(self, later: Reached) -> Reached:
        """Both changes as one; with two operations of ours both are named."""
        ours = [name for name in (self.operation, later.operation) if name]
        return Reached(", ".join(ours), [*self.after, *later.after])

    def say(self, step: StepHandle, changed: str, ok: str) -> None:
        """End the step with what was changed, or with how it is already, and the operations."""
        ours = [self.operation] if self.operation else []
        named = ", ".join([*ours, *(f"after {described(item)}" for item in self.after)])
        detail = f"{changed if self.operation else ok} ({named})" if named else ok
        if self.operation:
            step.changed(detail)
        else:
            step.ok(detail)


def reach(
    pool: GkePool, step: StepHandle, timeout_s: float, *, missing: Callable[[], bool], change: Callable[[], str]
) -> Reached:
    """Begin one operation if something is missing, and wait for its end.

    What runs on the cluster already, whoever began it (an attempt that was killed, the autoscaler, a colleague), is
    waited for first, and then it is looked again. A call that got no answer is looked up and not repeated.

    Args:
        missing: looks whether there is anything to do.
        change: begins the operation; its name.

    Raises:
        DeadlineExceeded: an operation is not done after `timeout_s`; it goes on running.
        Unreachable: GKE did not answer, and has begun nothing as far as it says.
        ApiError: our operation ended with an error.
        Conflict: GKE refuses, and names no operation that could be waited for.
    """
    after: list[OperationState] = []
    found, refused = "", False
    while True:
        after += [_ended(pool, running, step, timeout_s) for running in pool.running_operations()]
        if not missing():
            return Reached(found, [item for item in after if item.name != found])
        known = {item.name for item in pool.operations()}
        try:
            begun = change()
        except Conflict:
            if refused and not pool.running_operations():
                raise  # it cannot be waited for
            refused = True
            continue
        except Unreachable:
            step.progress("no answer from GKE: looking whether it began the operation")
            operations = pool.begun_since(known, _LOOK_UP_S)
            if not operations:
                raise
            found = operations[0].name
            continue
        pool.wait(begun, timeout_s, lambda now, _: step.progress(f"{described(now)}: {now.status}"))
        return Reached(begun, after)


def described(operation: OperationState) -> str:
    """Which operation, and since when."""
    return f"{operation.type} {operation.name} of {operation.started}"


def _ended(pool: GkePool, running: OperationState, step: StepHandle, timeout_s: float) -> OperationState:
    """Wait for an operation under way; how it ended is its own business."""

    def show(now: OperationState, _waited_s: float) -> None:
        step.progress(f"waiting for {described(now)}, which was begun before: {now.status}")

    try:
        return pool.wait(running.name, timeout_s, show)
    except ApiError:
        return pool.operation(running.name)
