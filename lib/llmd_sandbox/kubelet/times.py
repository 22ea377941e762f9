"""Times as the Kubernetes API writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(moment: datetime | None = None) -> str:
    """`metav1.Time`, whole seconds; now when no moment is given."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(moment: datetime | None = None) -> str:
    """`metav1.MicroTime`; now when no moment is given."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> datetime:
    """A time of the API; nanoseconds are cut to microseconds.

    Raises:
        ValueError: not a time.
    """
    whole, dot, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}" if dot else whole)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def age_s(text: str) -> float:
    """Seconds since a time of the API."""
    return (datetime.now(UTC) - parse(text)).total_seconds()
