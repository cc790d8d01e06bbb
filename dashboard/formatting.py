"""How amounts, counts, shares and latencies are written in the language of the page: $1,234.56 and 1.234,56 $.

Values in, text out; no float near money. What programs read (CSV, the API, form fields) is never written here but by `major`.
"""

from decimal import Decimal

from django.utils.translation import get_language

# Currencies without minor units, and with thousandths (Stripe's lists: docs.stripe.com/currencies).
WHOLE = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf".split())  # noqa: SIM905
THOUSANDTHS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
SYMBOLS = {
    "usd": "$",
    "eur": "€",
    "gbp": "£",
    "jpy": "¥",
    "krw": "₩",
    "inr": "₹",
    "brl": "R$",
    "cad": "CA$",
    "aud": "A$",
}
NOTHING = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"
COMMA_FOR_DECIMALS = frozenset({"de"})
SWAPPED = str.maketrans(",.", ".,")


def number(value: Decimal | int, places: int = 0) -> str:
    """A number with separators: 1,234.5 in English, 1.234,5 in German."""
    text = f"{value:,.{places}f}"
    return text.translate(SWAPPED) if _has_decimal_comma() else text


def _has_decimal_comma() -> bool:
    return (get_language() or "").split("-")[0] in COMMA_FOR_DECIMALS


def decimals(currency: str) -> int:
    """Digits after the point of an amount in this currency."""
    code = currency.lower()
    if code in WHOLE:
        return 0
    return 3 if code in THOUSANDTHS else 2


def money(amount_minor: int, currency: str) -> str:
    """Whole minor units as people write them: $1,234.56, ¥1,235, CHF 12.00."""
    places = decimals(currency)
    return _priced(Decimal(amount_minor).scaleb(-places), currency, places)


def signed_money(amount_minor: int, currency: str) -> str:
    """An amount that is added or taken off: +$1.00, -$1.00."""
    written = money(amount_minor, currency)
    return f"+{written}" if amount_minor > 0 else written


def exact_money(amount_minor: Decimal, currency: str) -> str:
    """An amount that is not rounded: every digit it has, and never fewer than an amount has."""
    places = decimals(currency)
    value = amount_minor.scaleb(-places).normalize()
    exponent = value.as_tuple().exponent
    return _priced(value, currency, max(places, -exponent if isinstance(exponent, int) else 0))


def symbol(currency: str) -> str:
    """How the currency is written before an amount."""
    code = currency.lower()
    return SYMBOLS.get(code, f"{code.upper()}{SPACE}")


def major(amount_minor: int | None, currency: str) -> str:
    """An amount as it stands in a form's field: 1234.50, without sign or separators."""
    places = decimals(currency)
    return "" if amount_minor is None else f"{Decimal(amount_minor).scaleb(-places):.{places}f}"


def thousand_price(unit_price_minor: Decimal, currency: str) -> str:
    """The exact price of 1,000 calls: every digit it has, and never fewer than an amount has."""
    return exact_money(unit_price_minor * 1000, currency)


def _priced(value: Decimal, currency: str, places: int) -> str:
    sign = "-" if value < 0 else ""
    written = number(abs(value), places)
    if _has_decimal_comma():
        return f"{sign}{written}{SPACE}{symbol(currency).strip()}"
    return f"{sign}{symbol(currency)}{written}"


def count(value: int | None) -> str:
    """A whole number with thousands separators."""
    return NOTHING if value is None else number(value)


def compact(value: int) -> str:
    """A number short enough for an axis: 900, 2k, 1.5M."""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            tenths = value * 10 // size
            return f"{number(Decimal(tenths) / 10, 1 if tenths % 10 else 0)}{letter}"
    return str(value)


def compact_money(amount_minor: int, currency: str) -> str:
    """An amount short enough for an axis: $0.50, $12, $1.5k."""
    whole, rest = divmod(amount_minor, 10 ** decimals(currency))
    return money(amount_minor, currency) if rest else f"{symbol(currency)}{compact(whole)}"


def share(part: int, whole: int) -> str:
    """A part in whole per cent; what is there but small is not written as nothing."""
    if not whole:
        return NOTHING
    percent = (part * 200 + whole) // (whole * 2)
    return f"<1{SPACE}%" if part and not percent else f"{number(percent)}{SPACE}%"


def rate(part: int, whole: int) -> str:
    """A part in hundredths of a per cent: error rates."""
    if not whole:
        return NOTHING
    hundredths = (part * 20_000 + whole) // (whole * 2)
    if part and not hundredths:
        return f"<{number(Decimal(1) / 100, 2)}{SPACE}%"
    return f"{number(Decimal(hundredths) / 100, 2)}{SPACE}%"


def latency(microseconds: int | None) -> str:
    """A latency with two or three significant digits in the unit that suits it."""
    if microseconds is None:
        return NOTHING
    if microseconds < 10_000:  # noqa: PLR2004
        return f"{number(Decimal(microseconds) / 1000, 1)}{SPACE}ms"
    if microseconds < 1_000_000:  # noqa: PLR2004
        return f"{number(Decimal(microseconds) / 1000)}{SPACE}ms"
    return f"{number(Decimal(microseconds) / 1_000_000, 2)}{SPACE}s"
