"""Claiming a block of loopback addresses: whoever listens on its guard address owns it."""

from __future__ import annotations

import socket
import zlib
from dataclasses import replace

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.site import Site

_FIRST, _LAST = 2, 254


def claim(site: Site) -> tuple[Site, socket.socket]:
    """`site` with a free block, and the socket that holds it while it is open.

    The search starts at a place that depends on the name, so that a sandbox mostly gets its old addresses.

    Raises:
        SandboxError: every block is taken, or a port is held on all addresses.
    """
    count = _LAST - _FIRST + 1
    start = zlib.crc32(site.name.encode()) % count
    refusal: OSError | None = None
    for offset in range(count):
        candidate = replace(site, octet=_FIRST + (start + offset) % count)
        try:
            guard = _listen(candidate.guard_address)
        except OSError as error:
            refusal = error
            continue
        try:
            for address in (candidate.etcd, candidate.api_server, candidate.kubelet, candidate.gke):
                _listen(address).close()
        except OSError as error:
            refusal = error
            guard.close()
            continue
        return candidate, guard
    raise SandboxError(
        "No block of loopback addresses is free.",
        where=f"127.{_FIRST}.0.0/16 to 127.{_LAST}.0.0/16",
        reason=str(refusal),
        remedy="a program listens on one of the sandbox's ports on every address (see `ss -ltn`): end it, "
        "or take down sandboxes that are not needed (`llmd-sandbox down --all`)",
    )


def _listen(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{error.strerror} ({address[0]}:{address[1]})") from error
    return listener
