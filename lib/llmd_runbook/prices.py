"""Price files: dated, sourced prices, and what the runbook counts as sums of them. Nothing is looked up here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    computed_field,
    model_validator,
)

from llmd_runbook import yaml_files
from llmd_runbook.errors import ProfileError

HOURS_PER_MONTH = 730
"""365 days x 24 h / 12, the month of the cloud providers' calculators."""

ASSEMBLIES = ("gpu_node", "gpu_node_spot", "tpu_node", "cpu_node", "control_plane", "load_balancer")

Usd = Annotated[float, Field(ge=0)]
PositiveUsd = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Quantity = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Assembly = Annotated[dict[str, Quantity], Field(min_length=1)]


def _date(value: str) -> str:
    return date.fromisoformat(value).isoformat()


Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_date)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SkuPart(_Section):
    """One SKU of the Cloud Billing catalogue: the only one of the region whose description begins so."""

    description: str = Field(min_length=3)
    usage: Literal["OnDemand", "Preemptible"] = "OnDemand"
    quantity: Quantity = 1


class Sku(_Section):
    """Where the Cloud Billing catalogue has a price: the sum of some SKUs of one service."""

    service: str = Field(min_length=3)
    parts: list[SkuPart] = Field(min_length=1)


class Price(_Section):
    """One price; `verified` says that somebody saw it at its source on its date."""

    usd_per_hour: PositiveUsd | None = None
    usd_per_gib_month: PositiveUsd | None = None
    region: str = Field(min_length=3)
    date: Date
    source: str = Field(min_length=3)
    verified: bool
    sku: Sku | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> Price:
        if (self.usd_per_hour is None) == (self.usd_per_gib_month is None):
            raise ValueError("give exactly one of usd_per_hour and usd_per_gib_month")
        return self

    @property
    def unit(self) -> Literal["usd_per_hour", "usd_per_gib_month"]:
        """Which of the two keys it has."""
        return "usd_per_gib_month" if self.usd_per_hour is None else "usd_per_hour"

    @property
    def value(self) -> float:
        """The price in its unit (USD)."""
        return float(getattr(self, self.unit))

    def hourly_usd(self, quantity: float) -> float:
        """Price of so many for an hour; a disk's quantity is in GiB, and a month has 730 hours."""
        return quantity * self.value / (HOURS_PER_MONTH if self.usd_per_hour is None else 1)


class Assemblies(_Section):
    """What the runbook counts: name of a price and how many (GiB for a disk)."""

    gpu_node: Assembly
    cpu_node: Assembly
    control_plane: Assembly
    load_balancer: Assembly
    gpu_node_spot: Assembly | None = None
    tpu_node: Assembly | None = None


class PriceList(_Section):
    """The content of a price file."""

    prices: dict[str, Price] = Field(min_length=1)
    assemblies: Assemblies

    @model_validator(mode="after")
    def _names_exist(self) -> PriceList:
        for assembly in ASSEMBLIES:
            for name in getattr(self.assemblies, assembly) or {}:
                if name not in self.prices:
                    known = ", ".join(self.prices)
                    raise ValueError(f"assemblies.{assembly} names {name}, which has no price here; known: {known}")
        return self

    def usd_per_hour(self, assembly: str) -> float | None:
        """Price of one such thing for an hour; None where the file does not say what it consists of."""
        parts = self.parts(assembly)
        return round(sum(price.hourly_usd(quantity) for _, price, quantity in parts), 6) if parts else None

    def parts(self, assembly: str) -> list[tuple[str, Price, float]]:
        """Name, price and quantity of everything that one such thing consists of."""
        named = getattr(self.assemblies, assembly) or {}
        return [(name, self.prices[name], quantity) for name, quantity in named.items()]

    def used(self) -> Iterator[tuple[str, Price]]:
        """The prices that some assembly uses, in the file's order."""
        names = {name for assembly in ASSEMBLIES for name, _, _ in self.parts(assembly)}
        return ((name, price) for name, price in self.prices.items() if name in names)


class Prices(_Section):
    """Prices that the profile itself gives, with one date and one source for all."""

    gpu_node_usd_per_hour: Annotated[float, Field(gt=0)] = Field(description="one GPU node: machine and GPU")
    cpu_node_usd_per_hour: Usd = Field(description="one node of any other pool")
    control_plane_usd_per_hour: Usd = Field(description="the cluster's management fee")
    load_balancer_usd_per_hour: Usd = Field(description="forwarding rule of the Gateway")
    as_of: str = Field(description="date of the prices (YYYY-MM-DD)", pattern=r"^\d{4}-\d{2}-\d{2}$")
    source: str = Field(description="where the prices come from", min_length=3)

    @property
    def gpu_node_spot_usd_per_hour(self) -> float | None:
        """None: a profile gives no spot prices."""
        return None

    @property
    def tpu_node_usd_per_hour(self) -> float | None:
        """None: a profile gives no TPU prices."""
        return None

    @property
    def unverified(self) -> tuple[str, ...]:
        """All of them: a price without a source of its own cannot be verified."""
        return ("all prices of the profile",)


class PriceFile(_Section):
    """Prices from a price file, or sums of them."""

    file: str = Field(
        description="instead of the other keys of `prices`: a price file, by its name in `parameters/prices/` or its "
        "path relative to the profile; each price there has a region, date and source",
        min_length=1,
    )
    _list: PriceList = PrivateAttr()

    def read(self, beside: Path, shipped: Path) -> None:
        """Read the file that is named.

        Raises:
            ProfileError: no such file, or one that cannot be used.
        """
        self._list = load(find(self.file, beside, shipped))

    @computed_field
    def content(self) -> PriceList:
        """What the file says, in what is dumped: record and digest hold the very prices."""
        return self._list

    @property
    def listed(self) -> PriceList:
        """What the file says."""
        return self._list

    @property
    def gpu_node_usd_per_hour(self) -> float:
        """One GPU node: machine, GPU and boot disk."""
        return self._required("gpu_node")

    @property
    def cpu_node_usd_per_hour(self) -> float:
        """One node of any other pool."""
        return self._required("cpu_node")

    @property
    def control_plane_usd_per_hour(self) -> float:
        """The cluster's management fee."""
        return self._required("control_plane")

    @property
    def load_balancer_usd_per_hour(self) -> float:
        """Forwarding rule of the Gateway."""
        return self._required("load_balancer")

    @property
    def gpu_node_spot_usd_per_hour(self) -> float | None:
        """One GPU node on spot; None where the file does not say."""
        return self._list.usd_per_hour("gpu_node_spot")

    @property
    def tpu_node_usd_per_hour(self) -> float | None:
        """One TPU node; None where the file does not say."""
        return self._list.usd_per_hour("tpu_node")

    @property
    def as_of(self) -> str:
        """Date of the oldest price that is used."""
        return min(price.date for _, price in self._list.used())

    @property
    def source(self) -> str:
        """The file, and which of its prices are not verified."""
        doubtful = f"; not verified: {', '.join(self.unverified)}" if self.unverified else ""
        return f"price file {self.file}, each price with its source{doubtful}"

    @property
    def unverified(self) -> tuple[str, ...]:
        """Names of the prices in use that nobody verified."""
        return tuple(name for name, price in self._list.used() if not price.verified)

    def _required(self, assembly: str) -> float:
        price = self._list.usd_per_hour(assembly)
        assert price is not None, f"a price file has {assembly}"
        return price


TAG_FILE, TAG_PLAIN = "(price file)", "(prices)"
"""What pydantic calls the two forms of `prices` in its locations; no keys of a profile."""


def prices_tag(value: object) -> str:
    """Which of the two forms a section `prices` has."""
    named = "file" in value if isinstance(value, dict) else isinstance(value, PriceFile)
    return TAG_FILE if named else TAG_PLAIN


def load(file: Path) -> PriceList:
    """Read and validate a price file.

    Raises:
        ProfileError: missing file, bad YAML, unknown key, wrong type, a price with no unit or with two, an assembly of
            a price that is not there; with file, line, key and value.
    """
    content, lines = yaml_files.read(file, "price file", "prices/us-central1.yaml")
    try:
        return PriceList.model_validate(content)
    except ValidationError as error:
        raise yaml_files.explain(
            error,
            file,
            lines,
            kind="price file",
            known_keys=_known_keys,
            tags=frozenset(),
            see="see parameters/prices/us-central1.yaml",
        ) from None


def find(reference: str, beside: Path, shipped: Path) -> Path:
    """The price file that a profile names: a path relative to the profile, else the name of a shipped one.

    Raises:
        ProfileError: when there is none; the shipped ones are named.
    """
    for candidate in (beside / reference, shipped / f"{reference}.yaml"):
        if candidate.is_file():
            return candidate.resolve()
    known = ", ".join(sorted(path.stem for path in shipped.glob("*.yaml"))) or "none"
    raise ProfileError(
        f"no price file {reference!r}",
        where=str(shipped),
        reason=f"nor is it a file beside the profile: {beside / reference}",
        remedy=f"name one of: {known}; or a path relative to the profile's folder",
    )


def _known_keys(loc: yaml_files.Loc) -> list[str]:
    model: Any = PriceList
    match loc:
        case ("assemblies", *_):
            model = Assemblies
        case ("prices", _, "sku", "parts", *_):
            model = SkuPart
        case ("prices", _, "sku", *_):
            model = Sku
        case ("prices", _, *_):
            model = Price
    return sorted(model.model_fields)
