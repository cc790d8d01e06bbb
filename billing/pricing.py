"""What usage costs. Pure and exact: integers and Decimal, one rounding for each line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction
from typing import Any

from metering.periods import Period

USAGE_KINDS = ("overage", "write_off")
HALF = Fraction(1, 2)


class StepsInvalid(ValueError):
    """Steps of a price must rise, and only the last has no end."""


@dataclass(frozen=True, slots=True)
class Step:
    """The price of one call beyond the included ones, up to and with number `up_to` of them. None: all that follow."""

    up_to: int | None
    unit_price_minor: Decimal


@dataclass(frozen=True, slots=True)
class Terms:
    """The priced part of a plan version. `unit_price_minor` is the price of one call beyond the included ones.

    `steps`, where there are any, say it by step. Raises StepsInvalid.
    """

    currency: str
    fee_minor: int
    included: int | None  # None: unlimited
    unit_price_minor: Decimal
    prices_overage: bool  # only the policy `rate` does
    steps: tuple[Step, ...] = ()  # graduated: each call has its own step's price
    minimum_minor: int = 0  # fee and calls together cost at least this

    def __post_init__(self) -> None:
        ends = [step.up_to for step in self.steps]
        bounded = [end for end in ends[:-1] if end is not None]
        rises = len(bounded) == len(ends[:-1]) and all(a < b for a, b in zip([0, *bounded], bounded, strict=False))
        if ends and (ends[-1] is not None or not rises):
            raise StepsInvalid(f"Steps must rise, and only the last has no end: {ends}.")

    @property
    def price_steps(self) -> tuple[Step, ...]:
        """How calls beyond the included ones are priced: at least one step."""
        return self.steps or (Step(None, self.unit_price_minor),)

    @property
    def has_rate(self) -> bool:
        """Whether a call beyond the included ones may cost something."""
        return self.prices_overage and any(step.unit_price_minor for step in self.price_steps)


def steps_from(written: Sequence[dict[str, Any]]) -> tuple[Step, ...]:
    """Steps as a plan version has them: `[{"up_to": 1000000, "unit_price_minor": "0.02"}, {"up_to": null, ...}]`."""
    return tuple(Step(step["up_to"], Decimal(step["unit_price_minor"])) for step in written)


@dataclass(frozen=True, slots=True)
class Line:
    """One row of an invoice: quantity x unit price = amount, rounded once."""

    kind: str  # "fee", "included", "overage" (one for each step that was reached), "write_off" or "minimum"
    quantity: int
    unit_price_minor: Decimal
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Invoice:
    """The priced usage of one period."""

    currency: str
    quantity: int
    lines: tuple[Line, ...]

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)

    def line(self, kind: str) -> Line | None:
        """The first line of this kind."""
        return next((line for line in self.lines if line.kind == kind), None)

    def of_kind(self, kind: str) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.kind == kind)

    @property
    def overage_minor(self) -> int:
        """What the calls beyond the included ones cost, before anything is written off."""
        return sum(line.amount_minor for line in self.of_kind("overage"))

    @property
    def usage_minor(self) -> int:
        """What the calls beyond the included ones cost, less what is written off: the usage line before tax."""
        return sum(line.amount_minor for line in self.lines if line.kind in USAGE_KINDS)


def line_amount(*, quantity: int, unit_price_minor: Decimal) -> int:
    """Price of a line in minor units, half a unit rounding away from zero."""
    with localcontext() as context:
        context.prec = 60  # the default 28 digits would round the product first
        return int((quantity * unit_price_minor).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def overage(*, terms: Terms, quantity: int) -> int:
    """Calls beyond the included ones."""
    return 0 if terms.included is None else max(0, quantity - terms.included)


def invoice(*, terms: Terms, quantity: int, cap_minor: int | None = None) -> Invoice:
    """The invoice for a period with this many billable units; raises ValueError for a negative quantity.

    `cap_minor`: what the customer said the usage line will not exceed. What lies beyond it is a line of its own, written off.
    """
    if quantity < 0:
        raise ValueError(f"A quantity is not negative: {quantity}.")
    beyond = overage(terms=terms, quantity=quantity)
    lines = [
        Line("fee", 1, Decimal(terms.fee_minor), terms.fee_minor),
        Line("included", quantity - beyond, Decimal(0), 0),
        *_usage_lines(terms, quantity, beyond, cap_minor),
    ]
    missing = terms.minimum_minor - sum(line.amount_minor for line in lines)
    if missing > 0:
        lines.append(Line("minimum", 1, Decimal(missing), missing))
    return Invoice(terms.currency, quantity, tuple(lines))


def _usage_lines(terms: Terms, quantity: int, beyond: int, cap_minor: int | None) -> Iterator[Line]:
    if not beyond or not terms.prices_overage:
        return
    amount_minor, before = 0, 0
    for step in terms.price_steps:
        inside = beyond - before if step.up_to is None else min(beyond, step.up_to) - before
        if inside <= 0:
            break
        line = Line(
            "overage",
            inside,
            step.unit_price_minor,
            line_amount(quantity=inside, unit_price_minor=step.unit_price_minor),
        )
        yield line
        amount_minor, before = amount_minor + line.amount_minor, before + inside
    if cap_minor is not None and amount_minor > cap_minor:
        kept = most_calls(terms, cap_minor)
        yield Line("write_off", quantity - (kept or 0), Decimal(0), cap_minor - amount_minor)


def most_calls(terms: Terms, cap_minor: int) -> int | None:
    """The most calls of a period whose usage line does not pass this; None when no number of calls passes it.

    The exact inverse of `invoice`: one call more passes it.
    """
    if terms.included is None or not terms.prices_overage:
        return None
    left, calls, before = cap_minor, terms.included, 0
    for step in terms.price_steps:
        fitting = _most_of(step.unit_price_minor, left)
        width = None if step.up_to is None else step.up_to - before
        if fitting is not None and (width is None or fitting < width):
            return calls + fitting
        if width is None:
            return None
        left -= line_amount(quantity=width, unit_price_minor=step.unit_price_minor)
        calls, before = calls + width, before + width
    return None


def fewest_calls(terms: Terms, amount_minor: int) -> int | None:
    """The fewest calls of a period whose usage line costs this amount or more; None when no number of calls does."""
    most = most_calls(terms, amount_minor - 1)
    return None if most is None else most + 1


def _most_of(unit_price_minor: Decimal, cap_minor: int) -> int | None:
    """The most calls at this price that are rounded to no more than the cap; None when there is no most."""
    if not unit_price_minor:
        return None
    bound = (cap_minor + HALF) / Fraction(unit_price_minor)  # fewer calls than this: exactly half rounds up
    return -(-bound.numerator // bound.denominator) - 1


def prorated(*, fee_minor: int, period: Period, at: datetime) -> int:
    """The fee for the rest of the period, by the second (a begun one counts whole), half a minor unit rounding up."""
    left = period.end - at.replace(microsecond=0)
    seconds = min(max(0, int(left.total_seconds())), period.seconds)
    return int(Fraction(fee_minor * seconds, period.seconds) + HALF)
