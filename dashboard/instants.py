"""How instants are written: always UTC, always with the exact instant in `datetime`."""

from datetime import UTC, datetime

from django.utils import dateformat
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import pgettext

from metering.periods import Period


def text(at: datetime, rest: str = "") -> str:
    """1 Nov, then the rest (a date format), as plain text: for titles and SVG."""
    return dateformat.format(at.astimezone(UTC), _pattern(rest))


def day(at: datetime) -> SafeString:
    """1 Nov"""
    return _element(at, _pattern())


def dated(at: datetime) -> SafeString:
    """1 Nov 2026"""
    return _element(at, _pattern(" Y"))


def clock(at: datetime) -> SafeString:
    """13:58:02"""
    return _element(at, "H:i:s")


def hour(at: datetime) -> SafeString:
    """00:00"""
    return _element(at, "H:i")


def moment(at: datetime) -> SafeString:
    """1 Dec, 00:00 (UTC)"""
    return _element(at, _pattern(", H:i"), zone=True)


def since(at: datetime, now: datetime) -> SafeString:
    """13:00 of the same day (UTC), 30 Nov, 13:00 of another."""
    is_today = at.astimezone(UTC).date() == now.astimezone(UTC).date()
    return _element(at, "H:i" if is_today else _pattern(", H:i"))


def precise(at: datetime) -> SafeString:
    """1 Nov, 13:58:02.417: for lists, below a heading that says UTC."""
    utc = at.astimezone(UTC)
    text = f"{dateformat.format(utc, _pattern(', H:i:s'))}.{utc.microsecond // 1000:03d}"
    return format_html('<time datetime="{}">{}</time>', machine(utc), text)


def span(period: Period) -> SafeString:
    """Both ends of a period: 1 Nov - 1 Dec 2026 (UTC), with the time of day where it is not midnight."""
    start, end = period.start.astimezone(UTC), period.end.astimezone(UTC)
    time_of_day = "" if (start.hour, start.minute) == (0, 0) else ", H:i"
    year = "" if start.year == end.year else " Y"
    first, last = _element(start, _pattern(f"{year}{time_of_day}")), _element(end, _pattern(f" Y{time_of_day}"))
    return format_html(_("{first} \N{EN DASH} {last} (UTC)"), first=first, last=last)


def dates(period: Period) -> SafeString:
    """4 Nov - 4 Dec 2026: for lists, below a heading that says UTC."""
    year = "" if period.start.year == period.end.year else " Y"
    first, last = _element(period.start, _pattern(year)), _element(period.end, _pattern(" Y"))
    return format_html(_("{first} \N{EN DASH} {last}"), first=first, last=last)


def _pattern(rest: str = "") -> str:
    """The day and the month as the page's language writes them, then the rest."""
    return pgettext("date", "j M") + rest


def machine(at: datetime) -> str:
    """The instant as programs read it: 2026-11-01T00:00:00Z."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _element(at: datetime, pattern: str, *, zone: bool = False) -> SafeString:
    utc = at.astimezone(UTC)
    text = dateformat.format(utc, pattern)
    return format_html('<time datetime="{}">{}{}</time>', machine(utc), text, _(" (UTC)") if zone else "")
