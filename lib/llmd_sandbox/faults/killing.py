"""Killing the program at the other end of a connection, with all that it started and that started it."""

from __future__ import annotations

import contextlib
import os

import psutil

Address = tuple[str, int]


def client_of(client: Address, server: Address) -> int:
    """Process id of whoever has the other end of a connection to this machine.

    Raises:
        LookupError: nobody has it (any more), or not a process of this user.
    """
    for found in psutil.net_connections("tcp"):
        if found.pid and found.laddr == client and found.raddr == server:
            return int(found.pid)
    raise LookupError(f"no process has the connection {client} to {server}")


def kill_run(client: int) -> None:
    """SIGKILL for the run that a process belongs to: up to the child of this process, and everything below it.

    A process that this one did not start is killed alone.
    """
    root = psutil.Process(client)
    with contextlib.suppress(psutil.NoSuchProcess):
        line = [root, *root.parents()]
        own = [each.pid for each in line].index(os.getpid()) if os.getpid() in [each.pid for each in line] else 0
        root = line[own - 1] if own else root
    kill_tree(root)


def kill_tree(root: psutil.Process) -> None:
    """SIGKILL for a process and all its descendants, in whatever session they are; they are gone afterwards."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root.suspend()  # or it might start another one meanwhile
    with contextlib.suppress(psutil.NoSuchProcess):
        victims = [root, *root.children(recursive=True)]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        psutil.wait_procs(victims, timeout=10)
