"""Loopback addresses of pods."""

from __future__ import annotations

from llmd_sandbox.site import Site

POOL = 50_000


class PodAddresses:
    """Hands out addresses in turn, so that nobody finds a new pod at an address that has just died."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._next = 0
        self._taken: set[str] = set()

    def take(self, wanted: str | None = None) -> str:
        """A free address: `wanted` when it is one of ours and free.

        Raises:
            RuntimeError: all are taken.
        """
        if wanted and wanted not in self._taken and wanted.startswith(f"127.{self._site.octet}."):
            self._taken.add(wanted)
            return wanted
        for _ in range(POOL):
            address = self._site.pod_ip(self._next)
            self._next = (self._next + 1) % POOL
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise RuntimeError(f"all {POOL} pod addresses are taken")

    def free(self, address: str) -> None:
        """The pod is gone."""
        self._taken.discard(address)
