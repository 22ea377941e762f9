"""Requests through the gateway all the time, under both model names in turn: how many of them nobody answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

_EVERY_S = 0.1


@dataclass(frozen=True)
class Sent:
    """One tick: when (monotonic clock, s), and the model that answered; empty where neither did."""

    at_s: float
    answered: str


class Probe:
    """A client in a thread of its own while the block runs."""

    def __init__(self, url: str, models: tuple[str, str]) -> None:
        self._netloc, self._models = urlsplit(url).netloc, models
        self.sent: list[Sent] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def lost(self, since_s: float = 0.0) -> int:
        """Ticks from then on at which neither model answered."""
        return sum(not each.answered for each in self.sent if each.at_s >= since_s)

    def count(self, since_s: float = 0.0) -> int:
        """Ticks from then on."""
        return sum(each.at_s >= since_s for each in self.sent)

    def answers(self, model: str) -> bool:
        """Whether a request under that name is answered now."""
        body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1})
        connection = http.client.HTTPConnection(self._netloc, timeout=5)
        try:
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _run(self) -> None:
        first = 0
        while not self._stop.wait(_EVERY_S):
            at_s = time.monotonic()
            order = (self._models[first], self._models[1 - first])
            answered = next((model for model in order if self.answers(model)), "")
            first = self._models.index(answered) if answered else first
            self.sent.append(Sent(at_s, answered))
