from collections.abc import Sequence

from llmd_sandbox.images.vllm.blocks import BlockPool
from llmd_sandbox.images.vllm.scheduler import Request, Scheduler
from llmd_sandbox.images.vllm.tokens import Answer


def scheduler(blocks: int = 100, seqs: int = 256, budget: int = 2048, *, caching: bool = True) -> Scheduler:
    return Scheduler(BlockPool(blocks + 1), 16, seqs, budget, caching)


def request(prompt: Sequence[int], out: int = 3, arrival_s: float = 0.0, salt: int = 0) -> Request:
    said = Answer([7] * out, ["x"] * out, "length", None)
    return Request(list(prompt), said, arrival_s, lambda _: None, out, salt)


def step(engine: Scheduler, now_s: float = 0.0) -> list[tuple[Request, int]]:
    """One step; what it computed."""
    planned = engine.schedule(now_s)
    assert planned is not None
    engine.complete(planned, now_s + 1)
    return planned.work


def run(engine: Scheduler, *requests: Request) -> None:
    for one in requests:
        engine.add(one)
    while engine.running or engine.waiting:
        step(engine)


def test_a_request_gets_a_token_with_its_prompt_and_one_with_each_step_after() -> None:
    engine, one = scheduler(), request(range(20))
    engine.add(one)
    assert step(engine) == [(one, 20)]
    assert one.produced == 1
    assert step(engine) == [(one, 1)]
    assert step(engine) == [(one, 1)]
    assert one.finish_reason == "length"
    assert engine.schedule(0) is None
    assert engine.pool.usage == 0


def test_a_request_joins_the_running_batch() -> None:
    engine, one, two = scheduler(), request(range(20)), request(range(100, 140))
    engine.add(one)
    step(engine)
    engine.add(two)
    assert step(engine) == [(one, 1), (two, 40)]


def test_a_request_is_not_served_before_it_arrived() -> None:
    engine = scheduler()
    engine.add(request(range(20), arrival_s=5.0))
    assert engine.schedule(4.9) is None
    assert engine.schedule(5.0) is not None


def test_what_exceeds_max_num_seqs_waits_in_order() -> None:
    engine = scheduler(seqs=2)
    requests = [request(range(n, n + 20)) for n in (0, 100, 200, 300)]
    for one in requests:
        engine.add(one)
    assert [one for one, _ in step(engine)] == requests[:2]
    assert list(engine.waiting) == requests[2:]
    step(engine)
    step(engine)
    assert [one for one, _ in step(engine)] == requests[2:]


def test_a_long_prompt_is_computed_in_chunks_beside_running_requests() -> None:
    engine, short, long = scheduler(budget=64), request(range(20), 9), request(range(1000, 1150))
    engine.add(short)
    step(engine)
    engine.add(long)
    assert step(engine) == [(short, 1), (long, 63)]
    assert long.produced == 0
    assert step(engine) == [(short, 1), (long, 63)]
    assert step(engine) == [(short, 1), (long, 24)]
    assert long.produced == 1


def test_full_blocks_of_a_common_prefix_are_not_computed_again() -> None:
    engine = scheduler()
    one, two = request(range(40)), request([*range(32), *range(900, 908)])
    run(engine, one)
    engine.add(two)
    assert step(engine) == [(two, 8)]
    assert two.cached_tokens == 32
    assert (engine.queried_tokens, engine.hit_tokens) == (80, 32)


def test_the_last_token_is_always_computed() -> None:
    engine = scheduler()
    run(engine, request(range(32)))
    again = request(range(32))
    engine.add(again)
    assert step(engine) == [(again, 16)]
    assert again.cached_tokens == 16


def test_requests_of_the_same_step_share_a_prefix_too() -> None:
    engine, one, two = scheduler(), request(range(40)), request(range(40))
    engine.add(one)
    engine.add(two)
    assert step(engine) == [(one, 40), (two, 8)]
    assert engine.pool.usage < 2 * 3 / 100


def test_answers_are_cached_for_the_next_turn() -> None:
    engine = scheduler()
    first = request(range(20), out=13)
    run(engine, first)
    second = request([*range(20), *([7] * 13), 1, 2])
    run(engine, second)
    assert second.cached_tokens == 32


def test_a_salt_separates_caches() -> None:
    engine, other = scheduler(), request(range(40), salt=5)
    run(engine, request(range(40)), other)
    assert other.cached_tokens == 0


def test_without_prefix_caching_nothing_is_asked_or_found() -> None:
    engine, again = scheduler(caching=False), request(range(40))
    run(engine, request(range(40)), again)
    assert again.cached_tokens == 0
    assert (engine.queried_tokens, engine.hit_tokens) == (0, 0)


def test_a_request_waits_for_blocks() -> None:
    engine, one, two = scheduler(blocks=4), request(range(40), 2), request(range(100, 140), 2)
    engine.add(one)
    engine.add(two)
    assert step(engine) == [(one, 40)]
    assert list(engine.waiting) == [two]
    step(engine)
    assert step(engine) == [(two, 40)]


def test_the_youngest_is_preempted_when_blocks_run_out_and_recomputed_later() -> None:
    engine, one, two = (
        scheduler(blocks=4, caching=False),
        request(range(32), 20),
        request(range(100, 132), 20),
    )
    engine.add(one)
    engine.add(two)
    assert step(engine) == [(one, 32), (two, 32)]
    assert step(engine) == [(one, 1)]  # its third block is taken from the other
    assert (engine.preemptions, two.preemptions, list(engine.waiting)) == (1, 1, [two])
    assert two.produced == 1
    run(engine)
    assert (one.finish_reason, two.finish_reason) == ("length", "length")
    assert (one.produced, two.produced) == (20, 20)
    assert engine.pool.usage == 0


def test_recomputing_after_a_preemption_is_no_cache_query() -> None:
    engine, one, two = scheduler(blocks=4), request(range(32), 20), request(range(100, 132), 20)
    run(engine, one, two)
    assert engine.preemptions > 0
    assert engine.queried_tokens == 64
    assert two.cached_tokens == 0


def test_an_aborted_request_leaves_the_queue_or_the_batch_and_gives_its_blocks_back() -> None:
    engine, one, two = scheduler(seqs=1), request(range(20)), request(range(20))
    engine.add(one)
    engine.add(two)
    planned = engine.schedule(0)
    assert planned is not None
    assert engine.abort(two)
    assert engine.abort(one)
    assert engine.complete(planned, 1) == []
    assert (one.finish_reason, two.finish_reason) == ("abort", "abort")
    assert not engine.abort(one)
    assert engine.pool.usage == 0
    assert engine.schedule(1) is None
