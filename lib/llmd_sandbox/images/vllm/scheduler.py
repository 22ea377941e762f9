"""Continuous batching over KV blocks, as vLLM's V1 scheduler does it. It has no clock: callers pass times.

A step serves the running requests first, each with the tokens it has not computed yet, within a budget;
then it admits waiting ones. Prompts longer than the budget are computed in chunks. When no block is left,
the request that was admitted last gives its blocks back, returns to the head of the queue and will compute
everything again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from llmd_sandbox.images.vllm.blocks import BlockPool, extend_hashes
from llmd_sandbox.images.vllm.tokens import Answer


@dataclass(eq=False)
class Request:
    """One sequence. Times are seconds of the caller's clock; `on_token` is called after each token."""

    prompt: list[int]
    answer: Answer
    arrival_s: float
    on_token: Callable[[Request], None]
    max_tokens: int
    salt: int = 0
    produced: int = 0
    computed: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    admitted_s: float | None = None
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    finish_reason: str | None = None
    blocks: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    tokens: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.prompt + self.answer.ids

    @property
    def known(self) -> int:
        """Tokens that exist: the prompt's and those produced."""
        return len(self.prompt) + self.produced


@dataclass(frozen=True)
class Step:
    """What one step computes: for each request so many tokens; `context_tokens` are read by attention."""

    work: list[tuple[Request, int]]
    tokens: int
    context_tokens: int


class Scheduler:
    """The queue, the batch and the pool of one engine."""

    def __init__(
        self, pool: BlockPool, block_size: int, max_num_seqs: int, max_num_batched_tokens: int, caching: bool
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.caching = caching
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.preemptions = 0

    def add(self, request: Request) -> None:
        """Queue a request."""
        self.waiting.append(request)

    def abort(self, request: Request) -> bool:
        """Drop a request wherever it is; False when it had ended."""
        if request.finish_reason is not None:
            return False
        if request in self.running:
            self._leave(request)
        else:
            self.waiting.remove(request)
        request.finish_reason = "abort"
        return True

    def schedule(self, now_s: float) -> Step | None:
        """Decide what the step that starts at `now_s` computes; None when nothing can run."""
        budget = self.max_num_batched_tokens
        work: list[tuple[Request, int]] = []
        preempted = False
        for request in list(self.running):
            if request not in self.running:
                continue  # preempted for an earlier one in this very step
            count = min(request.known - request.computed, budget)
            if count == 0:
                continue
            while not self._reserve(request, request.computed + count):
                victim = self.running[-1]
                self._preempt(victim)
                preempted = True
                if victim is request:
                    break
            else:
                self._publish(request, request.computed + count)
                work.append((request, count))
                budget -= count
        if not preempted:
            self._admit(now_s, budget, work)
        if not work:
            return None
        return Step(work, sum(count for _, count in work), sum(request.computed + count for request, count in work))

    def complete(self, step: Step, now_s: float) -> list[Request]:
        """End the step: each request whose tokens are all computed gets one more. Returns those that did."""
        fed = []
        for request, count in step.work:
            if request.finish_reason is not None:
                continue  # aborted while the step ran
            request.computed += count
            if request.computed < request.known:
                continue
            if request.produced == 0:
                request.first_token_s = now_s
            request.produced += 1
            if request.produced == len(request.answer.ids):
                request.finish_reason = request.answer.finish_reason
                self._leave(request)
            fed.append(request)
        return fed

    def _admit(self, now_s: float, budget: int, work: list[tuple[Request, int]]) -> None:
        while self.waiting and budget and len(self.running) < self.max_num_seqs:
            request = self.waiting[0]
            if request.arrival_s > now_s:
                return
            known = request.known
            extend_hashes(request.hashes, request.tokens, known, self.block_size, request.salt)
            # The last token is always computed: its logits give the next one.
            usable = (known - 1) // self.block_size if self.caching else 0
            hit = self.pool.lookup(request.hashes[:usable])
            cached = len(hit) * self.block_size
            count = min(known - cached, budget)
            fresh = -(-(cached + count) // self.block_size) - len(hit)
            if fresh > self.pool.free - self.pool.idle(hit):
                return
            self.waiting.popleft()
            self.pool.share(hit)
            request.blocks = hit + self.pool.take(fresh)
            request.computed = cached
            if request.admitted_s is None:
                request.admitted_s = now_s
                request.cached_tokens = cached
                if self.caching:
                    self.queried_tokens += known
                    self.hit_tokens += cached
            self._publish(request, cached + count)
            self.running.append(request)
            work.append((request, count))
            budget -= count

    def _reserve(self, request: Request, tokens: int) -> bool:
        missing = -(-tokens // self.block_size) - len(request.blocks)
        if missing > self.pool.free:
            return False
        if missing > 0:
            request.blocks += self.pool.take(missing)
        return True

    def _publish(self, request: Request, computed: int) -> None:
        """Make the blocks that this step fills findable at once: requests behind in the same step use them."""
        if not self.caching:
            return
        before, after = request.computed // self.block_size, computed // self.block_size
        if after > before:
            extend_hashes(request.hashes, request.tokens, computed, self.block_size, request.salt)
            for index in range(before, after):
                self.pool.publish(request.blocks[index], request.hashes[index])

    def _preempt(self, victim: Request) -> None:
        self._leave(victim)
        victim.computed = 0
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(victim)

    def _leave(self, request: Request) -> None:
        self.running.remove(request)
        self.pool.release(request.blocks)
        request.blocks = []
