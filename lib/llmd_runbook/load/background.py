"""Unrelated requests that keep the replicas busy while something else is measured."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from llmd_runbook.clients.inference import Completion, Inference
from llmd_runbook.errors import ClusterError
from llmd_runbook.load.prompts import unique

_PROMPT_TOKENS = (32, 512)
_ANSWER_TOKENS = (2, 16)
"""Of different lengths, so that load differs between replicas; short, so that it soon lies elsewhere."""


class Background:
    """`in_flight` requests at any time from `with` to its end, each with a prompt of its own.

    Attributes:
        answers: of those that were answered, in the order of their ends.
        failures: why the others failed, in the gateway's words.
    """

    def __init__(self, client: Inference, model: str, *, in_flight: int, seed: int) -> None:
        self.answers: list[Completion] = []
        self.failures: list[str] = []
        self._client, self._model, self._seed = client, model, seed
        self._in_flight = in_flight
        self._stop, self._ended = threading.Event(), threading.Condition()
        self._pool = ThreadPoolExecutor(in_flight, "background")
        self._workers: list[Future[None]] = []

    def __enter__(self) -> Background:
        self._workers = [self._pool.submit(self._work, worker) for worker in range(self._in_flight)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Begin no more requests, and wait for those under way."""
        self._stop.set()
        self._pool.shutdown(wait=True)
        if kind is None:
            for worker in self._workers:
                worker.result()

    def turnover(self, requests: int, timeout_s: float = 5.0) -> None:
        """Return when so many more have ended, answered or not: then load lies elsewhere; at the latest in time."""
        wanted = self._count + requests
        with self._ended:
            self._ended.wait_for(lambda: self._count >= wanted, timeout_s)

    @property
    def _count(self) -> int:
        return len(self.answers) + len(self.failures)

    def _work(self, worker: int) -> None:
        rng = random.Random(f"{self._seed} {worker}")
        while not self._stop.is_set():
            [prompt] = unique(1, rng.randint(*_PROMPT_TOKENS), seed=rng.randrange(2**31))
            try:
                self.answers.append(
                    self._client.complete(self._model, prompt.text, max_tokens=rng.randint(*_ANSWER_TOKENS))
                )
            except ClusterError as error:
                self.failures.append(error.reason or error.what)
                self._stop.wait(0.2)  # a gateway that refuses at once must not be asked a thousand times
            with self._ended:
                self._ended.notify_all()
