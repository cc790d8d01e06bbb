"""Usage over time as the API, the usage page and its CSV ask for it: one reading of what is asked, one source of what is answered.

Money. Calls are priced in the order in which they were made: the included ones cost nothing, each one beyond them has the price of
its step. So what some calls of a period cost is their part of that period's overage (`explain.py`), exact and not rounded; parts
add up. There is no such number for failed and refused calls, for an hour, or for a range that begins or ends within a period.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils.translation import gettext as _

from metering import periods, usage
from metering.models import Outcome
from metering.periods import Period
from metering.usage import Granularity, GroupBy
from tenants.models import ApiKey, Project

from . import explain
from .errors import BillingError
from .models import Account

LONGEST_RANGE = {
    Granularity.HOUR: timedelta(days=62),
    Granularity.DAY: timedelta(days=400),
    Granularity.MONTH: timedelta(days=800),
}
MONTHS = 13
THIRTEEN_MONTHS = timedelta(days=400)
PRICED_KINDS = frozenset({"overage", "write_off"})
REJECTED = "rejected"  # what refused calls are called in answers
OUTCOMES = {"billable": Outcome.BILLABLE, "failed": Outcome.FAILED, REJECTED: Outcome.REFUSED}
YEARS = range(1971, 9000)
KEY_PREFIX = "mh_live_"
NOTHING = Decimal(0)


class QueryRefused(BillingError):
    """What is asked has no answer; `errors` says why, by parameter."""

    def __init__(self, **errors: str) -> None:
        super().__init__(" ".join(errors.values()))
        self.errors = {name.rstrip("_"): text for name, text in errors.items()}


@dataclass(frozen=True, slots=True)
class Known:
    """What a reader may choose from: the last periods, oldest first, and the keys and their projects. `as_of`: see `usage`."""

    as_of: datetime
    periods: tuple[Period, ...]
    projects: tuple[Project, ...]
    keys: tuple[ApiKey, ...]

    def period_at(self, instant: datetime) -> Period | None:
        return next((period for period in self.periods if instant in period), None)


def known(*, account: Account, now: datetime, project_ids: frozenset[int] | None = None) -> Known:
    """Thirteen periods, and the keys and their projects that this reader may see."""
    keys = ApiKey.objects.filter(tenant_id=account.tenant_id).select_related("project")
    if project_ids is not None:
        keys = keys.filter(project__in=project_ids)
    found = tuple(keys)
    projects = {key.project_id: key.project for key in found}
    last, as_of = usage.last_periods_as_of(allowance=account.tenant.allowance, now=now, count=MONTHS)
    return Known(as_of, tuple(last), tuple(sorted(projects.values(), key=lambda project: project.name)), found)


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked, checked. `period`: the range is that whole billing period."""

    scope: usage.Scope
    granularity: Granularity
    group_by: GroupBy | None
    period: Period | None
    shows_money: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """One bucket and group. `exact_minor` is what its calls cost, None where money was not asked for."""

    start: datetime
    group: str
    counts: usage.Counts
    latency: usage.Latency
    exact_minor: Decimal | None = None


def query(
    *,
    account: Account,
    asked: Mapping[str, Any],
    now: datetime,
    project_ids: frozenset[int] | None = None,
    longest: Mapping[Granularity, timedelta] = LONGEST_RANGE,
    known: Known | None = None,
) -> Query:
    """What these parameters ask of the account, by default the running period by day; raises QueryRefused.

    What is `known` already is not read again.
    """
    granularity = Granularity(asked.get("granularity") or Granularity.DAY)
    group_by = GroupBy(asked["group_by"]) if asked.get("group_by") else None
    period, start, end = reach(account=account, asked=asked, now=now, known=known)
    if start >= end:
        raise QueryRefused(to=_("It must be later than 'from'."))
    most = longest[granularity]
    if period is None and end - start > most:
        days = {"granularity": granularity.value, "days": most.days}
        raise QueryRefused(to=_("By %(granularity)s at most %(days)d days are answered.") % days)
    outcome = OUTCOMES[asked["outcome"]] if asked.get("outcome") else None
    subjects = subject_ids(account=account, asked=asked, project_ids=project_ids, known=known)
    period_start = period.start if period else None
    scope = usage.Scope(
        account.tenant_id, start, end, period_start, outcome=outcome, project_ids=project_ids, **subjects
    )
    found = Query(scope, granularity, group_by, period, asked.get("show") == "money")
    _check_money(found)
    return found


def reach(
    *, account: Account, asked: Mapping[str, Any], now: datetime, known: Known | None = None
) -> tuple[Period | None, datetime, datetime]:
    """The whole period that is asked for, None for a range, and the hours; raises QueryRefused."""
    start, end, within = asked.get("from"), asked.get("to"), asked.get("period")
    if within is not None and (start is not None or end is not None):
        raise QueryRefused(period=_("Ask for a period or for a range, not for both."))
    if within is not None and within.year not in YEARS:
        raise QueryRefused(period=_("The year is out of range."))
    at = within or now
    period = known.period_at(at) if known else None
    period = period or usage.current_period(allowance=account.tenant.allowance, now=at)
    if start is None and end is None:
        return period, periods.hour_of(period.start), period.end
    return None, periods.hour_of(start or period.start), periods.hour_from(end or period.end)


def subject_ids(
    *,
    account: Account,
    asked: Mapping[str, Any],
    project_ids: frozenset[int] | None = None,
    known: Known | None = None,
) -> dict[str, Any]:
    """What the usage is narrowed to; raises QueryRefused for what is not the tenant's, or not shown to this reader."""
    found: dict[str, Any] = {"capability": asked.get("capability") or None}
    if asked.get("project"):
        project = _project(account, asked["project"], known)
        if project is None or (project_ids is not None and project.pk not in project_ids):
            raise QueryRefused(project=_("There is no such project."))
        found["project_id"] = project.pk
    if asked.get("key"):
        key = _key(account, asked["key"].removeprefix(KEY_PREFIX), known)
        if key is None or (project_ids is not None and key.project_id not in project_ids):
            raise QueryRefused(key=_("There is no such key."))
        found["key_id"] = key.pk
    return found


def _project(account: Account, slug: str, known: Known | None) -> Project | None:
    found = next((one for one in known.projects if one.slug == slug), None) if known else None
    return found or Project.objects.filter(tenant_id=account.tenant_id, slug=slug).first()


def _key(account: Account, public_id: str, known: Known | None) -> ApiKey | None:
    found = next((one for one in known.keys if one.public_id == public_id), None) if known else None
    return found or ApiKey.objects.filter(tenant_id=account.tenant_id, public_id=public_id).first()


def _check_money(asked: Query) -> None:
    if not asked.shows_money:
        return
    if asked.period is None:
        raise QueryRefused(
            show=_("Which calls of a range were included depends on the whole period: money is told for whole periods.")
        )
    if asked.granularity is Granularity.HOUR:
        raise QueryRefused(show=_("Money is told by day or month: within an hour the order of the calls is not kept."))
    if asked.scope.outcome in {Outcome.FAILED, Outcome.REFUSED} or asked.group_by is GroupBy.OUTCOME:
        raise QueryRefused(show=_("Failed and refused calls cost nothing: there is no money by outcome."))


def points(*, account: Account, asked: Query, now: datetime, with_latency: bool = True) -> list[Point]:
    """The answer, oldest first; buckets without usage have no point."""
    found = usage.series(asked.scope, granularity=asked.granularity, group_by=asked.group_by, with_latency=with_latency)
    return priced(found, account=account, asked=asked, now=now)


def priced(found: Iterable[usage.Point], *, account: Account, asked: Query, now: datetime) -> list[Point]:
    """The points with what their calls cost, where money was asked for."""
    if not asked.shows_money:
        return [Point(point.start, point.group, point.counts, point.latency) for point in found]
    amounts = _amounts(account, asked, now)
    return [
        Point(point.start, point.group, point.counts, point.latency, amounts.get((point.start, point.group), NOTHING))
        for point in found
    ]


def _amounts(account: Account, asked: Query, now: datetime) -> dict[tuple[datetime, str], Decimal]:
    """What the calls of each bucket and group cost, to the last digit."""
    if asked.period is None:
        return {}
    basis = explain.basis_of(account=account, period=asked.period, now=now)
    cells = explain.cells_of(tenant_id=account.tenant_id, period=asked.period)
    told = explain.explained(terms=basis.terms, cells=cells, cap_minor=basis.cap_minor)
    found: dict[tuple[datetime, str], Decimal] = {}
    for part in (part for line in told.lines if line.kind in PRICED_KINDS for part in line.parts):
        if _is_inside(asked.scope, part):
            start = periods.month_of(part.day) if asked.granularity is Granularity.MONTH else part.day
            key = start, _group(asked.group_by, part)
            found[key] = found.get(key, NOTHING) + part.exact_minor
    return found


def _is_inside(scope: usage.Scope, part: explain.Part) -> bool:
    return (
        scope.capability in {None, part.capability}
        and scope.project_id in {None, part.project_id}
        and scope.key_id in {None, part.key_id}
        and (scope.project_ids is None or part.project_id in scope.project_ids)
    )


def _group(group_by: GroupBy | None, part: explain.Part) -> str:
    groups = {
        GroupBy.CAPABILITY: part.capability, GroupBy.PROJECT: str(part.project_id), GroupBy.KEY: str(part.key_id),
    }  # fmt: skip
    return groups.get(group_by, "") if group_by else ""


def months(asked: Query) -> Iterator[Query]:
    """The same query by calendar month, for answers that are sent as they are read; buckets are never cut."""
    if asked.shows_money:
        yield asked
        return
    start = asked.scope.start
    while start < asked.scope.end:
        end = min(periods.months_after(periods.month_of(start), 1), asked.scope.end)
        yield replace(asked, scope=replace(asked.scope, start=start, end=end))
        start = end
