"""The Cloud Billing catalogue over real HTTP, from a server that answers in its documented form."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmd_runbook import cli
from llmd_runbook.clients.billing import ENDPOINT_VARIABLE, Catalogue
from llmd_runbook.errors import (
    EXIT_INCONCLUSIVE,
    EXIT_PASS,
    ApiError,
    Forbidden,
    NotFound,
    Unreachable,
    UsageError,
)
from llmd_runbook.price_refresh import refresh
from llmd_runbook.prices import Price, load
from llmd_runbook.profile import PARAMETERS
from tests.llmd_runbook.clients.server import Reply, Server, serving

SERVICES, SKUS = "/v1/services", "/v1/services/6F81-5844-456A/skus"


def sku(description: str, usd: float, *, unit: str = "h", usage: str = "OnDemand", **other: Any) -> dict[str, Any]:
    """A SKU as https://cloud.google.com/billing/v1/how-tos/catalog-api shows it."""
    money = {"currencyCode": other.get("currency", "USD"), "units": str(int(usd)), "nanos": round(usd % 1 * 1e9)}
    free = [{"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": 0}}]
    return {
        "name": "services/6F81-5844-456A/skus/0000-0000-0000",
        "description": description,
        "category": {"serviceDisplayName": "Compute Engine", "usageType": usage},
        "serviceRegions": other.get("regions", ["us-central1", "us-east1"]),
        "pricingInfo": [
            {
                "pricingExpression": {
                    "usageUnit": unit,
                    "tieredRates": [*other.get("tiers", free), {"startUsageAmount": 1, "unitPrice": money}],
                }
            }
        ],
    }


MADE = [
    sku("N1 Predefined Instance Core running in Americas", 0.031611),
    sku("N1 Predefined Instance Core running in Frankfurt", 0.04, regions=["europe-west3"]),
    sku("N1 Predefined Instance Ram running in Americas", 0.004237, unit="GiBy.h"),
    sku("Nvidia Tesla T4 GPU running in Americas", 0.36),
    sku("Nvidia Tesla T4 GPU attached to Spot Preemptible VMs running in Americas", 0.12, usage="Preemptible"),
    sku("Spot Preemptible N1 Predefined Instance Core running in Americas", 0.006, usage="Preemptible"),
    sku("Spot Preemptible N1 Predefined Instance Ram running in Americas", 0.0009, unit="GiBy.h", usage="Preemptible"),
    sku("Balanced PD Capacity", 0.11, unit="GiBy.mo"),
]


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The catalogue, in two pages; tests change its answers."""
    with serving() as server:
        monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
        name = {"name": "services/6F81-5844-456A", "serviceId": "6F81-5844-456A", "displayName": "Compute Engine"}
        server.on(SERVICES, Reply(body={"services": [name], "nextPageToken": ""}))
        answers(server, MADE)
        yield server


def answers(server: Server, skus: list[dict[str, Any]]) -> None:
    first, second = Reply(body={"skus": skus[:3], "nextPageToken": "more"}), Reply(body={"skus": skus[3:]})
    server.on(SKUS, first, second)


def price(**changes: Any) -> Price:
    made = {
        "usd_per_hour": 1,
        "region": "us-central1",
        "date": "2026-01-01",
        "source": "test",
        "verified": False,
        "sku": {"service": "Compute Engine", "parts": [{"description": "Nvidia Tesla T4 GPU running"}]},
    }
    return Price.model_validate(made | changes)


def part(description: str, **more: Any) -> dict[str, Any]:
    return {"service": "Compute Engine", "parts": [{"description": description, **more}]}


def test_a_price_is_the_sum_of_its_skus_from_all_pages_and_asked_for_once(api: Server) -> None:
    listed = load(PARAMETERS / "prices" / "us-central1.yaml")
    with Catalogue() as catalogue:
        assert catalogue.usd(listed.prices["n1-standard-4"]) == pytest.approx(4 * 0.031611 + 15 * 0.004237)
        assert catalogue.usd(listed.prices["nvidia-t4"]) == pytest.approx(0.36)
        assert catalogue.usd(listed.prices["nvidia-t4-spot"]) == pytest.approx(0.12)
        assert catalogue.usd(listed.prices["pd-balanced"]) == pytest.approx(0.11)
    assert [request.query.get("pageToken") for request in api.asked(SKUS)] == [None, "more"]
    assert {request.query["currencyCode"] for request in api.asked(SKUS)} == {"USD"}
    assert "authorization" not in api.asked(SKUS)[0].headers


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"sku": part("No such thing")}, NotFound, "no such SKU"),
        ({"sku": part("Nvidia Tesla T4 GPU running", usage="Preemptible")}, NotFound, "Preemptible"),
        ({"region": "asia-east1"}, NotFound, "asia-east1"),
        ({"sku": part("N1 Predefined")}, ApiError, "2 SKUs"),
        ({"sku": {"service": "Tea", "parts": [{"description": "cup"}]}}, NotFound, "no service 'Tea'"),
        ({"sku": part("Balanced PD")}, ApiError, "per GiBy.mo"),
        ({"sku": None}, NotFound, "names no SKU"),
    ],
)
def test_what_cannot_be_priced_says_why(api: Server, changes: dict[str, Any], kind: type[Exception], says: str) -> None:
    with Catalogue() as catalogue, pytest.raises(kind) as caught:
        catalogue.usd(price(**changes))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (sku("Nvidia Tesla T4 GPU running", 0.3, currency="EUR", tiers=[]), "EUR"),
        (sku("Nvidia Tesla T4 GPU running", 0.0), "free"),
        (sku("Nvidia Tesla T4 GPU running", 1) | {"pricingInfo": []}, "nonsense"),
    ],
)
def test_a_sku_that_says_something_else_is_refused(api: Server, broken: dict[str, Any], says: str) -> None:
    answers(api, [broken])
    with Catalogue() as catalogue, pytest.raises(ApiError) as caught:
        catalogue.usd(price())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "remedy"), [(401, Forbidden, "login"), (403, Forbidden, "quota"), (500, ApiError, "reason")]
)
def test_refusals_keep_the_servers_words(api: Server, status: int, kind: type[Exception], remedy: str) -> None:
    words = "Cloud Billing API has not been used in project 1 before or it is disabled."
    api.on(SERVICES, Reply(status, {"error": {"code": status, "message": words, "status": "PERMISSION_DENIED"}}))
    with Catalogue() as catalogue, pytest.raises(kind) as caught:
        catalogue.usd(price())
    assert words in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("body", ["<html>", "[]", '{"services": [{}]}'])
def test_nonsense_is_said_to_be_nonsense(api: Server, body: str) -> None:
    api.on(SERVICES, Reply(body=body))
    with Catalogue() as catalogue, pytest.raises(ApiError, match="nonsense"):
        catalogue.usd(price())


def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with Catalogue() as catalogue, pytest.raises(Unreachable):
            catalogue.usd(price())


@pytest.mark.parametrize("address", ["http://example.com", "cloudbilling", "https://a:b@example.com"])
def test_an_endpoint_that_is_not_fit_for_credentials(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, address)
    with pytest.raises(UsageError):
        Catalogue()


def test_without_credentials_it_says_how_to_log_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(Forbidden) as caught:
        Catalogue()
    assert "gcloud auth application-default login" in str(caught.value)


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    copied = tmp_path / "mine.yaml"
    copied.write_text((PARAMETERS / "prices" / "us-central1.yaml").read_text())
    return copied


def refreshed(file: Path) -> int:
    """Exit code of `llmd-runbook prices refresh FILE`."""
    result = CliRunner().invoke(cli.app, ["prices", "refresh", str(file)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code


def test_refresh_writes_what_was_answered_and_leaves_the_rest(api: Server, file: Path) -> None:
    before = file.read_text()
    with Catalogue() as catalogue:
        found = {one.name: one for one in refresh(file, catalogue.usd, "2031-02-03")}
    assert (found["nvidia-t4"].before, found["nvidia-t4"].now) == (0.35, 0.36)
    assert "names no SKU" in found["gke-cluster"].why
    listed, old = load(file), load(PARAMETERS / "prices" / "us-central1.yaml")
    assert listed.prices["nvidia-t4"].usd_per_hour == 0.36
    assert listed.prices["pd-balanced"].usd_per_gib_month == 0.11
    spot = listed.prices["nvidia-t4-spot"]
    assert (spot.usd_per_hour, spot.verified) == (0.12, True)
    assert "cloudbilling.googleapis.com" in spot.source
    assert spot.date == "2031-02-03"
    for name in ("gke-cluster", "forwarding-rule", "ct6e-standard-4t"):
        assert listed.prices[name] == old.prices[name]
    comments = [line for line in before.splitlines() if line.lstrip().startswith("#")]
    assert comments
    assert [line for line in file.read_text().splitlines() if line.lstrip().startswith("#")] == comments


def test_the_command_says_that_some_prices_were_not_asked_for(api: Server, file: Path) -> None:
    assert refreshed(file) == EXIT_INCONCLUSIVE
    text = file.read_text()
    for name in ("ct6e-standard-4t", "gke-cluster", "forwarding-rule"):
        at = text.index("verified:", text.index(f"  {name}:"))
        end = text.index("\n", at)
        sku = "\n    sku: {service: Compute Engine, parts: [{description: Nvidia Tesla T4 GPU running}]}"
        text = (text[:end] + sku + text[end:]).replace("region: global", "region: us-central1")
    file.write_text(text)
    answers(api, MADE)
    assert refreshed(file) == EXIT_PASS


def test_a_sku_that_is_gone_leaves_its_price(api: Server, file: Path) -> None:
    answers(api, [one for one in MADE if "T4" not in one["description"]])
    assert refreshed(file) == EXIT_INCONCLUSIVE
    assert load(file).prices["nvidia-t4"] == load(PARAMETERS / "prices" / "us-central1.yaml").prices["nvidia-t4"]
    assert load(file).prices["pd-balanced"].usd_per_gib_month == 0.11


def test_without_permission_the_file_stays(api: Server, file: Path) -> None:
    api.on(SERVICES, Reply(403, {"error": {"message": "no"}}))
    before = file.read_bytes()
    with pytest.raises(Forbidden):
        refreshed(file)
    assert file.read_bytes() == before


def test_a_layout_that_cannot_be_rewritten_is_refused_and_stays(api: Server, file: Path) -> None:
    text = file.read_text()
    at, end = text.index("  pd-balanced:"), text.index("\n# What the runbook counts")
    flow = """  pd-balanced: {usd_per_gib_month: 0.1, region: us-central1, date: "2026-01-01", source: test,
    verified: true, sku: {service: Compute Engine, parts: [{description: Balanced PD Capacity}]}}
"""
    file.write_text(text[:at] + flow + text[end:])
    before = file.read_bytes()
    with pytest.raises(UsageError, match="cannot be rewritten"):
        refreshed(file)
    assert file.read_bytes() == before
