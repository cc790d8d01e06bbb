"""The usage page: what was used over any range, filtered, grouped, as a chart and as a table. The API answers the same query."""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.core.cache import caches
from django.db.models import Q
from django.utils.translation import gettext as _
from rest_framework.serializers import ValidationError

from billing import series
from billing.models import Account
from billing.running import running
from billing.series_api import SeriesQuery, asked_of, refused
from metering import periods, usage
from metering.models import Quota
from metering.periods import Period
from metering.usage import GroupBy

from . import breakdown, charts, usage_filters
from .daily import Figure
from .overview import FirstCall, first_call
from .usage_figure import Sheet, Shown, buckets, figure
from .usage_numbers import numbers, title
from .usage_table import Table, table

MINUTE = 60


@dataclass(frozen=True, slots=True)
class Counted:
    """The range on the page, and up to when it is counted."""

    period: Period
    as_of: datetime
    sent_to: datetime | None


@dataclass(frozen=True, slots=True)
class Found:
    """The answer: its chart, its table, and the groups with errors and latency."""

    figure: Figure
    table: Table
    breakdown: breakdown.Breakdown | None
    is_free: bool  # asked for money, and there is none


@dataclass(frozen=True, slots=True)
class Explorer:
    """The page. Without `found` there is nothing to show, and `first_call` says whether there ever was."""

    statement: Counted
    day: str
    fields: tuple[usage_filters.Field, ...]
    errors: tuple[str, ...]
    address: str  # the query string that asks the same
    is_live: bool
    shows_money: bool
    compares: bool  # with the period before
    command: str
    found: Found | None
    first_call: FirstCall | None


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks: restricted members see their projects only, and not every role sees money."""

    project_ids: frozenset[int] | None = None
    may_see_money: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """The query as the page was asked it, by whom it is named, and when."""

    account: Account
    query: series.Query
    asked: Mapping[str, str]
    known: series.Known
    now: datetime

    @property
    def group_by(self) -> GroupBy:
        return self.query.group_by or GroupBy.CAPABILITY


def read(
    *,
    account: Account,
    asked: Mapping[str, str],
    reader: Reader,
    now: datetime,
    is_export: bool = False,
    known: series.Known | None = None,
) -> series.Query:
    """The query behind the page's address; raises QueryRefused. An export may reach over 13 months by the hour, too."""
    try:
        values = asked_of(SeriesQuery, asked)
    except ValidationError as error:
        raise refused(error) from None
    if values.get("show") == "money" and not reader.may_see_money:
        raise series.QueryRefused(show=_("Your role does not see amounts."))
    longest = dict.fromkeys(usage.Granularity, series.THIRTEEN_MONTHS) if is_export else series.LONGEST_RANGE
    return series.query(
        account=account, asked=values, now=now, project_ids=reader.project_ids, longest=longest, known=known
    )


def explorer(*, account: Account, asked: Mapping[str, str], reader: Reader, now: datetime, page: int = 1) -> Explorer:
    """The page for this query; one that has no answer says why, beside the field."""
    known = series.known(account=account, now=now, project_ids=reader.project_ids)
    errors: Mapping[str, str] = {}
    try:
        query = read(account=account, asked=asked, reader=reader, now=now, known=known)
    except series.QueryRefused as error:
        errors = error.errors
        query = series.query(
            account=account, asked=usage_filters.USUAL, now=now, project_ids=reader.project_ids, known=known
        )
    sent_to = running(account=account, period=known.periods[-1]).sent_to if query.period == known.periods[-1] else None
    look = Look(account, query, asked, known, now)
    points, groups = ([], []) if errors else _read(look)
    span = query.period or Period(query.scope.start, query.scope.end)
    is_live = now in span and not errors
    address = usage_filters.canonical(asked)
    return Explorer(
        statement=Counted(span, known.as_of, sent_to),
        day=_day(span, now) if query.period and now in span else "",
        fields=usage_filters.fields(
            query=asked,
            reach=(span.start, span.end),
            capabilities=_capabilities(query, groups),
            known=known,
            may_see_money=reader.may_see_money,
            errors=errors,
        ),
        errors=tuple(errors.values()),
        address=address,
        is_live=is_live,
        shows_money=query.shows_money,
        compares=query.period is not None,
        command=command(asked),
        found=_found(look, points, groups, page) if groups else None,
        first_call=None if errors or groups else first_of(account, reader),
    )


def _day(span: Period, now: datetime) -> str:
    return _("day %(day)d of %(days)d") % {"day": (now - span.start).days + 1, "days": span.days}


def first_of(account: Account, reader: Reader) -> FirstCall | None:
    """How to make the first call, as long as none was made; it names a key, so only who sees all projects is told."""
    return None if reader.project_ids is not None or was_ever_used(account) else first_call(account.tenant)


def was_ever_used(account: Account) -> bool:
    quotas = Quota.objects.filter(tenant=account.tenant).order_by()
    return quotas.filter(Q(used__gt=0) | Q(failed__gt=0) | Q(refused__gt=0)).exists()


def _capabilities(query: series.Query, groups: list[usage.Group]) -> set[str]:
    """The names to choose from: of what was used in the range."""
    used = {group.name for group in groups} if query.group_by is GroupBy.CAPABILITY else set()
    if used and query.scope.capability is None:
        return used
    return used | capabilities(
        replace(query.scope, capability=None, project_id=None, key_id=None, outcome=None, period_start=None)
    )


def capabilities(scope: usage.Scope) -> set[str]:
    """The names of what was used, asked for once a minute: a name is rarely new."""
    readers = "all" if scope.project_ids is None else sorted(scope.project_ids)
    key = hashlib.sha256(f"{scope.tenant_id} {scope.start} {scope.end} {readers}".encode()).hexdigest()
    return caches["process"].get_or_set(f"capabilities-{key}", lambda: usage.capabilities(scope), MINUTE) or set()


def command(asked: Mapping[str, str]) -> str:
    """The same query of the API, for a shell; the key is for the reader to fill in."""
    query = urlencode({name: value for name, value in asked.items() if (name, value) != ("show", "calls")})
    address = f"{settings.PUBLIC_URL}/api/v1/usage/series?{query}"
    return f'curl -H "Authorization: Bearer mh_live_..." {shlex.quote(address)}'


def _read(look: Look) -> tuple[list[series.Point], list[usage.Group]]:
    """The points as the API has them, and the groups that they add up to."""
    query = look.query
    points, groups = usage.series_and_groups(query.scope, granularity=query.granularity, group_by=look.group_by)
    found = [group for group in groups if group.counts != usage.Counts()]
    return series.priced(points, account=look.account, asked=query, now=look.now), found


def _found(look: Look, points: list[series.Point], groups: list[usage.Group], page: int) -> Found:
    query, group_by = look.query, look.group_by
    labels = breakdown.labels_of(look.known.projects, look.known.keys, group_by)
    found = numbers(points, query)
    sheet = Sheet(
        found, _starts(look), query.granularity, charts.series_of(found.columns),
        lambda group: breakdown.label_of(group, labels, group_by).name,
        Shown(title(query), look.account.currency if query.shows_money else ""),
    )  # fmt: skip
    shows_all = not query.shows_money and query.scope.outcome is None and group_by is not GroupBy.OUTCOME
    rows = None
    if not query.shows_money:
        rows = breakdown.breakdown(
            groups=groups, before=_before(look), group_by=group_by, known=labels, series=sheet.series
        )
    return Found(
        figure(sheet),
        table(sheet, shows_all=shows_all, page=page),
        rows and _linked(rows, look),
        query.shows_money and not found.total,
    )


def _starts(look: Look) -> list[datetime]:
    """The buckets of the range as far as it has come."""
    scope = look.query.scope
    end = min(scope.end, max(periods.hour_of(look.now), scope.start) + timedelta(hours=1))
    return buckets(start=scope.start, end=end, granularity=look.query.granularity)


def _before(look: Look) -> dict[str, usage.Counts]:
    """The same of the period before, up to the same place where this one still runs; nothing for a range."""
    query = look.query
    if query.period is None:
        return {}
    at = query.period.start - timedelta(microseconds=1)
    before = look.known.period_at(at) or usage.current_period(allowance=look.account.tenant.allowance, now=at)
    end = min(before.start + (look.now - query.period.start), before.end)
    scope = replace(query.scope, start=periods.hour_of(before.start), end=end, period_start=before.start)
    groups = usage.groups(scope, group_by=look.group_by, with_latency=False)
    return {group.name: group.counts for group in groups}


NEXT = {GroupBy.CAPABILITY: GroupBy.PROJECT, GroupBy.PROJECT: GroupBy.KEY, GroupBy.KEY: GroupBy.CAPABILITY}


def _linked(found: breakdown.Breakdown, look: Look) -> breakdown.Breakdown:
    """Each row leads to what is in it."""
    rows = []
    for row in found.rows:
        value = usage_filters.value_of(row.group, look.group_by, look.known)
        following = NEXT.get(look.group_by, GroupBy.CAPABILITY).value
        narrower = {**look.asked, look.group_by.value: value, "group_by": following}
        rows.append(replace(row, address=usage_filters.canonical(narrower) if value else ""))
    return replace(found, rows=tuple(rows))
