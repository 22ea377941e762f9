"""A number that the guide states, worked out again and measured; the verdict is computed from them, never written."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import yaml

from llmd_runbook.analysis.latency import Estimate

_FILE = Path(__file__).with_name("guide_claims.yaml")
_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


class ClaimVerdict(StrEnum):
    """What can be said of a claim."""

    HOLDS = "holds"
    FAILS = "fails"
    UNTESTED = "cannot be tested here"


@dataclass(frozen=True)
class Claim:
    """One number of the guide.

    Attributes:
        where: section of the guide.
        says: what it is about, short.
        stated: the number or range as written there, such as `$12.50`, `2.5-3` or `~$570`.
        unit: of the number.
        formula: arithmetic that works it out again, in the same unit; empty if there is none.
        because: where the formula's figures come from.
        at_least: the formula gives a lower bound.
        figure: name of a measured figure of a run that belongs beside it.
        incomparable: why that figure cannot decide; empty when it can.
        recomputed: what the formula gives; None without one, or without a price that it names.
    """

    id: str
    where: str
    says: str
    stated: str
    unit: str
    formula: str = ""
    because: str = ""
    at_least: bool = False
    figure: str = ""
    incomparable: str = ""
    recomputed: float | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The stated range, wider by half a unit of its last digit; after `~`, of its last digit that is not 0."""
        numbers = re.findall(r"\d[\d,]*(?:\.\d+)?", self.stated)
        values = [float(number.replace(",", "")) for number in numbers]
        decimals = max(len(number.partition(".")[2]) for number in numbers)
        if self.stated.startswith("~") and not decimals:
            decimals = -min(len(number) - len(number.rstrip("0")) for number in numbers)
        half = 0.5 * 10.0**-decimals
        return min(values) - half, max(values) + half

    @property
    def stated_text(self) -> str:
        """The number as the guide has it, with its unit unless a $ says it."""
        return self.stated if "$" in self.stated or not self.unit else f"{self.stated} {self.unit}"

    @property
    def recomputed_text(self) -> str:
        """The number worked out again, its formula, and where that comes from; empty where there is none."""
        if self.recomputed is None:
            return ""
        number = f"{self.recomputed:,.2f}"
        number = number.rstrip("0").rstrip(".") if "." in number else number
        bound = "at least " if self.at_least else ""
        formula = "" if number == self.formula else f" = {self.formula}"
        return f"{bound}{number}{formula}" + (f" ({self.because})" if self.because else "")


@dataclass(frozen=True)
class Figure:
    """What a run measured; of a simulated engine it decides nothing about a real one."""

    value: Estimate
    simulated: bool


def guide_claims(prices: Mapping[str, float]) -> list[Claim]:
    """Every number of the guide, in its order (guide_claims.yaml).

    Args:
        prices: USD by the name of a price; a formula that names another one gives nothing.
    """
    content = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    names = {name.replace("-", "_"): price for name, price in prices.items()}
    for name, formula in content["values"].items():
        names[name] = evaluate(formula, names)
    claims = []
    for where, listed in content["claims"].items():
        for fields in listed:
            claim = Claim(where=where, **fields)
            claims.append(replace(claim, recomputed=_recomputed(claim, names)))
    return claims


def evaluate(formula: str, names: Mapping[str, float]) -> float:
    """Arithmetic on numbers and names; nothing else can be written in a formula.

    Raises:
        KeyError: a name without a value.
        ValueError: anything but numbers, names, parentheses and + - * / // **.
    """

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.Name(id=name):
                return names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
                return float(_OPERATIONS[type(operation)](value(left), value(right)))
        raise ValueError(f"{ast.unparse(node)} in {formula!r} is no arithmetic")

    return value(ast.parse(formula, mode="eval").body)


def _recomputed(claim: Claim, names: Mapping[str, float]) -> float | None:
    if not claim.formula:
        return None
    try:
        return evaluate(claim.formula, names)
    except KeyError:
        return None


def verdict(claim: Claim, figure: Figure | None = None) -> ClaimVerdict:
    """Fails if the claim's own figures, or a measurement on a real engine, contradict it; holds if one supports it.

    A measurement contradicts when its whole interval is outside of the stated range, and supports when it is inside.
    """
    found = {_of_recomputed(claim), _of_figure(claim, figure)}
    for one in (ClaimVerdict.FAILS, ClaimVerdict.HOLDS):
        if one in found:
            return one
    return ClaimVerdict.UNTESTED


def _of_recomputed(claim: Claim) -> ClaimVerdict:
    if claim.recomputed is None:
        return ClaimVerdict.UNTESTED
    low, high = claim.ends
    slack = 1e-9 * max(1.0, abs(high))
    fits = claim.recomputed <= high + slack and (claim.at_least or claim.recomputed >= low - slack)
    return ClaimVerdict.HOLDS if fits else ClaimVerdict.FAILS


def _of_figure(claim: Claim, figure: Figure | None) -> ClaimVerdict:
    if figure is None or figure.simulated or claim.incomparable:
        return ClaimVerdict.UNTESTED
    low, high = claim.ends
    found = figure.value
    if found.low is None or found.high is None:
        return ClaimVerdict.UNTESTED
    if found.high < low or found.low > high:
        return ClaimVerdict.FAILS
    return ClaimVerdict.HOLDS if low <= found.low and found.high <= high else ClaimVerdict.UNTESTED
