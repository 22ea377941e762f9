from llmd_sandbox.images.vllm.blocks import BlockPool, extend_hashes

SIZE = 4


def chain(tokens: list[int], salt: int = 0) -> list[int]:
    hashes: list[int] = []
    extend_hashes(hashes, tokens, len(tokens), SIZE, salt)
    return hashes


def filled(pool: BlockPool, tokens: list[int]) -> list[int]:
    hashes = chain(tokens)
    blocks = pool.take(len(hashes))
    for block, value in zip(blocks, hashes, strict=True):
        pool.publish(block, value)
    return blocks


def test_only_full_blocks_have_a_hash_and_each_depends_on_all_before() -> None:
    assert len(chain(list(range(11)))) == 2
    assert chain([1, 2, 3, 4, 5, 6, 7, 8])[0] == chain([1, 2, 3, 4])[0]
    assert chain([1, 2, 3, 4, 5, 6, 7, 8])[1] != chain([9, 2, 3, 4, 5, 6, 7, 8])[1]
    assert chain([1, 2, 3, 4], salt=1) != chain([1, 2, 3, 4])


def test_hashes_grow_with_the_tokens_that_are_known() -> None:
    tokens = list(range(12))
    hashes: list[int] = []
    extend_hashes(hashes, tokens, 7, SIZE, 0)
    assert len(hashes) == 1
    extend_hashes(hashes, tokens, 12, SIZE, 0)
    assert hashes == chain(tokens)


def test_the_longest_cached_prefix_is_found() -> None:
    pool = BlockPool(10)
    blocks = filled(pool, list(range(8)))
    assert pool.lookup(chain(list(range(8)))) == blocks
    assert pool.lookup(chain([0, 1, 2, 3, 9, 9, 9, 9])) == blocks[:1]
    assert pool.lookup(chain([9, 1, 2, 3])) == []


def test_one_block_is_never_handed_out() -> None:
    pool = BlockPool(4)
    assert pool.free == 3
    assert 0 not in pool.take(3)
    assert pool.usage == 1.0


def test_released_blocks_stay_cached_until_they_are_needed_oldest_first() -> None:
    pool = BlockPool(5)
    first, second = filled(pool, [1] * 8), filled(pool, [2] * 8)
    pool.release(first)
    pool.release(second)
    assert pool.usage == 0.0
    assert pool.lookup(chain([1] * 8)) == first
    taken = pool.take(1)
    assert taken == first[1:]  # the end of the prefix that was used least recently
    assert pool.lookup(chain([1] * 8)) == first[:1]
    pool.take(2)
    assert pool.lookup(chain([1] * 8)) == []
    assert pool.lookup(chain([2] * 8)) == second[:1]


def test_a_hit_saves_a_block_from_eviction() -> None:
    pool = BlockPool(3)
    old, young = filled(pool, [1] * 4), filled(pool, [2] * 4)
    pool.release(old)
    pool.release(young)
    pool.share(old)
    assert pool.take(1) == young
    assert pool.free == 0


def test_a_shared_block_is_free_when_its_last_user_leaves() -> None:
    pool = BlockPool(3)
    blocks = filled(pool, [1] * 4)
    pool.share(blocks)
    assert pool.idle(blocks) == 0
    pool.release(blocks)
    assert pool.free == 1
    pool.release(blocks)
    assert pool.free == 2
    assert pool.idle(blocks) == 1


def test_the_first_of_two_equal_blocks_stays_the_one_that_is_found() -> None:
    pool = BlockPool(5)
    first, second = filled(pool, [1] * 4), filled(pool, [1] * 4)
    assert pool.lookup(chain([1] * 4)) == first
    pool.release(second)
    assert pool.take(2) != second  # the one never used comes first
    assert pool.lookup(chain([1] * 4)) == first


def test_an_equal_block_is_found_when_the_first_is_gone() -> None:
    pool = BlockPool(3)
    first, second = filled(pool, [1] * 4), filled(pool, [1] * 4)
    pool.release(first)
    assert pool.take(1) == first
    assert pool.lookup(chain([1] * 4)) == second


def test_blocks_that_nobody_can_find_are_taken_first() -> None:
    pool = BlockPool(5)
    old = filled(pool, [1] * 4)
    pool.release(old)
    young = filled(pool, [2] * 4) + pool.take(1)  # the last one never became full
    pool.release(young)
    assert pool.take(2) == [young[-1], 4]
    assert pool.take(1) == old
    assert pool.lookup(chain([2] * 4)) == young[:1]


def test_reset_forgets_unless_a_block_is_in_use() -> None:
    pool = BlockPool(5)
    blocks = filled(pool, [1] * 4)
    assert not pool.reset()
    assert pool.lookup(chain([1] * 4)) == blocks
    pool.release(blocks)
    assert pool.reset()
    assert pool.lookup(chain([1] * 4)) == []
