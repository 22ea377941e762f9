import asyncio

from llmd_sandbox.images.vllm.blocks import BlockPool
from llmd_sandbox.images.vllm.engine import Engine, clock
from llmd_sandbox.images.vllm.families import EngineMetrics
from llmd_sandbox.images.vllm.scheduler import Request, Scheduler
from llmd_sandbox.images.vllm.tokens import Answer

STEP_S = 0.01


def new_engine() -> Engine:
    scheduler = Scheduler(BlockPool(100), 16, 256, 2048, caching=True)
    return Engine(scheduler, lambda _tokens, _sequences, _context: STEP_S, EngineMetrics("m", 2048, {}))


async def run(requests: int, tokens: int, stall_s: float = 0.0) -> list[tuple[float, float]]:
    """(due, seen) of each token, seconds after the first request was sent."""
    engine = new_engine()
    seen: list[tuple[float, float]] = []
    ended = asyncio.Event()

    def on_token(request: Request) -> None:
        seen.append((request.last_token_s - began_s, clock() - began_s))
        if stall_s and request.produced == 2:
            until = clock() + stall_s
            while clock() < until:
                pass
        if len(seen) == requests * tokens:
            ended.set()

    said = Answer([1] * tokens, ["x"] * tokens, "length", None)
    running = asyncio.create_task(engine.run())
    await asyncio.sleep(0)
    began_s = clock()
    for _ in range(requests):
        engine.submit(Request([1, 2, 3], said, began_s, on_token, tokens))
    await ended.wait()
    running.cancel()
    return seen


def near(value: float, expected: float) -> bool:
    return abs(value - expected) < 1e-6


async def test_tokens_come_at_absolute_times_and_never_before() -> None:
    seen = await run(requests=1, tokens=10)
    assert all(near(due, STEP_S * (index + 1)) for index, (due, _) in enumerate(seen))
    assert all(now >= due for due, now in seen)


async def test_a_batch_gets_its_tokens_in_the_same_step() -> None:
    seen = await run(requests=5, tokens=3)
    assert len({round(due, 6) for due, _ in seen}) == 3


async def test_a_late_process_does_not_shift_the_steps_that_follow() -> None:
    seen = await run(requests=1, tokens=10, stall_s=2.5 * STEP_S)
    assert all(near(due, STEP_S * (index + 1)) for index, (due, _) in enumerate(seen))
    assert all(now >= due for due, now in seen)


async def test_a_request_that_comes_after_an_idle_time_starts_then() -> None:
    engine = new_engine()
    running = asyncio.create_task(engine.run())
    ended = asyncio.Event()
    for _ in range(2):
        ended.clear()
        said = Answer([1], ["x"], "length", None)
        request = Request([1], said, clock(), lambda _: ended.set(), 1)
        engine.submit(request)
        await ended.wait()
        assert near(request.last_token_s - request.arrival_s, STEP_S)
        await asyncio.sleep(STEP_S)
    running.cancel()
