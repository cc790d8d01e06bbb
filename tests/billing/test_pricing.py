from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing

LAUNCH = pricing.Terms("usd", 19_00, 100_000, Decimal("0.025"), prices_overage=True)
SCALE = pricing.Terms("usd", 49_00, 1_000_000, Decimal("0.006"), prices_overage=True)
FREE = pricing.Terms("usd", 0, 5_000, Decimal(0), prices_overage=False)


@pytest.mark.parametrize(
    ("terms", "quantity", "total_minor"),
    [
        (LAUNCH, 0, 19_00),
        (LAUNCH, 100_000, 19_00),
        (LAUNCH, 100_019, 19_00),  # 19 calls cost 0.475 cents
        (LAUNCH, 100_020, 19_01),  # 20 calls cost half a cent: away from zero
        (LAUNCH, 110_000, 21_50),
        (SCALE, 2_500_000, 49_00 + 90_00),
        (FREE, 7_000, 0),
    ],
)
def test_the_price_of_a_period(terms: pricing.Terms, quantity: int, total_minor: int) -> None:
    assert pricing.invoice(terms=terms, quantity=quantity).total_minor == total_minor


prices = st.decimals(0, 1000, places=12)


@given(quantity=st.integers(0, 10**15), price=prices)
def test_a_line_is_exact_and_rounded_once(quantity: int, price: Decimal) -> None:
    exact = quantity * Fraction(price)
    expected = int(exact + Fraction(1, 2))  # floor of exact + 1/2, exact >= 0
    assert pricing.line_amount(quantity=quantity, unit_price_minor=price) == expected


@given(quantity=st.integers(0, 10**12), included=st.one_of(st.none(), st.integers(0, 10**12)), price=prices)
def test_included_and_overage_make_the_quantity(quantity: int, included: int | None, price: Decimal) -> None:
    terms = pricing.Terms("usd", 5, included, price, prices_overage=True)
    invoice = pricing.invoice(terms=terms, quantity=quantity)
    assert sum(line.quantity for line in invoice.lines if line.kind != "fee") == quantity
    assert invoice.total_minor == 5 + invoice.overage_minor


@given(quantity=st.integers(0, 10**9), more=st.integers(0, 10**6))
def test_more_calls_never_cost_less(quantity: int, more: int) -> None:
    one, other = (pricing.invoice(terms=LAUNCH, quantity=n).total_minor for n in (quantity, quantity + more))
    assert one <= other


def test_a_negative_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        pricing.invoice(terms=LAUNCH, quantity=-1)
