"""What usage costs. Pure and exact: integers and Decimal, one rounding for each line."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext


@dataclass(frozen=True, slots=True)
class Terms:
    """The priced part of a plan version. `unit_price_minor` is the price of one call beyond the included ones."""

    currency: str
    fee_minor: int
    included: int | None  # None: unlimited
    unit_price_minor: Decimal
    prices_overage: bool  # only the policy `rate` does


@dataclass(frozen=True, slots=True)
class Line:
    """One row of an invoice: quantity x unit price = amount, rounded once."""

    kind: str  # "fee", "included" or "overage"
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
        return next((line for line in self.lines if line.kind == kind), None)

    @property
    def overage_minor(self) -> int:
        line = self.line("overage")
        return line.amount_minor if line else 0


def line_amount(*, quantity: int, unit_price_minor: Decimal) -> int:
    """Price of a line in minor units, half a unit rounding away from zero."""
    with localcontext() as context:
        context.prec = 60  # the default 28 digits would round the product first
        return int((quantity * unit_price_minor).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def overage(*, terms: Terms, quantity: int) -> int:
    """Calls beyond the included ones."""
    return 0 if terms.included is None else max(0, quantity - terms.included)


def invoice(*, terms: Terms, quantity: int) -> Invoice:
    """The invoice for a period with this many billable units; raises ValueError for a negative quantity."""
    if quantity < 0:
        raise ValueError(f"A quantity is not negative: {quantity}.")
    beyond = overage(terms=terms, quantity=quantity)
    lines = [
        Line("fee", 1, Decimal(terms.fee_minor), terms.fee_minor),
        Line("included", quantity - beyond, Decimal(0), 0),
    ]
    if beyond and terms.prices_overage:
        price = terms.unit_price_minor
        lines.append(Line("overage", beyond, price, line_amount(quantity=beyond, unit_price_minor=price)))
    return Invoice(terms.currency, quantity, tuple(lines))
