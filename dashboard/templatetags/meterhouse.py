"""How the templates write amounts, counts, shares and instants. Each filter prints; none decides."""

from datetime import datetime
from decimal import Decimal

from django import template
from django.utils.safestring import SafeString

from dashboard import formatting, instants
from metering.periods import Period

register = template.Library()


@register.filter
def money(amount_minor: int, currency: str) -> str:
    """{{ line.amount_minor|money:currency }}"""
    return formatting.money(amount_minor, currency)


@register.filter
def thousand_price(unit_price_minor: Decimal, currency: str) -> str:
    """{{ terms.unit_price_minor|thousand_price:currency }}: the price of 1,000 calls."""
    return formatting.thousand_price(unit_price_minor, currency)


@register.filter
def count(number: int | None) -> str:
    return formatting.count(number)


@register.filter
def compact(number: int) -> str:
    return formatting.compact(number)


@register.filter
def on_axis(number: int, currency: str) -> str:
    """{{ tick.value|on_axis:figure.currency }}: calls, or an amount where there is a currency."""
    return formatting.compact_money(number, currency) if currency else formatting.compact(number)


@register.filter
def latency(microseconds: int | None) -> str:
    return formatting.latency(microseconds)


@register.filter
def coordinate(value: float) -> str:
    """A number inside an SVG: a point for the decimals whatever the language."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


@register.filter
def day(at: datetime) -> SafeString:
    return instants.day(at)


@register.filter
def dated(at: datetime) -> SafeString:
    return instants.dated(at)


@register.filter
def clock(at: datetime) -> SafeString:
    return instants.clock(at)


@register.filter
def hour(at: datetime) -> SafeString:
    return instants.hour(at)


@register.filter
def moment(at: datetime) -> SafeString:
    return instants.moment(at)


@register.filter
def precise(at: datetime) -> SafeString:
    return instants.precise(at)


@register.filter
def span(period: Period) -> SafeString:
    return instants.span(period)


@register.filter
def dates(period: Period) -> SafeString:
    return instants.dates(period)


@register.filter
def since(at: datetime, now: datetime) -> SafeString:
    """{{ sent_to|since:as_of }}: 13:00 of today, 30 Nov, 13:00 of another day."""
    return instants.since(at, now)
