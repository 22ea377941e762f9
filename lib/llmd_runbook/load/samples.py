"""What is known of each request, and of the client that sent it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Sample(BaseModel):
    """One request. Times are seconds from the start of the run, on one clock.

    Attributes:
        index, group: of its prompt.
        due_s: when the schedule wanted it sent; what a user waits counts from here in an open loop.
        sent_s: when it was sent.
        first_token_s: arrival of the first event with text; None when none came.
        gaps_s: between the arrivals of successive events with text (inter-token latency where an event is a token).
        done_s: arrival of the answer's last bytes, or end of the attempt.
        status: HTTP status; None when there was no answer.
        error: None if good, else connect, timeout, disconnected, http_<status>, stream_error or truncated.
        detail: the server's or library's words on a failure.
        prompt_tokens, output_tokens, cached_tokens: the server's own counts; None where it gave none.
        events: server-sent events with text; more tokens than events means that events are not tokens.
        body_bytes: of the answer's body, as far as it came.
        request_id: sent as x-request-id.
        headers: of the response, those that the plan keeps, lower case.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int
    group: str
    due_s: float
    sent_s: float
    first_token_s: float | None
    gaps_s: tuple[float, ...]
    done_s: float
    status: int | None
    error: str | None
    detail: str
    prompt_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    events: int
    request_id: str
    headers: dict[str, str]
    body_bytes: int = 0

    @property
    def ok(self) -> bool:
        """A whole answer came."""
        return self.error is None

    @property
    def latency_s(self) -> float:
        """From sending to the end of the answer."""
        return self.done_s - self.sent_s

    @property
    def waited_s(self) -> float:
        """From when the schedule wanted it sent to the end of the answer: free of coordinated omission."""
        return self.done_s - self.due_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: from sending to the first event with text."""
        return None if self.first_token_s is None else self.first_token_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (latency - TTFT) / (tokens - 1)."""
        if self.ttft_s is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.latency_s - self.ttft_s) / (self.output_tokens - 1)


class Client(BaseModel):
    """How busy the client itself was.

    Attributes:
        lag_p99_s, lag_max_s: lateness of a timer of its event loop.
        late_p99_s: lateness of sending behind the schedule (open loop and burst; 0 in a closed loop).
        cpu_share: processor time over wall time of its process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lag_p99_s: float
    lag_max_s: float
    late_p99_s: float
    cpu_share: float


class LoadResult(BaseModel):
    """A run: every sample, failed ones too, in the order of the prompts; `started_s` is since the epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    started_s: float
    duration_s: float
    client: Client
    samples: list[Sample]

    @property
    def good(self) -> list[Sample]:
        """Samples with a whole answer."""
        return [sample for sample in self.samples if sample.ok]

    def failures(self) -> dict[str, int]:
        """How many requests failed, by kind."""
        kinds = sorted(sample.error for sample in self.samples if sample.error)
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


class Progress(BaseModel):
    """How far a run is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    elapsed_s: float
    total: int
    ended: int
    failed: int
