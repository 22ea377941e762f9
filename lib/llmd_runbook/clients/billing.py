"""List prices from the Cloud Billing catalogue: cloudbilling.googleapis.com v1, services.list and services.skus.list.

Credentials: Application Default Credentials. `CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBILLING`, as for gcloud, moves the
endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from llmd_runbook.clients.google_rest import Api, GoogleRest
from llmd_runbook.errors import ApiError, NotFound
from llmd_runbook.prices import Price, SkuPart

ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDBILLING"

_API = Api(
    name="the Cloud Billing catalogue",
    endpoint="https://cloudbilling.googleapis.com/",
    variable=ENDPOINT_VARIABLE,
    scope="https://www.googleapis.com/auth/cloud-billing.readonly",
    permission="enable the Cloud Billing API in the project that pays for your quota, name that project by "
    "`gcloud auth application-default set-quota-project PROJECT`",
)
_PAGE = 5000
_UNITS = {"usd_per_hour": "h", "usd_per_gib_month": "GiBy.mo"}
_MEMORY_HOUR = "GiBy.h"
"""How the catalogue counts memory: GiB for an hour, which is as good as an hour where the quantity is in GiB."""

Json = dict[str, Any]


class Catalogue:
    """The public SKUs of the catalogue; each service is fetched once.

    Raises:
        UsageError: an override that is not a usable address.
        Forbidden: no credentials were found.
    """

    def __init__(self) -> None:
        self._api = GoogleRest(_API)
        self._skus: dict[str, list[Json]] = {}
        self._services: dict[str, str] = {}

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def usd(self, price: Price) -> float:
        """What a price is now: the sum of its SKUs, in the price's own unit.

        Raises:
            NotFound: no service or no SKU of that description in the region.
            ApiError: several SKUs fit, or one is in another unit or currency; any other refusal.
            Forbidden, Unreachable: no permission, no answer.
        """
        if price.sku is None:
            raise NotFound("the price names no SKU", remedy="add sku to the price, or look it up by hand")
        skus = self._of_service(price.sku.service)
        return sum(part.quantity * _rate(_only(skus, part, price), price) for part in price.sku.parts)

    def _of_service(self, display_name: str) -> list[Json]:
        if not self._services:
            found = list(self._pages("v1/services", "services"))
            try:
                self._services = {one["displayName"]: one["name"] for one in found}
            except (LookupError, TypeError) as error:
                raise _API.nonsense(self._api.endpoint, error) from None
        if display_name not in self._services:
            raise NotFound(
                f"the catalogue has no service {display_name!r}",
                where=self._api.endpoint,
                remedy="correct sku.service in the price file: it is the service's display name",
            )
        if display_name not in self._skus:
            path = f"v1/{quote(self._services[display_name])}/skus"
            self._skus[display_name] = list(self._pages(path, "skus", currencyCode="USD"))
        return self._skus[display_name]

    def _pages(self, path: str, key: str, **query: str) -> Iterator[Json]:
        token = ""
        while True:
            page = self._api.get(path, {**query, "pageSize": str(_PAGE), **({"pageToken": token} if token else {})})
            try:
                yield from page.get(key, [])
                token = page.get("nextPageToken", "")
            except (AttributeError, TypeError) as error:
                raise _API.nonsense(self._api.endpoint, error) from None
            if not token:
                return


def _only(skus: list[Json], part: SkuPart, price: Price) -> Json:
    """The one SKU of that description, usage and region."""
    found = [
        sku
        for sku in skus
        if sku.get("description", "").startswith(part.description)
        and sku.get("category", {}).get("usageType") == part.usage
        and price.region in sku.get("serviceRegions", [])
    ]
    where = f"{part.description!r}, {part.usage}, {price.region}"
    if not found:
        raise NotFound("the catalogue has no such SKU", where=where, remedy="correct sku in the price file")
    if len(found) > 1:
        raise ApiError(
            f"{len(found)} SKUs of the catalogue fit",
            where=where,
            reason="; ".join(sku["description"] for sku in found[:5]),
            remedy="write more of the description into the price file",
        )
    return found[0]


def _rate(sku: Json, price: Price) -> float:
    """Its list price (USD a unit): the first tier that is not free.

    https://cloud.google.com/billing/v1/how-tos/catalog-api: `units` whole dollars and `nanos` billionths of one.
    """
    where = str(sku.get("description"))
    try:
        expression = sku["pricingInfo"][-1]["pricingExpression"]
        unit = expression["usageUnit"]
        rates = [rate["unitPrice"] for rate in expression["tieredRates"]]
        usd: list[float] = [int(rate.get("units", 0)) + rate.get("nanos", 0) / 1e9 for rate in rates]
        currencies = {rate["currencyCode"] for rate in rates}
    except (LookupError, TypeError, ValueError) as error:
        raise _API.nonsense(where, error) from None
    fits = unit == _UNITS[price.unit] or (price.unit == "usd_per_hour" and unit == _MEMORY_HOUR)
    if not fits or currencies != {"USD"}:
        raise ApiError(
            "the SKU is in another unit",
            where=where,
            reason=f"{', '.join(sorted(currencies))} per {unit}, where {price.unit} was expected",
            remedy="correct sku in the price file",
        )
    paid = [amount for amount in usd if amount > 0]
    if not paid:
        raise ApiError("the SKU is free", where=where, remedy="correct sku in the price file")
    return paid[0]
