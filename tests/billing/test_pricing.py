from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing
from metering.periods import Period

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


AGREED = pricing.Terms(
    "usd", 0, 1_000_000, Decimal(0), prices_overage=True, minimum_minor=500_00,
    steps=(
        pricing.Step(1_000_000, Decimal("0.02")), pricing.Step(5_000_000, Decimal("0.01")), pricing.Step(None, Decimal("0.005")),
    ),
)  # fmt: skip


def lines(terms: pricing.Terms, quantity: int, cap_minor: int | None = None) -> list[tuple[str, int, int]]:
    made = pricing.invoice(terms=terms, quantity=quantity, cap_minor=cap_minor)
    return [
        (line.kind, line.quantity, line.amount_minor) for line in made.lines if line.kind not in {"fee", "included"}
    ]


def test_each_step_that_is_reached_has_its_line() -> None:
    assert lines(AGREED, 1_000_000) == [("minimum", 1, 500_00)]
    assert lines(AGREED, 1_500_000) == [("overage", 500_000, 100_00), ("minimum", 1, 400_00)]
    assert lines(AGREED, 7_500_000) == [
        ("overage", 1_000_000, 200_00), ("overage", 4_000_000, 400_00), ("overage", 1_500_000, 75_00),
    ]  # fmt: skip


def test_what_lies_beyond_the_hard_limit_in_money_is_written_off_by_name() -> None:
    assert lines(LAUNCH, 110_000, cap_minor=2_50) == [("overage", 10_000, 2_50)]
    assert lines(LAUNCH, 110_100, cap_minor=2_50) == [("overage", 10_100, 2_53), ("write_off", 81, -3)]
    assert pricing.most_calls(LAUNCH, 2_50) == 110_100 - 81
    assert pricing.invoice(terms=LAUNCH, quantity=10**9, cap_minor=2_50).total_minor == 19_00 + 2_50


@pytest.mark.parametrize(
    ("terms", "cap_minor", "most"),
    [
        (LAUNCH, 0, 100_019),  # 19 calls round to nothing
        (LAUNCH, 1, 100_059),
        (FREE, 0, None),
        (pricing.Terms("usd", 0, None, Decimal(1), prices_overage=True), 0, None),
        (pricing.Terms("usd", 0, 7, Decimal(0), prices_overage=True), 0, None),
        (AGREED, 200_00, 2_000_049),
        (AGREED, 199_99, 1_999_974),
    ],
)
def test_the_most_calls_under_a_hard_limit_in_money(terms: pricing.Terms, cap_minor: int, most: int | None) -> None:
    assert pricing.most_calls(terms, cap_minor) == most


@st.composite
def stepped(draw: st.DrawFn) -> pricing.Terms:
    """Terms with up to four steps, some of them free, narrow or dearer than the one before."""
    ends = sorted(draw(st.sets(st.one_of(st.integers(1, 30), st.integers(1, 10**9)), max_size=3)))
    price = st.one_of(st.just(Decimal(0)), st.decimals(0, 3, places=12), st.decimals(0, "0.0001", places=12))
    steps = tuple(pricing.Step(end, draw(price)) for end in [*ends, None])
    return pricing.Terms(
        "usd", draw(st.integers(0, 100)), draw(st.integers(0, 10**6)), Decimal(0), prices_overage=True, steps=steps,
        minimum_minor=draw(st.integers(0, 200)),
    )  # fmt: skip


@given(terms=stepped(), cap_minor=st.integers(0, 10**6))
def test_the_most_calls_are_the_exact_inverse_of_the_price(terms: pricing.Terms, cap_minor: int) -> None:
    most = pricing.most_calls(terms, cap_minor)
    if most is None:
        far = pricing.invoice(terms=terms, quantity=10**15)
        assert far.overage_minor <= cap_minor
        return
    assert pricing.invoice(terms=terms, quantity=most).overage_minor <= cap_minor
    assert pricing.invoice(terms=terms, quantity=most + 1).overage_minor > cap_minor


@given(terms=stepped(), quantity=st.integers(0, 10**10), cap_minor=st.one_of(st.none(), st.integers(0, 10**6)))
def test_a_stepped_invoice_adds_up(terms: pricing.Terms, quantity: int, cap_minor: int | None) -> None:
    made = pricing.invoice(terms=terms, quantity=quantity, cap_minor=cap_minor)
    beyond = sum(line.quantity for line in made.of_kind("overage"))
    assert beyond == pricing.overage(terms=terms, quantity=quantity)
    assert made.usage_minor == min(made.overage_minor, made.overage_minor if cap_minor is None else cap_minor)
    assert made.total_minor == max(terms.minimum_minor, terms.fee_minor + made.usage_minor)
    assert 0 <= made.usage_minor <= made.overage_minor
    exact, before = Fraction(0), 0
    for step in terms.price_steps:
        inside = max(0, (beyond if step.up_to is None else min(beyond, step.up_to)) - before)
        exact, before = exact + inside * Fraction(step.unit_price_minor), before + inside
    assert abs(made.overage_minor - exact) * 2 <= len(terms.price_steps)  # half a minor unit for each line


@given(terms=stepped(), quantity=st.integers(0, 10**9), more=st.integers(0, 10**6))
def test_more_calls_never_cost_less_over_steps(terms: pricing.Terms, quantity: int, more: int) -> None:
    one, other = (pricing.invoice(terms=terms, quantity=n).total_minor for n in (quantity, quantity + more))
    assert one <= other


@pytest.mark.parametrize("ends", [[5], [5, 5, None], [9, 5, None], [None, None], [0, None]])
def test_steps_that_do_not_rise_are_refused(ends: list[int | None]) -> None:
    with pytest.raises(pricing.StepsInvalid):
        pricing.Terms(
            "usd", 0, 1, Decimal(0), prices_overage=True, steps=tuple(pricing.Step(end, Decimal(1)) for end in ends)
        )


def test_steps_are_read_as_a_version_has_them() -> None:
    written: list[dict[str, Any]] = [
        {"up_to": 10, "unit_price_minor": "0.02"},
        {"up_to": None, "unit_price_minor": "0.010"},
    ]
    assert pricing.steps_from(written) == (pricing.Step(10, Decimal("0.02")), pricing.Step(None, Decimal("0.010")))


NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("at", "part"),
    [
        (NOVEMBER.start, 30_00),
        (NOVEMBER.start - timedelta(days=1), 30_00),
        (datetime(2026, 11, 16, tzinfo=UTC), 15_00),
        (datetime(2026, 11, 16, 0, 7, 12, 999_999, tzinfo=UTC), 15_00),  # a half is rounded up; the begun second counts
        (datetime(2026, 11, 16, 0, 7, 13, tzinfo=UTC), 14_99),
        (NOVEMBER.end - timedelta(seconds=1), 0),
        (NOVEMBER.end, 0),
        (NOVEMBER.end + timedelta(days=1), 0),
    ],
)
def test_a_fee_is_prorated_by_the_second(at: datetime, part: int) -> None:
    assert pricing.prorated(fee_minor=30_00, period=NOVEMBER, at=at) == part


@given(fee=st.integers(0, 10**9), second=st.integers(0, NOVEMBER.seconds))
def test_a_proration_is_exact_and_rounded_once(fee: int, second: int) -> None:
    at = NOVEMBER.start + timedelta(seconds=second)
    found = pricing.prorated(fee_minor=fee, period=NOVEMBER, at=at)
    exact = Fraction(fee * (NOVEMBER.seconds - second), NOVEMBER.seconds)
    assert found == int(exact + Fraction(1, 2))
    assert found >= pricing.prorated(fee_minor=fee, period=NOVEMBER, at=at + timedelta(seconds=1))


@given(terms=stepped(), amount_minor=st.integers(1, 10**6))
def test_the_fewest_calls_that_cost_an_amount_are_exact(terms: pricing.Terms, amount_minor: int) -> None:
    calls = pricing.fewest_calls(terms, amount_minor)
    if calls is not None:
        assert pricing.invoice(terms=terms, quantity=calls).usage_minor >= amount_minor
        assert pricing.invoice(terms=terms, quantity=calls - 1).usage_minor < amount_minor
