"""What a picker remembers: which endpoint was sent which blocks, and which one took a cold request last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """Block hash -> endpoints that were sent it; an endpoint keeps its latest, up to its capacity."""

    def __init__(self, default_capacity: int) -> None:
        self._default_capacity = default_capacity
        self._holders: dict[int, set[str]] = {}
        self._recent: dict[str, OrderedDict[int, None]] = {}
        self._capacity: dict[str, int] = {}

    def __len__(self) -> int:
        """Entries of all endpoints together."""
        return sum(len(recent) for recent in self._recent.values())

    @property
    def endpoints(self) -> list[str]:
        """Endpoints with an entry of their own, in the order of their first."""
        return list(self._recent)

    def matches(self, hashes: Sequence[int]) -> dict[str, int]:
        """How many of the hashes each endpoint holds, up to the first that nobody holds.

        An endpoint that lacks an earlier hash still collects later ones, as in the real picker.
        """
        counts: dict[str, int] = {}
        for block in hashes:
            holders = self._holders.get(block)
            if not holders:
                break
            for endpoint in holders:
                counts[endpoint] = counts.get(endpoint, 0) + 1
        return counts

    def add(self, endpoint: str, hashes: Sequence[int], capacity: int) -> None:
        """Remember that `endpoint` was sent these blocks; its first call fixes its `capacity`."""
        recent = self._recent.get(endpoint)
        if recent is None:
            recent = self._recent[endpoint] = OrderedDict()
            self._capacity[endpoint] = capacity if capacity > 0 else self._default_capacity
        limit = self._capacity[endpoint]
        new = []
        for block in hashes:
            if block in recent:
                recent.move_to_end(block)
                continue
            new.append(block)
            recent[block] = None
            if len(recent) > limit:
                self._drop(recent.popitem(last=False)[0], endpoint)
        # After the evictions, as the real picker does: a request beyond the capacity stays registered whole.
        for block in new if len(hashes) <= limit else hashes:
            self._holders.setdefault(block, set()).add(endpoint)

    def remove(self, endpoint: str) -> None:
        """Forget an endpoint that is gone."""
        for block in self._recent.pop(endpoint, ()):
            self._drop(block, endpoint)
        self._capacity.pop(endpoint, None)

    def _drop(self, block: int, endpoint: str) -> None:
        holders = self._holders.get(block)
        if holders is not None:
            holders.discard(endpoint)
            if not holders:
                del self._holders[block]


class ColdOrder:
    """Which endpoint took a request without any match how long ago."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._order: OrderedDict[str, None] = OrderedDict()

    def scores(self, endpoints: Sequence[str]) -> list[float]:
        """1 for the first endpoint that never took one, then down to 0 for the one that took the last."""
        if len(endpoints) == 1:
            return [1.0]
        position = {name: rank for rank, name in enumerate(self._order)}
        fresh = [name for name in endpoints if name not in position]
        rank = {name: index for index, name in enumerate(fresh)}
        rank |= {name: len(fresh) + position[name] for name in endpoints if name in position}
        return [max(0.0, 1.0 - rank[name] / (len(endpoints) - 1)) for name in endpoints]

    def take(self, endpoint: str) -> None:
        """`endpoint` takes a cold request now."""
        self._order[endpoint] = None
        self._order.move_to_end(endpoint)
        if len(self._order) > self._capacity:
            self._order.popitem(last=False)
