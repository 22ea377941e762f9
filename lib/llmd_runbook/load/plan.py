"""What a measurement sends, where and when: plain data, so that another process can run it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Prompt(_Model):
    """One request's text; `group` names what it shares its prefix with.

    `system` comes before the text: a chat's system message, or simply the beginning of a completion's prompt.
    `output_tokens` are its answer's, exactly; None: as the plan has it.
    """

    group: str
    text: str
    system: str = ""
    output_tokens: PositiveInt | None = None


class Closed(_Model):
    """`concurrency` workers, each sending its next request when the last was answered."""

    kind: Literal["closed"] = "closed"
    concurrency: PositiveInt


class Open(_Model):
    """Requests at absolute times, whatever the server does: at equal gaps, or as a Poisson process."""

    kind: Literal["open"] = "open"
    rate_per_s: PositiveFloat
    gaps: Literal["constant", "poisson"] = "poisson"
    seed: int = 0


class Timed(_Model):
    """Requests at the times of a trace: `due_s` from its start, ascending, one a prompt."""

    kind: Literal["timed"] = "timed"
    due_s: Annotated[list[NonNegativeFloat], Field(min_length=1)]

    @model_validator(mode="after")
    def _ascends(self) -> Timed:
        if any(later < at for at, later in pairwise(self.due_s)):
            raise ValueError("the times of a trace must ascend")
        return self


class Burst(_Model):
    """All requests at once."""

    kind: Literal["burst"] = "burst"


Arrival = Annotated[Closed | Open | Timed | Burst, Field(discriminator="kind")]


class Plan(_Model):
    """One measurement.

    Attributes:
        url: of the gateway, with its path prefix and without /v1.
        headers: sent with every request (a Host where the gateway wants one; never a credential).
        bearer_variable, bearer_file: environment variable or file that holds a bearer token; empty means that none is
            sent.
        server_name: for https, the name that the certificate must bear and that is asked for (SNI); empty means the
            URL's host.
        api: which call.
        ca_file: CA bundle for https; None means the system's.
        model: name of the served model.
        prompts: one a request, in the order of sending.
        output_tokens: tokens of every answer, exactly (`ignore_eos`), unless its prompt says otherwise.
        arrival: when requests are sent.
        streamed: whether answers come as they are made, or whole.
        keep_headers: response headers to keep with a sample.
        start_s: when to start (seconds since the epoch), where several machines start together; None is at once.
        connect_timeout_s, request_timeout_s: a slower request is a failed one.
    """

    url: str
    model: str
    prompts: Annotated[list[Prompt], Field(min_length=1)]
    output_tokens: PositiveInt
    arrival: Arrival
    api: Literal["completions", "chat"] = "completions"
    headers: dict[str, str] = Field(default_factory=dict)
    bearer_variable: str = ""
    bearer_file: str = ""
    server_name: str = ""
    ca_file: str | None = None
    keep_headers: tuple[str, ...] = ("x-inference-pod",)
    streamed: bool = True
    start_s: float | None = None
    connect_timeout_s: PositiveFloat = 5.0
    request_timeout_s: PositiveFloat = 120.0

    @model_validator(mode="after")
    def _a_time_a_prompt(self) -> Plan:
        if isinstance(self.arrival, Timed) and len(self.arrival.due_s) != len(self.prompts):
            raise ValueError(f"{len(self.arrival.due_s)} times for {len(self.prompts)} prompts")
        return self
