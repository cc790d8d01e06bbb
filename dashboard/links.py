"""Addresses of other pages with what they are narrowed to: from an amount to the usage and the calls behind it."""

from datetime import datetime
from urllib.parse import urlencode

from django.urls import NoReverseMatch, reverse

from metering.periods import Period, day_of


def usage(slug: str, period: Period, **filters: str) -> str:
    """The usage page of these days."""
    return _address("usage", slug, period, filters)


def calls(slug: str, period: Period, **filters: str) -> str:
    """The billed calls of these days; empty where there is no such page."""
    return _address("calls", slug, period, {"outcome": "billable", **filters})


def why(slug: str, start: datetime, line: str = "", *, day: datetime | None = None) -> str:
    """What the period that holds this instant costs and why; straight to one of its lines, or with one of its days."""
    asked = {"period": instant(start), **({"day": f"{day:%Y-%m-%d}"} if day else {})}
    address = f"{reverse('why', args=[slug])}?{urlencode(asked)}"
    return f"{address}#{line}" if line else address


def _address(name: str, slug: str, period: Period, filters: dict[str, str]) -> str:
    try:
        page = reverse(name, args=[slug])
    except NoReverseMatch:
        return ""
    asked = {"from": instant(period.start), "to": instant(period.end), **filters}
    return f"{page}?{urlencode({name: value for name, value in asked.items() if value})}"


def instant(at: datetime) -> str:
    """2026-11-01, or with its time of day where it is not midnight."""
    if at == day_of(at):
        return f"{at:%Y-%m-%d}"
    return at.isoformat(timespec="microseconds" if at.microsecond else "seconds").replace("+00:00", "Z")
