"""The pool of KV blocks and the prefix cache within it, as in vLLM's V1 engine.

A full block is known by the hash of its tokens and of its predecessor's hash, so equal hashes mean equal
prefixes. Blocks that nobody uses keep their contents and wait in one queue, least recently used first; a
new allocation takes from its head and forgets what was there. Caching therefore needs no memory of its own.
Blocks whose contents nobody can find, for they never became full, go to the head (vLLM 0.11.2 had them wait too).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


def extend_hashes(hashes: list[int], tokens: Sequence[int], known: int, block_size: int, salt: int) -> None:
    """Append the hashes of the blocks that the first `known` tokens fill and that `hashes` lacks yet."""
    while (start := len(hashes) * block_size) + block_size <= known:
        parent = hashes[-1] if hashes else salt
        hashes.append(hash((parent, *tokens[start : start + block_size])))


class BlockPool:
    """KV blocks with reference counts; one of `num_blocks`, the engine's null block, is never handed out."""

    def __init__(self, num_blocks: int) -> None:
        self.total = num_blocks - 1
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self._references = [0] * num_blocks
        self._hash_of: dict[int, int] = {}
        self._blocks_of: dict[int, dict[int, None]] = {}

    @property
    def free(self) -> int:
        """Blocks that nobody uses, cached ones among them."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1.0 - len(self._free) / self.total

    def lookup(self, hashes: Iterable[int]) -> list[int]:
        """The blocks of the longest cached prefix."""
        found = []
        for value in hashes:
            blocks = self._blocks_of.get(value)
            if blocks is None:
                break
            found.append(next(iter(blocks)))
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` wait in the free queue."""
        return sum(1 for block in blocks if self._references[block] == 0)

    def share(self, blocks: Iterable[int]) -> None:
        """Use cached blocks once more."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """Take `count` blocks for new contents, least recently used first; the caller has checked `free`."""
        taken = []
        for _ in range(count):
            block, _none = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, value: int) -> None:
        """Make a full block findable; of blocks with equal contents the first that is left is the one found."""
        if block not in self._hash_of:
            self._hash_of[block] = value
            self._blocks_of.setdefault(value, {})[block] = None

    def release(self, blocks: Sequence[int]) -> None:
        """Give back the blocks of one request; the end of its prefix will be evicted before the beginning."""
        unfindable = []
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    unfindable.append(block)
        for block in reversed(unfindable):
            self._free.move_to_end(block, last=False)

    def reset(self) -> bool:
        """Forget all cached contents; False, and nothing done, while any block is in use."""
        if len(self._free) != self.total:
            return False
        self._hash_of.clear()
        self._blocks_of.clear()
        return True

    def _forget(self, block: int) -> None:
        value = self._hash_of.pop(block, None)
        if value is not None:
            del self._blocks_of[value][block]
            if not self._blocks_of[value]:
                del self._blocks_of[value]
