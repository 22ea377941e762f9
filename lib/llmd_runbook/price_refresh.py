"""A price file asked for anew: its lines with other prices, dates and sources, everything else as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from llmd_runbook import prices, yaml_files
from llmd_runbook.errors import ClusterError, Forbidden, ProfileError, Unreachable
from llmd_runbook.prices import Price, PriceList
from llmd_runbook.run.files import write_atomically

SOURCE = "Cloud Billing catalogue, cloudbilling.googleapis.com v1"


@dataclass(frozen=True)
class Refreshed:
    """One price of a file: what it was (USD in its unit), what it is now, or why that is not known."""

    name: str
    unit: str
    before: float
    now: float | None
    why: str = ""


def refresh(file: Path, usd: Callable[[Price], float], today: str) -> list[Refreshed]:
    """Ask for each price that has a SKU, and write what was answered into the file; a price that fails stays.

    Args:
        usd: asks for one price, as `Catalogue.usd`.
        today: date of the answers (YYYY-MM-DD).

    Raises:
        ProfileError: the file cannot be used.
        Forbidden, Unreachable: no price can be asked for; the file stays as it is.
    """
    listed = prices.load(file)
    found = [_asked(name, price, usd) for name, price in listed.prices.items()]
    _, lines = yaml_files.read(file, "price file", "prices/us-central1.yaml")
    text = file.read_text(encoding="utf-8").splitlines(keepends=True)
    expected = dict(listed.prices)
    for one in found:
        if one.now is None:
            continue
        new = {one.unit: one.now, "date": today, "source": SOURCE, "verified": True}
        expected[one.name] = listed.prices[one.name].model_copy(update=new)
        for key, value in new.items():
            at = lines["prices", one.name, key] - 1
            text[at] = re.sub(r"^(\s*[\w-]+:\s*)\S.*", rf"\g<1>{json.dumps(value)}", text[at])
    _write(file, "".join(text), listed.model_copy(update={"prices": expected}))
    return found


def _write(file: Path, text: str, expected: PriceList) -> None:
    """Write the text if it says what it should, which a file of another layout would not."""
    try:
        said = PriceList.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError):
        said = None
    if said != expected:
        raise ProfileError(
            "the price file cannot be rewritten; it is as it was",
            where=str(file),
            reason="a price, date, source or verified does not stand alone on one line",
            remedy="write each of them as `key: value` on a line of its own",
        )
    write_atomically(file, text)


def _asked(name: str, price: Price, usd: Callable[[Price], float]) -> Refreshed:
    if price.sku is None:
        return Refreshed(name, price.unit, price.value, None, "names no SKU: look it up by hand")
    try:
        return Refreshed(name, price.unit, price.value, round(usd(price), 6))
    except (Forbidden, Unreachable):
        raise
    except ClusterError as error:
        where = f" ({error.where})" if error.where else ""
        return Refreshed(name, price.unit, price.value, None, f"{error.what}{where}: {error.remedy}")
