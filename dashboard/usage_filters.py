"""What the usage page is asked, read from its address, and the form that shows it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from billing.series import Known
from metering.periods import Period
from metering.usage import GroupBy

from . import instants

PERIOD, START, END = "period", "from", "to"
CURRENT, RANGE = "current", "range"
QUERY = (PERIOD, START, END, "granularity", "group_by", "capability", "project", "key", "outcome", "show")
USUAL = {"granularity": "day", "group_by": "capability", "show": "calls"}
GRANULARITIES = (("hour", gettext_lazy("Hour")), ("day", gettext_lazy("Day")), ("month", gettext_lazy("Month")))
GROUPS = (
    ("capability", gettext_lazy("Capability")),
    ("project", gettext_lazy("Project")),
    ("key", gettext_lazy("API key")),
    ("outcome", gettext_lazy("Outcome")),
)
OUTCOMES = (
    ("", gettext_lazy("All")),
    ("billable", gettext_lazy("Billable")),
    ("failed", gettext_lazy("Failed")),
    ("rejected", gettext_lazy("Refused")),
)
MOST_CHOICES = 200


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a select."""

    value: str
    label: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the form: a select where there are choices, else an input. `error` says why its value has no answer."""

    name: str
    label: str
    value: str
    choices: tuple[Choice, ...] = ()
    type: str = "text"
    error: str = ""


def asked(parameters: Mapping[str, str], *, edited: str = "") -> dict[str, str]:
    """The query as the API takes it: no empty values, and a period or a range, never both.

    `edited` is the field that the reader changed last: who writes a date means a range, whatever the period's field says.
    """
    found = {name: parameters[name].strip() for name in QUERY if parameters.get(name, "").strip()}
    if "group_by" not in found and parameters.get("by"):  # the page's parameter of old
        found["group_by"] = parameters["by"]
    period = found.get(PERIOD, "")
    if edited in {START, END} or period in {"", RANGE}:
        found.pop(PERIOD, None)
    else:
        found.pop(START, None)
        found.pop(END, None)
        if period == CURRENT:
            found.pop(PERIOD)
    return {**USUAL, **found}


def canonical(query: Mapping[str, str]) -> str:
    """The shortest query string that asks the same."""
    return urlencode({name: value for name, value in query.items() if USUAL.get(name) != value})


def fields(
    *,
    query: Mapping[str, str],
    reach: tuple[datetime, datetime],
    capabilities: Iterable[str],
    known: Known,
    may_see_money: bool,
    errors: Mapping[str, str],
) -> tuple[Field, ...]:
    """The form in the order in which it is read."""
    is_range = START in query or END in query
    names = sorted({*capabilities, *([query["capability"]] if "capability" in query else [])})
    every = ("", _("All"))
    found = [
        _select(PERIOD, _("Period (UTC)"), _period_choices(known.periods), _period_value(query, is_range)),
        Field(START, _("From (UTC)"), query.get(START, f"{reach[0]:%Y-%m-%d}"), type="date"),
        Field(END, _("To, not included (UTC)"), query.get(END, _end(reach[1])), type="date"),
        _select("granularity", _("By"), GRANULARITIES, query.get("granularity", "")),
        _select("group_by", _("Grouped by"), GROUPS, query.get("group_by", "")),
        _select("capability", _("Capability"), [every, *((name, name) for name in names)], query.get("capability", "")),
        subject("project", _("Project"), [(one.slug, one.name) for one in known.projects], query),
        subject("key", _("API key"), [(one.prefix, f"{one.name} ({one})") for one in known.keys], query),
        _select("outcome", _("Outcome"), OUTCOMES, query.get("outcome", "")),
    ]
    if may_see_money:
        shows = (("calls", _("Calls")), ("money", _("Money")))
        found.append(_select("show", _("Show"), shows, query.get("show", "")))
    return tuple(with_error(field, errors) for field in found)


def _end(end: datetime) -> str:
    """The first day that is not in the range any more, as the field shows a range's end."""
    return f"{end:%Y-%m-%d}"


def with_error(field: Field, errors: Mapping[str, str]) -> Field:
    if field.name not in errors:
        return field
    return Field(field.name, field.label, field.value, field.choices, field.type, errors[field.name])


def _period_value(query: Mapping[str, str], is_range: bool) -> str:
    return RANGE if is_range else query.get(PERIOD, CURRENT)


def _period_choices(periods: Sequence[Period]) -> list[tuple[str, str]]:
    """The running period, those before it, and a range."""
    *earlier, _running = periods
    found = [(CURRENT, _("This period"))]
    found += [(instant(period.start), _between(period)) for period in reversed(earlier)]
    return [*found, (RANGE, _("A range: the dates"))]


def instant(at: datetime) -> str:
    """The instant as an address has it."""
    return at.isoformat().replace("+00:00", "Z")


def _between(period: Period) -> str:
    year = "" if period.start.year == period.end.year else " Y"
    return f"{instants.text(period.start, year)} \N{EN DASH} {instants.text(period.end, ' Y')}"


def select(name: str, label: str, choices: Iterable[tuple[str, Any]], query: Mapping[str, str]) -> Field:
    """A field with these choices, at what the address says."""
    return _select(name, label, choices, query.get(name, ""))


def _select(name: str, label: str, choices: Iterable[tuple[str, Any]], value: str) -> Field:
    options = [(option, str(text)) for option, text in choices]
    if value not in {option for option, _text in options}:
        options.append((value, value))  # what the address says, shown as it is
    return Field(name, label, value, tuple(Choice(option, text, option == value) for option, text in options))


def subject(name: str, label: str, choices: Sequence[tuple[str, str]], query: Mapping[str, str]) -> Field:
    """A select, or an input where there are too many to choose from."""
    value = query.get(name, "")
    if len(choices) > MOST_CHOICES:
        return Field(name, label, value)
    return _select(name, label, [("", _("All")), *choices], value)


def value_of(group: str, group_by: GroupBy, known: Known) -> str:
    """How the address names a group; empty where it cannot."""
    if group_by is GroupBy.PROJECT:
        return next((one.slug for one in known.projects if str(one.pk) == group), "")
    if group_by is GroupBy.KEY:
        return next((one.prefix for one in known.keys if str(one.pk) == group), "")
    return {"refused": "rejected"}.get(group, group) if group_by is GroupBy.OUTCOME else group
