"""The lock of one cluster and pool: a Lease, held around every change and renewed by a thread of its own.

It is the Lease `llmd-runbook-POOL` in the namespace `default`, whatever namespace the profile's releases are in: two
profiles that share a pool meet at the same Lease. Clients ask `guard(profile)` right before each change. The time that
they trust the Lease for ends before others may take it, and passes on also while the machine sleeps.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from llmd_runbook.errors import ClusterError, Locked, LockLost
from llmd_runbook.manifest import Process
from llmd_runbook.profile import Profile
from llmd_runbook.run.context import alive, machine, this_process, who

if TYPE_CHECKING:
    from llmd_runbook.clients.lease import Lease, Seen

NAMESPACE = "default"
"""Where every lock lies: the one namespace that every cluster has, that cannot be deleted, and that belongs to no
component of the cluster, so that a right to write Leases in it reaches none of theirs (`kube-system` holds those)."""
_ANSWER_S = 5.0
_PATIENCE_S = 60.0
"""A Lease that somebody holds for longer than this is not waited for."""
_REMEDY = "wait until it has ended, then run again; a holder that is gone loses it when it expires"


@dataclass(frozen=True)
class Times:
    """How long a Lease holds (others wait so long), how often it is renewed, how long its holder trusts it (s)."""

    lease_s: int = 30
    renew_s: float = 5.0
    trusted_s: float = 24.0


TIMES = Times()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock; `machine` tells the process numbers of two machines or containers apart."""

    user: str
    run: str
    stage: str
    process: Process
    machine: str

    @property
    def identity(self) -> str:
        """As it stands in the Lease."""
        return f"{self}, started {self.process.started_s:.2f}, machine {self.machine or 'unknown'}"

    def __str__(self) -> str:
        return f"{self.user}@{self.process.host}, run {self.run}, stage {self.stage}, pid {self.process.pid}"

    @classmethod
    def of(cls, identity: str) -> Holder | None:
        """The holder that an identity names; None for one that is not ours."""
        found = _IDENTITY.fullmatch(identity)
        if found is None:
            return None
        process = Process(pid=int(found["pid"]), host=found["host"], started_s=float(found["started"]))
        return cls(found["user"], found["run"], found["stage"], process, found["machine"])

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended: a process of this very machine that is not there any more."""
        return bool(self.machine) and self.machine == machine() and not alive(self.process)


_IDENTITY = re.compile(
    r"(?P<user>.+?)@(?P<host>\S+), run (?P<run>\S+), stage (?P<stage>\S+), pid (?P<pid>\d+), "
    r"started (?P<started>[\d.]+), machine (?P<machine>\S+)"
)


class Lock:
    """A Lease that this process takes, keeps and gives back.

    Args:
        lease: used by the caller's thread.
        kept: the same Lease over a client of its own, for the thread that renews it.
    """

    def __init__(self, lease: Lease, kept: Lease, times: Times) -> None:
        self._lease, self._kept, self._times = lease, kept, times
        self._trusted_until_s = 0.0
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lock", daemon=True)

    @property
    def where(self) -> str:
        """What the Lease is called, for messages."""
        return self._lease.where

    def acquire(self, tell: Callable[[str], None]) -> str:
        """Take it; from whom, where that is worth telling.

        Args:
            tell: hears what is waited for.

        Raises:
            Locked: its holder renews it.
            ClusterError: the API does not answer, or refuses.
        """
        while True:
            seen, said = self._lease.look(), ""
            if seen and seen.holder not in ("", self._lease.identity):
                holder = Holder.of(seen.holder)
                said = f"taken over from {_named(seen)}: "
                if holder and holder.gone:
                    said += "its process is gone"
                else:
                    if not self._expires(seen, tell):
                        continue
                    said += f"it was not renewed for {seen.duration_s:g} s"
            began_s = clock()
            if self._lease.take(seen):
                self._trusted_until_s = began_s + self._times.trusted_s
                self._thread.start()
                return said

    def check(self) -> None:
        """Go on while it is held.

        Raises:
            LockLost: somebody took it, or it could not be renewed for too long.
        """
        if clock() >= self._trusted_until_s:
            raise LockLost(
                "the lock is lost; nothing more is changed",
                where=self.where,
                reason=self._trouble or f"it was not renewed for {self._times.trusted_s:g} s",
                remedy="see who works on this cluster, then resume the run: it looks first and does what is missing",
            )

    def release(self) -> str:
        """Give it back; what went wrong, where others must now wait for it to expire."""
        self._stop.set()
        self._thread.join()
        self._trusted_until_s = 0.0
        try:
            self._lease.give_back()
        except ClusterError as error:
            return error.in_short
        return ""

    def _expires(self, seen: Seen, tell: Callable[[str], None]) -> bool:
        """Whether its holder lets it expire; False where another try is due."""
        for_s = min(seen.duration_s, _PATIENCE_S)
        waiting = f"{_named(seen)} holds the lock: waiting up to {for_s:g} s to see whether it still lives"
        unchanged = self._lease.unchanged(seen, for_s, lambda: tell(waiting))
        if unchanged and for_s == seen.duration_s:
            return True
        now = self._lease.look()
        if now and now.holder == seen.holder:
            renewed = f"it was not renewed for {for_s:g} s" if unchanged else "it has just been renewed"
            raise Locked(
                "another run changes this cluster and pool; nothing was changed",
                where=self.where,
                reason=f"{_named(now)} holds it since {_text(now.acquired)}, until {_text(_end(now))} unless it is "
                f"renewed; {renewed}",
                remedy=_REMEDY,
            )
        return False

    def _keep(self) -> None:
        """Renew it until it is given back or lost. A renewal that fails is tried again: nobody else may have come."""
        while not self._stop.wait(self._times.renew_s):
            began_s = clock()
            try:
                other = self._kept.renew()
            except ClusterError as error:
                self._trouble = f"it could not be renewed: {error.in_short}"
                continue
            if other:
                self._trouble = f"{_named(other)} holds it since {_text(other.acquired)}" if other.holder else _TAKEN
                self._trusted_until_s = 0.0
                return
            self._trusted_until_s = began_s + self._times.trusted_s


_TAKEN = "somebody took it from this run, or deleted it, and nobody holds it now"
_held: dict[tuple[str, ...], Lock] = {}


def guard(profile: Profile) -> Callable[[], None]:
    """What a client asks before a change: passes while this process holds the profile's lock, else `LockLost`."""
    key = _key(profile)

    def check() -> None:
        lock = _held.get(key)
        if lock is None:
            raise LockLost(
                "a change without the lock; nothing was changed",
                where=f"lease {NAMESPACE}/{lease_name(profile)}",
                remedy="call the function of the stage that holds it (`apply`), not one of its parts",
            )
        lock.check()

    return check


def holds(profile: Profile) -> bool:
    """Whether this process holds, or has lost while it was to hold, the profile's lock."""
    return _key(profile) in _held


def take(profile: Profile, run: str, stage: str, tell: Callable[[str], None]) -> str:
    """Have this process hold the profile's lock; the Lease's name, and from whom it was taken over.

    Raises:
        Locked: somebody else holds it.
        ClusterError: the API does not answer, or refuses.
    """
    holder = Holder(who().user, run, stage, this_process(), machine())
    lock = Lock(_lease(profile, holder), _lease(profile, holder), TIMES)
    said = lock.acquire(tell)
    _held[_key(profile)] = lock
    return f"{lock.where}, {said}" if said else lock.where


def give_back(profile: Profile) -> str:
    """Let others have the profile's lock at once; what went wrong, where they must wait for it to expire."""
    return _held.pop(_key(profile)).release()


def lease_name(profile: Profile) -> str:
    """The Lease of the profile's pool."""
    return f"llmd-runbook-{profile.pool.name}"


def clock() -> float:
    """Seconds that pass on also while the machine sleeps, where the system can tell them."""
    number = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if number is None else time.clock_gettime(number)


def _lease(profile: Profile, holder: Holder) -> Lease:
    from llmd_runbook.clients import cluster  # the Kubernetes client takes half a second to load
    from llmd_runbook.clients.lease import Lease

    def always() -> None:
        """Writing the lock itself needs none: each write is compare-and-swap."""

    kube = cluster.of(profile, always, read_s=_ANSWER_S)
    return Lease(kube, NAMESPACE, lease_name(profile), holder.identity, TIMES.lease_s)


def _key(profile: Profile) -> tuple[str, ...]:
    return (str(profile.cluster), profile.pool.name)


def _named(seen: Seen) -> str:
    return str(Holder.of(seen.holder) or seen.holder)


def _end(seen: Seen) -> datetime | None:
    return seen.renewed + timedelta(seconds=seen.duration_s) if seen.renewed else None


def _text(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else "a time that it does not say"
