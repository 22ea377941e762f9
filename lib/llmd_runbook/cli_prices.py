"""`llmd-runbook prices`: what a price file says, and asking the Cloud Billing catalogue for it anew."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from llmd_runbook.errors import EXIT_INCONCLUSIVE, EXIT_PASS
from llmd_runbook.prices import ASSEMBLIES, load
from llmd_runbook.records.terminal import console

prices = typer.Typer(help="Price files, and the Cloud Billing catalogue.", no_args_is_help=True)
FileArgument = Annotated[Path, typer.Argument(help="a price file, such as parameters/prices/us-central1.yaml")]


@prices.command("show")
def show(file: FileArgument) -> None:
    """Show the prices of a file, their sources, and what the runbook makes of them; nothing is contacted."""
    listed = load(file)
    table = Table("price", "USD", "unit", "region", "date", "verified", "source")
    for name, price in listed.prices.items():
        verified = "yes" if price.verified else "NO"
        table.add_row(name, f"{price.value:g}", price.unit, price.region, price.date, verified, price.source)
    console().print(table)
    made = Table("counted as", "USD/h", "made of")
    for assembly in ASSEMBLIES:
        usd = listed.usd_per_hour(assembly)
        parts = " + ".join(f"{quantity:g} {name}" for name, _, quantity in listed.parts(assembly))
        made.add_row(assembly, "no price" if usd is None else f"{usd:.4f}", parts)
    console().print(made)


@prices.command("refresh")
def refresh(file: FileArgument) -> None:
    """Ask the Cloud Billing catalogue for every price that names its SKU, with your credentials, and rewrite the file.

    Exit codes: 0 every price was answered, 1 no permission or no answer, 2 the file cannot be used,
    3 some prices stay as they were.
    """
    from llmd_runbook.clients.billing import Catalogue
    from llmd_runbook.price_refresh import refresh as ask

    load(file)
    with Catalogue() as catalogue:
        found = ask(file, catalogue.usd, datetime.now(UTC).date().isoformat())
    table = Table("price", "unit", "was", "is", "")
    for one in found:
        now = "as it was" if one.now is None else f"{one.now:g}"
        table.add_row(one.name, one.unit, f"{one.before:g}", now, one.why)
    console().print(table)
    raise typer.Exit(EXIT_PASS if all(one.now is not None for one in found) else EXIT_INCONCLUSIVE)
