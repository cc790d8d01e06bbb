"""The calls page: single calls, found by id, key, project, capability, outcome, status and time. The API answers the same query."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlencode
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.serializers import ValidationError

from billing import calls_api, series
from billing.calls_api import CallsQuery
from billing.models import Account
from billing.running import running
from billing.series_api import asked_of, refused
from metering import call_log, periods, usage
from metering.call_log import Filter, Row
from metering.models import Adjustment, AdjustmentKind, Outcome
from metering.periods import Period

from . import call_words, usage_filters
from .explorer import Counted, Reader, capabilities, first_of
from .overview import FirstCall
from .usage_filters import Field

QUERY = ("id", "from", "to", "capability", "project", "key", "outcome", "status")
SINGLE = {"id"}  # leads to one call, and is no filter


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the list. `id` is the call's, `share` how many calls the row stands for."""

    row: Row
    project: str
    key: str
    prefix: str
    result: str
    is_refused: bool
    is_billed: bool


@dataclass(frozen=True, slots=True)
class Calls:
    """The page. `older` is the query of the next page; `is_short`: there may be more although the page is not full."""

    statement: Counted
    day: str
    fields: tuple[Field, ...]
    errors: tuple[str, ...]
    address: str
    lines: tuple[Line, ...]
    older: str
    is_first: bool
    kept_from: datetime | None
    kept_days: int
    first_call: FirstCall | None


def read(
    *, account: Account, asked: Mapping[str, str], reader: Reader, now: datetime, known: series.Known | None = None
) -> Filter:
    """The filter behind the page's address; raises QueryRefused."""
    try:
        values = asked_of(CallsQuery, {name: value for name, value in asked.items() if name not in SINGLE})
    except ValidationError as error:
        raise refused(error) from None
    return calls_api.filter_of(account=account, asked=values, now=now, project_ids=reader.project_ids, known=known)


def calls(*, account: Account, asked: Mapping[str, str], cursor: str, reader: Reader, now: datetime) -> Calls:
    """A page of the calls that fit this query; one that has no answer says why."""
    known = series.known(account=account, now=now, project_ids=reader.project_ids)
    errors: dict[str, str] = {}
    page, before = call_log.Page((), None), None
    wanted = Filter(account.tenant_id, known.periods[-1].start, known.periods[-1].end, project_ids=reader.project_ids)
    if "id" in asked:  # a call that was found has a page of its own
        errors["id"] = _("The call log has no call with this id, or not any more.")
    try:
        wanted = read(account=account, asked=asked, reader=reader, now=now, known=known)
        before = calls_api.place_of(cursor) if cursor else None
        page = page if errors else call_log.page(wanted, before=before)
    except series.QueryRefused as error:
        errors |= error.errors
    names = capabilities(
        usage.Scope(wanted.tenant_id, periods.hour_of(wanted.start), wanted.end, project_ids=wanted.project_ids)
    )
    address = urlencode(asked)
    older = urlencode({**asked, "cursor": calls_api.cursor_of(page.after)}) if page.after else ""
    sent_to = running(account=account, period=known.periods[-1]).sent_to
    return Calls(
        statement=Counted(Period(wanted.start, wanted.end), known.as_of, sent_to),
        day="",
        fields=_fields(asked, wanted, known, names, errors),
        errors=tuple(errors.values()),
        address=address,
        lines=tuple(_line(row, known) for row in page.rows),
        older=older,
        is_first=before is None,
        kept_from=wanted.kept_from,
        kept_days=settings.CALL_LOG_DAYS,
        first_call=None if asked or names or page.rows else first_of(account, reader),
    )


def _line(row: Row, known: series.Known) -> Line:
    project = next((one.name for one in known.projects if one.pk == row.project_id), "")
    key = next((one for one in known.keys if one.pk == row.key_id), None)
    deleted = _("deleted (%(number)s)")
    return Line(
        row,
        project or deleted % {"number": row.project_id},
        key.name if key else deleted % {"number": row.key_id},
        str(key) if key else "",
        call_words.result(row),
        row.outcome == Outcome.REFUSED,
        row.outcome == Outcome.BILLABLE,
    )


def _fields(
    asked: Mapping[str, str], wanted: Filter, known: series.Known, names: Iterable[str], errors: Mapping[str, str]
) -> tuple[Field, ...]:
    every = ("", _("All"))
    projects = [(one.slug, one.name) for one in known.projects]
    keys = [(one.prefix, f"{one.name} ({one})") for one in known.keys]
    found = (
        Field("id", _("Call id"), asked.get("id", "")),
        Field("from", _("From (UTC)"), asked.get("from", f"{wanted.start:%Y-%m-%d}"), type="date"),
        Field("to", _("To, not included (UTC)"), asked.get("to", f"{wanted.end:%Y-%m-%d}"), type="date"),
        usage_filters.select("capability", _("Capability"), [every, *((name, name) for name in sorted(names))], asked),
        usage_filters.subject("project", _("Project"), projects, asked),
        usage_filters.subject("key", _("API key"), keys, asked),
        usage_filters.select("outcome", _("Outcome"), usage_filters.OUTCOMES, asked),
        Field("status", _("Status, such as 404 or 5xx"), asked.get("status", "")),
    )
    return tuple(usage_filters.with_error(field, errors) for field in found)


def asked_by(parameters: Mapping[str, str]) -> dict[str, str]:
    """The query, without what is empty."""
    return {name: parameters[name].strip() for name in QUERY if parameters.get(name, "").strip()}


def single(asked: Mapping[str, str]) -> UUID | None:
    """The id that is asked for, where it can be one."""
    try:
        return UUID(asked.get("id", ""))
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class CallPage:
    """One call: all that is known of it, and what it does to the bill."""

    statement: Counted
    day: str
    line: Line
    admission: str
    billing: str
    units: int
    corrections: tuple[Adjustment, ...]
    period: Period
    is_running: bool
    period_units: int
    counts: bool  # among the period's units
    kept_days: int

    @property
    def period_address(self) -> str:
        return quote(usage_filters.instant(self.period.start))


def call_page(*, account: Account, call_id: UUID, reader: Reader, now: datetime) -> CallPage | None:
    """The call with this id, as this reader may see it; None without one."""
    row = call_log.find(tenant_id=account.tenant_id, call_id=call_id, project_ids=reader.project_ids)
    if row is None:
        return None
    known = series.known(account=account, now=now, project_ids=reader.project_ids)
    period = known.period_at(row.occurred_at) or usage.current_period(
        allowance=account.tenant.allowance, now=row.occurred_at
    )
    corrections = call_log.corrections(tenant_id=account.tenant_id, call_id=call_id)
    units = row.units + sum(one.units for one in corrections)
    used = usage.by_period(tenant_id=account.tenant_id, wanted=[period])[period]
    is_running = period == known.periods[-1]
    return CallPage(
        statement=Counted(period, known.as_of, running(account=account, period=period).sent_to if is_running else None),
        day="",
        line=_line(row, known),
        admission=call_words.admission(row),
        billing=call_words.billing(row, is_voided=any(one.kind == AdjustmentKind.VOID for one in corrections)),
        units=units,
        corrections=tuple(corrections),
        period=period,
        is_running=is_running,
        period_units=sum(counts.units for counts in used.values()),
        counts=units > 0,
        kept_days=settings.CALL_LOG_DAYS,
    )
