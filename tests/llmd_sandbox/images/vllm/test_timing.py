"""The two rows measured on T4s, replayed in virtual time: nothing sleeps, nothing depends on this machine."""

import statistics
from dataclasses import dataclass

import pytest

from llmd_sandbox.images.vllm.args import parse
from llmd_sandbox.images.vllm.blocks import BlockPool
from llmd_sandbox.images.vllm.models import T4, find
from llmd_sandbox.images.vllm.scheduler import Request, Scheduler, Step
from llmd_sandbox.images.vllm.timing import StepTime
from llmd_sandbox.images.vllm.tokens import Limits, answer

QWEN = "Qwen/Qwen2.5-3B-Instruct"


@dataclass
class Replica:
    scheduler: Scheduler
    timing: StepTime
    step: Step | None = None
    ends_s: float = float("inf")

    def begin(self, now_s: float) -> None:
        self.step = self.scheduler.schedule(now_s)
        self.ends_s = float("inf")
        if self.step is not None:
            work = self.step
            self.ends_s = now_s + self.timing.step_s(work.tokens, len(work.work), work.context_tokens)

    @property
    def load(self) -> int:
        return len(self.scheduler.running) + len(self.scheduler.waiting)


def replica(name: str = QWEN) -> Replica:
    config = parse(["vllm", "serve", name, "--max-model-len", "2048", "--gpu-memory-utilization", "0.75"])
    pool = BlockPool(config.num_gpu_blocks)
    scheduler = Scheduler(pool, 16, config.max_num_seqs, config.max_num_batched_tokens, caching=True)
    return Replica(scheduler, StepTime(config.model, T4, config.dtype))


def closed_loop(
    replicas: list[Replica], total: int, concurrency: int, prompt: int, out: int, *, same: bool = False
) -> tuple[list[float], float]:
    """Each client sends its next request, to the least loaded replica, when its last one ends.

    Latencies and the time of the whole, both in seconds of the model's time.
    """
    vocabulary = find(QWEN).vocabulary
    latencies: list[float] = []
    sent = 0
    now_s = 0.0

    def send() -> None:
        nonlocal sent
        tokens = [0 if same else sent + 1, *range(prompt - 1)]
        said = answer(tokens, None, Limits(out, ignore_eos=True), vocabulary)
        target = min(replicas, key=lambda one: one.load)
        target.scheduler.add(Request(tokens, said, now_s, lambda _: None, out))
        sent += 1
        if target.step is None:
            target.begin(now_s)

    for _ in range(min(concurrency, total)):
        send()
    while len(latencies) < total:
        stepping = min(replicas, key=lambda one: one.ends_s)
        assert stepping.step is not None
        now_s = stepping.ends_s
        fed = stepping.scheduler.complete(stepping.step, now_s)
        stepping.step = None
        for ended in (one for one in fed if one.finish_reason):
            latencies.append(now_s - ended.arrival_s)
            if sent < total:
                send()
        if stepping.step is None:
            stepping.begin(now_s)
    return latencies, now_s


def test_one_stream_on_a_t4() -> None:
    latencies, whole_s = closed_loop([replica()], total=10, concurrency=1, prompt=20, out=50)
    assert statistics.median(latencies) == pytest.approx(1.637, rel=0.1)
    assert 10 * 50 / whole_s == pytest.approx(30.9, rel=0.1)


def test_three_replicas_at_concurrency_20() -> None:
    replicas = [replica(), replica(), replica()]
    latencies, whole_s = closed_loop(replicas, total=100, concurrency=20, prompt=70, out=98)
    assert 100 / whole_s == pytest.approx(5.54, rel=0.1)
    assert statistics.median(latencies) == pytest.approx(3.55, rel=0.1)


def test_a_cached_prefix_shortens_the_prefill_by_its_share() -> None:
    cold, _ = closed_loop([replica()], total=2, concurrency=1, prompt=1601, out=1)
    warm, _ = closed_loop([replica()], total=2, concurrency=1, prompt=1601, out=1, same=True)
    assert warm[0] == cold[0] == cold[1]
    token_s = 2 * 3.09e9 / (65e12 * 0.34)
    assert cold[0] - warm[1] == pytest.approx(1600 * token_s)


def test_a_smaller_model_is_faster_in_proportion_to_its_weights() -> None:
    qwen, gemma = (StepTime(find(name), T4, "float16").step_s(1, 1, 20) for name in (QWEN, "google/gemma-2b-it"))
    assert 0.75 < gemma / qwen < 0.9  # 2.51e9 / 3.09e9 parameters = 0.81, and the host's share stays


def test_a_step_cannot_beat_the_memory_bandwidth() -> None:
    assert StepTime(find(QWEN), T4, "float16").step_s(1, 1, 20) > 6.18e9 / 320e9
