"""How amounts, counts, shares and instants are written."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.utils import translation
from hypothesis import given
from hypothesis import strategies as st

from dashboard import changes, formatting, instants
from metering.periods import Period


@pytest.mark.parametrize(
    ("amount_minor", "currency", "text"),
    [
        (123_456, "usd", "$1,234.56"),
        (0, "usd", "$0.00"),
        (5, "USD", "$0.05"),
        (-1900, "usd", "-$19.00"),
        (1235, "jpy", "¥1,235"),
        (1200, "chf", "CHF\N{NO-BREAK SPACE}12.00"),
        (1_234_567, "kwd", "KWD\N{NO-BREAK SPACE}1,234.567"),
        (10**20, "eur", "€1,000,000,000,000,000,000.00"),
    ],
)
def test_money_is_written_in_its_currency(amount_minor: int, currency: str, text: str) -> None:
    assert formatting.money(amount_minor, currency) == text


@given(st.integers(0, 10**18))
def test_no_cent_is_lost_in_writing(amount_minor: int) -> None:
    digits = formatting.money(amount_minor, "usd").strip("$").replace(",", "").replace(".", "")
    assert int(digits) == amount_minor


@pytest.mark.parametrize(
    ("unit_price_minor", "currency", "text"),
    [
        ("0.025", "usd", "$0.25"),
        ("0.006", "usd", "$0.06"),
        ("0.0001", "usd", "$0.001"),
        ("1", "usd", "$10.00"),
        ("0.5", "jpy", "¥500"),
        ("0.000000000001", "usd", "$0.00000000001"),
        ("0", "usd", "$0.00"),
    ],
)
def test_the_price_of_1000_calls_has_every_digit(unit_price_minor: str, currency: str, text: str) -> None:
    assert formatting.thousand_price(Decimal(unit_price_minor), currency) == text


def test_numbers_are_short_on_an_axis() -> None:
    written = [formatting.compact(number) for number in (0, 999, 1000, 1500, 20_000, 2_500_000, 10**9, 10**12)]
    assert written == ["0", "999", "1k", "1.5k", "20k", "2.5M", "1B", "1T"]


def test_shares_and_rates_never_write_something_as_nothing() -> None:
    assert formatting.share(1, 1000).startswith("<1")
    assert formatting.rate(1, 1_000_000).startswith("<0.01")
    assert formatting.share(58, 100) == "58\N{NO-BREAK SPACE}%"
    assert formatting.rate(21, 10_000) == "0.21\N{NO-BREAK SPACE}%"
    assert formatting.share(0, 0) == formatting.rate(0, 0) == formatting.NOTHING


def test_latencies_choose_their_unit() -> None:
    written = [formatting.latency(value) for value in (None, 640, 18_400, 1_240_000)]
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in written] == ["\N{EN DASH}", "0.6 ms", "18 ms", "1.24 s"]


@pytest.mark.parametrize(
    ("now", "before", "text", "style"),
    [
        (112, 100, "+12 %", "up"),
        (92, 100, "-8 %", "down"),
        (100, 100, "0 %", "same"),
        (5, 0, "new", "up"),
        (0, 0, formatting.NOTHING, "same"),
    ],
)
def test_a_change_is_a_number_and_a_form(now: int, before: int, text: str, style: str) -> None:
    assert changes.change(now=now, before=before) == changes.Change(text.replace(" ", "\N{NO-BREAK SPACE}"), style)


def test_a_huge_change_is_a_factor() -> None:
    assert changes.change(now=5000, before=10).text == "500\N{MULTIPLICATION SIGN}"


def test_instants_say_utc_and_carry_the_instant() -> None:
    at = datetime(2026, 12, 1, tzinfo=UTC)
    assert instants.moment(at) == '<time datetime="2026-12-01T00:00:00Z">1 Dec, 00:00 (UTC)</time>'
    text = instants.span(Period(datetime(2026, 11, 1, tzinfo=UTC), at))
    assert "1 Nov</time> \N{EN DASH} " in text
    assert text.endswith("1 Dec 2026</time> (UTC)")


def test_german_pages_have_a_comma_for_the_decimals() -> None:
    with translation.override("de"):
        written = [
            formatting.money(-123_456, "usd"),
            formatting.money(1200, "chf"),
            formatting.count(1_234_567),
            formatting.rate(21, 10_000),
            formatting.latency(1500),
            formatting.compact(1_500_000),
            formatting.major(123_450, "usd"),
        ]
    space = formatting.SPACE
    assert written == [
        f"-1.234,56{space}$",
        f"12,00{space}CHF",
        "1.234.567",
        f"0,21{space}%",
        f"1,5{space}ms",
        "1,5M",
        "1234.50",
    ]
    assert formatting.money(-123_456, "usd") == "-$1,234.56", "and English again"
