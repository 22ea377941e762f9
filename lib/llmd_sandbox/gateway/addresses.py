"""Which Gateway has which address: stable while the Gateway exists, free again after."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmd_sandbox.kube import Object

CAPACITY = 250
"""Gateways that one sandbox has addresses for."""


class AddressBook:
    """Lends the lowest free address to each Gateway, by uid.

    Args:
        address: the address of an index, such as `Site.gateway_ip`.
    """

    def __init__(self, address: Callable[[int], str]) -> None:
        self._indices = {address(index): index for index in range(CAPACITY)}
        self._lent: dict[str, str] = {}

    def assign(self, gateways: Iterable[Object]) -> dict[str, str]:
        """The address of every Gateway by uid; the addresses of all others are free from now on.

        A Gateway that already shows an address in its status keeps it, so that a restart changes nothing.
        Gateways beyond `CAPACITY` get none.
        """
        present = sorted(gateways, key=lambda item: str(item["metadata"].get("creationTimestamp", "")))
        uids = {str(gateway["metadata"]["uid"]) for gateway in present}
        self._lent = {uid: address for uid, address in self._lent.items() if uid in uids}
        for gateway in present:
            for entry in gateway.get("status", {}).get("addresses", []):
                self._lend(gateway, entry["value"])
        for gateway in present:
            for address in self._indices:
                self._lend(gateway, address)
        return dict(self._lent)

    def _lend(self, gateway: Object, address: str) -> None:
        uid = str(gateway["metadata"]["uid"])
        if uid not in self._lent and address in self._indices and address not in self._lent.values():
            self._lent[uid] = address
