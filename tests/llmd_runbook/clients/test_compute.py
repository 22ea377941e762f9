"""Quotas, reservations and machine types over real HTTP, from a server that answers in their documented form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmd_runbook.clients.compute import ENDPOINT_VARIABLE, Compute, Quota, Reservation
from llmd_runbook.errors import ApiError, Forbidden, NotFound, Unreachable, UsageError
from tests.llmd_runbook.clients.server import Reply, Server, serving

PROJECT, REGION = "/compute/v1/projects/p", "/compute/v1/projects/p/regions/us-central1"
HELD = "/compute/v1/projects/p/zones/us-central1-a/reservations"
MACHINE = "/compute/v1/projects/p/zones/us-central1-a/machineTypes/a2-highgpu-1g"


def reservation(name: str, **more: Any) -> dict[str, Any]:
    """https://cloud.google.com/compute/docs/reference/rest/v1/reservations"""
    link = "https://www.googleapis.com/compute/v1/projects/p/zones/z/acceleratorTypes"
    gpu = {"acceleratorType": f"{link}/nvidia-tesla-t4"}
    machine = {"machineType": "n1-standard-4", "guestAccelerators": [{**gpu, "acceleratorCount": 1}]}
    return {
        "name": name,
        "specificReservation": {"count": "4", "inUseCount": "1", "instanceProperties": machine},
        **more,
    }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"{server.url}/compute/v1/")
        server.on(PROJECT, Reply(body={"quotas": [{"metric": "GPUS_ALL_REGIONS", "limit": 4, "usage": 0}]}))
        server.on(REGION, Reply(body={"quotas": [{"metric": "NVIDIA_T4_GPUS", "limit": 8, "usage": 1}]}))
        yield server


@pytest.mark.usefixtures("api")
def test_the_projects_quotas_and_the_regions() -> None:
    with Compute("p") as compute:
        found = compute.quotas("us-central1")
    assert found == {"GPUS_ALL_REGIONS": Quota(4, 0), "NVIDIA_T4_GPUS": Quota(8, 1)}
    assert found["NVIDIA_T4_GPUS"].left == 7


def test_reservations_of_all_pages(api: Server) -> None:
    first = {"items": [reservation("one"), {"name": "an aggregate one"}], "nextPageToken": "more"}
    second = {"items": [reservation("two", specificReservationRequired=True)]}
    api.on(HELD, Reply(body=first), Reply(body=second))
    with Compute("p") as compute:
        found = compute.reservations("us-central1-a")
    assert found == [
        Reservation("one", "n1-standard-4", ("nvidia-tesla-t4",), free=3, by_name=False),
        Reservation("two", "n1-standard-4", ("nvidia-tesla-t4",), free=3, by_name=True),
    ]
    assert [request.query for request in api.asked(HELD)] == [{}, {"pageToken": "more"}]


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(403, {"error": {"message": "Required 'compute.regions.get'"}}), Forbidden, "roles/compute.viewer"),
        (Reply(404, {"error": {"message": "not found"}}), NotFound, "not found"),
        (Reply(500, "broken"), ApiError, "500"),
        (Reply(body="<html>"), ApiError, "nonsense"),
        (Reply(body={"quotas": [{"metric": "CPUS"}]}), ApiError, "nonsense"),
        (Reply(body=[]), ApiError, "did not say|nonsense"),
        (Reply(body={"quotaStatusWarning": {"message": "try later"}}), ApiError, "try later"),
    ],
)
def test_an_answer_without_quotas_is_no_quota(api: Server, reply: Reply, kind: type[Exception], said: str) -> None:
    api.on(REGION, reply)
    with Compute("p") as compute, pytest.raises(kind) as caught:
        compute.quotas("us-central1")
    assert any(word in str(caught.value) for word in said.split("|"))


def test_nonsense_among_reservations(api: Server) -> None:
    api.on(HELD, Reply(body={"items": [{"name": "one", "specificReservation": {}}]}))
    with Compute("p") as compute, pytest.raises(ApiError, match="nonsense"):
        compute.reservations("us-central1-a")


def test_the_cpus_of_a_machine_type(api: Server) -> None:
    gpu = {"guestAcceleratorType": "nvidia-tesla-a100", "guestAcceleratorCount": 1}
    api.on(MACHINE, Reply(body={"name": "a2-highgpu-1g", "guestCpus": 12, "memoryMb": 87040, "accelerators": [gpu]}))
    with Compute("p") as compute:
        assert compute.guest_cpus("us-central1-a", "a2-highgpu-1g") == 12


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(403, {"error": {"message": "Required 'compute.machineTypes.get'"}}), Forbidden, "machineTypes.get"),
        (Reply(404, {"error": {"message": "was not found"}}), NotFound, "was not found"),
        (Reply(body={"name": "a2-highgpu-1g"}), ApiError, "nonsense"),
        (Reply(body={"guestCpus": 0}), ApiError, "guestCpus is 0"),
        (Reply(body={"guestCpus": "many"}), ApiError, "nonsense"),
        (Reply(body=[]), ApiError, "nonsense"),
    ],
)
def test_a_machine_type_without_cpus_has_none(api: Server, reply: Reply, kind: type[Exception], said: str) -> None:
    api.on(MACHINE, reply)
    with Compute("p") as compute, pytest.raises(kind, match=said):
        compute.guest_cpus("us-central1-a", "a2-highgpu-1g")


@pytest.mark.parametrize("address", ["compute.googleapis.com", "http://compute.googleapis.com/compute/v1/"])
def test_an_override_that_is_no_usable_address(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, address)
    with pytest.raises(UsageError, match=ENDPOINT_VARIABLE):
        Compute("p")


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:9/compute/v1/")
    with Compute("p") as compute, pytest.raises(Unreachable):
        compute.quotas("us-central1")
