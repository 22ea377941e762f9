"""Quotas, reservations and machine types from compute.googleapis.com v1, read only: projects.get, regions.get,
reservations.list, machineTypes.get.

`CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE`, as for gcloud, moves the endpoint, version included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmd_runbook.clients.google_rest import Api, GoogleRest
from llmd_runbook.errors import ApiError

ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE"

_API = Api(
    name="the Compute Engine API",
    endpoint="https://compute.googleapis.com/compute/v1/",
    variable=ENDPOINT_VARIABLE,
    scope="https://www.googleapis.com/auth/compute.readonly",
    permission="the caller needs roles/compute.viewer in the project, and the project the Compute Engine API",
)


@dataclass(frozen=True)
class Quota:
    """A limit of a region or of the project, and how much of it is in use, in the metric's own unit."""

    limit: float
    usage: float

    @property
    def left(self) -> float:
        """What is left of it."""
        return self.limit - self.usage


@dataclass(frozen=True)
class Reservation:
    """Machines that are held for the project in a zone.

    Attributes:
        free: machines that nobody uses.
        by_name: whether only machines that name it may use it.
    """

    name: str
    machine_type: str
    accelerators: tuple[str, ...]
    free: int
    by_name: bool


class Compute:
    """What Compute Engine says of one project.

    Calls raise `Unreachable`, `Forbidden`, `NotFound` or `ApiError`.

    Raises:
        UsageError: an override that is not a usable address.
        Forbidden: no credentials were found.
    """

    def __init__(self, project: str) -> None:
        self._path = f"projects/{project}"
        self._api = GoogleRest(_API)

    def __enter__(self) -> Compute:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def quotas(self, region: str) -> dict[str, Quota]:
        """The region's quotas by metric, and the project's over all regions."""
        return {**self._quotas(self._path), **self._quotas(f"{self._path}/regions/{region}")}

    def reservations(self, zone: str) -> list[Reservation]:
        """The project's reservations of machines in a zone."""
        path, token = f"{self._path}/zones/{zone}/reservations", ""
        found: list[Reservation] = []
        while True:
            page = self._api.get(path, {"pageToken": token} if token else None)
            try:
                found += [_reservation(item) for item in page.get("items", []) if "specificReservation" in item]
                token = page.get("nextPageToken", "")
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                raise _API.nonsense(path, error) from None
            if not token:
                return found

    def guest_cpus(self, zone: str, machine_type: str) -> int:
        """The CPUs of a machine of that type, as its `guestCpus` says them."""
        path = f"{self._path}/zones/{zone}/machineTypes/{machine_type}"
        answer = self._api.get(path)
        try:
            cpus = int(answer["guestCpus"])
            if cpus < 1:
                raise ValueError(f"guestCpus is {cpus}")
        except (LookupError, TypeError, ValueError) as error:
            raise _API.nonsense(path, error) from None
        return cpus

    def _quotas(self, path: str) -> dict[str, Quota]:
        answer = self._api.get(path)
        try:
            if "quotas" not in answer:  # the region's answer can lack them, and says why
                why = answer.get("quotaStatusWarning", {}).get("message", "the answer holds none")
                raise ApiError("Compute Engine did not say the quotas", where=path, reason=str(why), remedy="ask again")
            return {item["metric"]: Quota(float(item["limit"]), float(item["usage"])) for item in answer["quotas"]}
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise _API.nonsense(path, error) from None


def _reservation(item: dict[str, Any]) -> Reservation:
    held = item["specificReservation"]
    machine = held["instanceProperties"]
    return Reservation(
        name=item["name"],
        machine_type=machine["machineType"],
        accelerators=tuple(one["acceleratorType"].rsplit("/", 1)[-1] for one in machine.get("guestAccelerators", [])),
        free=int(held["count"]) - int(held.get("inUseCount", 0)),  # int64 travels as text
        by_name=bool(item.get("specificReservationRequired", False)),
    )
