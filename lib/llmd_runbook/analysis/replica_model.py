"""A simple model of one replica: a queue before a batching engine with a prefix cache.

Time passes as in vLLM's continuous batching, simplified: prompts wait in order of arrival; as many as fit into
the sequences, the cache and one step's token budget are computed together, and decoding pauses meanwhile; then
every running sequence gets one token a step, and a step takes longer the more sequences run. Only full blocks
are cached, the least recently used are evicted first, a prefix's end before its beginning, never one in use.

Not modelled: prompts computed in chunks beside decoding, preemption (a request takes the blocks of its whole
answer at once), attention's growth with the context, cached answers, start-up, network, failures.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from llmd_runbook.analysis.traces import CACHE_BLOCK_TOKENS, Segment, TraceRequest

T4_CACHE_BLOCKS = 7600
"""About 121,000 tokens: Qwen2.5-3B in float16 on a T4 at 0.75 of its memory."""
_STEP_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Engine:
    """How fast a replica is; the defaults are a T4's with Qwen2.5-3B.

    step_s + running x step_s_per_sequence is fitted to two measured loads on T4s (50 tokens alone in 1.637 s; on
    three replicas 20 in flight, 70 prompt and 98 output tokens, a median of 3.55 s); prefill_s_per_token is
    2 x 3.09e9 parameters over 34 % of 65 TFLOPS. `max_num_seqs` is vLLM's on small GPUs.
    """

    max_num_seqs: int = 256
    max_batched_tokens: int = 2048
    prefill_s_per_token: float = 0.00028
    step_s: float = 0.0321
    step_s_per_sequence: float = 0.00042


@dataclass(eq=False)
class Job:
    """A request on its way. `cached_tokens` is known once its prompt is computed, `done_s` once it ended."""

    request: TraceRequest
    sent_s: float
    replica: int = -1
    cached_tokens: int = 0
    done_s: float = 0.0

    @property
    def blocks(self) -> int:
        """Cache blocks that prompt and answer take."""
        return -(-(self.request.prompt_tokens + self.request.output_tokens) // CACHE_BLOCK_TOKENS)


class BlockCache:
    """The prefix cache of a replica, in blocks of 16 tokens; what is in use and what is kept share its capacity."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, int] = OrderedDict()
        self._idle_blocks = 0

    def found(self, segments: Sequence[Segment]) -> int:
        """Blocks of the longest cached prefix."""
        blocks = 0
        for segment in segments:
            if segment.key not in self._users and segment.key not in self._idle:
                break
            blocks += segment.blocks
        return blocks

    def take(self, segments: Sequence[Segment], total_blocks: int) -> bool:
        """Take a request's blocks into use, evicting what must go; False, and nothing done, if there is no room."""
        shared = sum(segment.blocks for segment in segments if segment.key in self._users)
        if self.used + total_blocks - shared > self.capacity:
            return False
        self.used += total_blocks - shared
        for segment in segments:
            self._users[segment.key] = self._users.get(segment.key, 0) + 1
            self._idle_blocks -= self._idle.pop(segment.key, 0)
        while self.used + self._idle_blocks > self.capacity:
            self._idle_blocks -= self._idle.popitem(last=False)[1]
        return True

    def give_back(self, segments: Sequence[Segment], total_blocks: int) -> None:
        """End the use of what `take` took; full prompt blocks stay until their room is needed."""
        own = total_blocks - sum(segment.blocks for segment in segments)
        self.used -= own
        for segment in reversed(segments):
            self._users[segment.key] -= 1
            if self._users[segment.key] == 0:
                del self._users[segment.key]
                self.used -= segment.blocks
                self._idle[segment.key] = segment.blocks
                self._idle_blocks += segment.blocks

    @property
    def usage(self) -> float:
        """Part of the cache in use, as vLLM's kv_cache_usage_perc counts it."""
        return self.used / self.capacity


class Replica:
    """One replica's state at its own clock (s); `turn` brings it up to a time, `next_s` says when to come back."""

    def __init__(self, engine: Engine, cache_blocks: int) -> None:
        self.cache = BlockCache(cache_blocks)
        self.waiting: deque[Job] = deque()
        self.version = 0
        self._engine = engine
        self._running: list[tuple[float, int, Job]] = []
        self._started = 0
        self._steps = 0.0
        self._clock_s = 0.0
        self._prefill_until_s: float | None = None

    def turn(self, now_s: float) -> list[Job]:
        """Pass time up to now, start what can start, and return what ended."""
        self._advance(now_s)
        ended = []
        while self._running and self._running[0][0] <= self._steps + _STEP_TOLERANCE:
            job = heapq.heappop(self._running)[2]
            job.done_s = now_s
            self.cache.give_back(job.request.segments, job.blocks)
            ended.append(job)
        if self._prefill_until_s is None and self.waiting:
            self._start()
        self.version += 1
        return ended

    def next_s(self) -> float | None:
        """When a prompt or an answer will be done; None while nothing runs."""
        if self._prefill_until_s is not None:
            return self._prefill_until_s
        if not self._running:
            return None
        return self._clock_s + max(0.0, self._running[0][0] - self._steps) * self._step_s()

    def _advance(self, now_s: float) -> None:
        if self._prefill_until_s is not None:
            if now_s < self._prefill_until_s:
                return
            self._clock_s, self._prefill_until_s = self._prefill_until_s, None
        self._steps += (now_s - self._clock_s) / self._step_s()
        self._clock_s = now_s

    def _start(self) -> None:
        tokens = 0
        while self.waiting and len(self._running) < self._engine.max_num_seqs:
            job = self.waiting[0]
            segments, prompt = job.request.segments, job.request.prompt_tokens
            # The last token is always computed, for its answer.
            most = (prompt - 1) // CACHE_BLOCK_TOKENS
            cached = CACHE_BLOCK_TOKENS * min(self.cache.found(segments), most)
            if tokens and tokens + prompt - cached > self._engine.max_batched_tokens:
                break
            if not self.cache.take(segments, job.blocks):
                break
            tokens += prompt - cached
            job.cached_tokens = cached
            self.waiting.popleft()
            self._started += 1
            heapq.heappush(self._running, (self._steps + job.request.output_tokens, self._started, job))
        if tokens:
            self._prefill_until_s = self._clock_s + tokens * self._engine.prefill_s_per_token

    def _step_s(self) -> float:
        return self._engine.step_s + len(self._running) * self._engine.step_s_per_sequence
