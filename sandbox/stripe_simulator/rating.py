"""What a quantity costs at a price: exact multiplication, one rounding per line, half a unit away from zero."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal, localcontext

from .errors import Json, refused

PRECISION = 60


@dataclass(frozen=True, slots=True)
class Rated:
    """One line of an invoice: with tiers, each tier that holds something is a line."""

    quantity: int
    unit_amount_decimal: str | None
    amount: int
    tier: int | None = None


def round_minor(amount: Decimal) -> int:
    """Whole minor units, half a unit rounding away from zero."""
    with localcontext(prec=PRECISION):
        return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def amounts_of(price: Json, currency: str) -> Json:
    """The price's unit amount or tiers in a currency; raises StripeError when it has none in it."""
    options: Json = price["_currency_options"]
    if currency not in options:
        raise refused(f"The price `{price['id']}` has no amount in {currency}.", param="currency")
    found: Json = options[currency]
    return found


def rate(price: Json, currency: str, quantity: int) -> list[Rated]:
    """The lines for a quantity. A negative total of usage costs nothing."""
    quantity = max(0, quantity)
    amounts = amounts_of(price, currency)
    if amounts["_tiers"]:
        rated = _graduated if price["tiers_mode"] == "graduated" else _volume
        return rated(amounts["_tiers"], quantity)
    unit = amounts["unit_amount_decimal"]
    return [Rated(quantity, unit, _times(unit, _transformed(price, quantity)))]


def unrounded(price: Json, currency: str, quantity: int) -> Decimal:
    """What a licensed item costs for a whole period, before prorating."""
    amounts = amounts_of(price, currency)
    if amounts["_tiers"]:
        return Decimal(sum(line.amount for line in rate(price, currency, quantity)))
    with localcontext(prec=PRECISION):
        return Decimal(amounts["unit_amount_decimal"]) * _transformed(price, quantity)


def _times(unit: str, quantity: int) -> int:
    with localcontext(prec=PRECISION):
        return round_minor(Decimal(unit) * quantity)


def _transformed(price: Json, quantity: int) -> int:
    rule = price["transform_quantity"]
    if not rule:
        return quantity
    whole, rest = divmod(quantity, rule["divide_by"])
    return int(whole + (1 if rest and rule["round"] == "up" else 0))


def _graduated(tiers: list[Json], quantity: int) -> list[Rated]:
    lines, below = [], 0
    for number, tier in enumerate(tiers, start=1):
        top = quantity if tier["up_to"] is None else min(quantity, tier["up_to"])
        if number == 1 or top > below:
            lines.append(_tier_line(tier, number, top - below))
        below = top
    return lines


def _volume(tiers: list[Json], quantity: int) -> list[Rated]:
    for number, tier in enumerate(tiers, start=1):
        if tier["up_to"] is None or quantity <= tier["up_to"]:
            return [_tier_line(tier, number, quantity)]
    return []


def _tier_line(tier: Json, number: int, quantity: int) -> Rated:
    with localcontext(prec=PRECISION):
        unit = Decimal(tier["unit_amount_decimal"] or 0)
        flat = Decimal(tier["flat_amount_decimal"] or 0) if quantity else Decimal(0)
        amount = round_minor(unit * quantity + flat)
    return Rated(quantity, tier["unit_amount_decimal"] or "0", amount, number)
