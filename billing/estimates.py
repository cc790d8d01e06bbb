"""Usage times pricing: what a tenant has used, what that costs so far, and where the period is heading."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from metering import periods, usage
from metering.models import Allowance

from . import accounts, pricing, projection
from .models import Account, PlanVersion
from .running import running


@dataclass(frozen=True, slots=True)
class Statement:
    """A tenant's running period at one instant. Everything that pages and API show of it is read from here."""

    version: PlanVersion
    allowance: Allowance
    period: periods.Period
    before: periods.Period
    as_of: datetime
    sent_to: datetime | None  # Stripe has confirmed every call before it; None where nothing is sent to a meter
    now: datetime
    terms: pricing.Terms
    capabilities: list[usage.Group]
    recent: tuple[usage.Recent, ...] = field(repr=False)
    total: usage.Group
    invoice: pricing.Invoice
    projection: projection.Projection | None
    projected: tuple[pricing.Invoice, pricing.Invoice, pricing.Invoice] | None  # low, likely, high

    @property
    def used(self) -> int:
        return self.total.counts.units

    @property
    def by_day(self) -> list[tuple[datetime, str, usage.Counts]]:
        """Counts of the running period by day (UTC) and capability."""
        found: dict[tuple[datetime, str], usage.Counts] = {}
        for row in self.recent:
            if row.period_start == self.period.start:
                key = (row.day, row.capability)
                found[key] = found.get(key, usage.Counts()) + row.counts
        return [
            (day, capability, counts) for (day, capability), counts in sorted(found.items(), key=lambda one: one[0])
        ]

    @property
    def limit(self) -> int | None:
        """The nearer of included calls and hard limit; None when there is neither."""
        bounds = (self.allowance.included, self.allowance.hard_limit)
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def overage(self) -> int:
        """Calls beyond the included ones."""
        return 0 if self.allowance.included is None else max(0, self.used - self.allowance.included)

    @property
    def is_refusing(self) -> bool:
        """Whether the next call is refused."""
        return self.allowance.admits is not None and self.used >= self.allowance.admits

    @property
    def projected_from(self) -> datetime:
        """From when on the period's end is projected, given enough calls."""
        return self.period.start + timedelta(seconds=-(-self.period.seconds // projection.HIDDEN_SHARE))

    @property
    def included_runs_out_at(self) -> datetime | None:
        """When the included calls end if the days to come go as projected; None unless that is ahead and within the period."""
        included = self.allowance.included
        if self.projection is None or included is None or not self.used < included < self.projection.likely:
            return None
        return self.projection.reaches(included - self.used, now=self.now, end=self.period.end)


def statement(*, account: Account, now: datetime, with_latency: bool = False) -> Statement:
    """The tenant's running period, as counted until now. Latency costs a statement of its own: it is empty unless asked for."""
    allowance = account.tenant.allowance
    (before, period), as_of = usage.last_periods_as_of(allowance=allowance, now=now, count=2)
    billed = running(account=account, period=period)
    terms = billed.terms
    since = periods.day_of(now) - projection.REACHES_BACK
    recent = usage.recent(tenant_id=account.tenant_id, since=since, now=now, period=period, before=before)
    scope = usage.Scope.of_period(account.tenant_id, period)
    found = usage.recent_groups(recent, scope=scope, with_latency=with_latency)
    total = usage.total(found)
    days = _known_days(recent, account=account, since=since, now=now)
    ahead = projection.projected(period=period, used=total.counts.units, days=days, now=now)
    if ahead is not None and allowance.admits is not None:
        ahead = ahead.capped(max(allowance.admits, total.counts.units))
    return Statement(
        version=account.plan_version,
        allowance=allowance,
        period=period,
        before=before,
        as_of=as_of,
        sent_to=billed.sent_to,
        now=now,
        terms=terms,
        capabilities=found,
        recent=tuple(recent),
        total=total,
        invoice=pricing.invoice(terms=terms, quantity=total.counts.units, cap_minor=account.hard_limit_minor),
        projection=ahead,
        projected=None if ahead is None else _priced(terms, ahead, account.hard_limit_minor),
    )


def _known_days(
    recent: Iterable[usage.Recent], *, account: Account, since: datetime, now: datetime
) -> list[projection.Day]:
    """What the projection goes by: the last weeks by day, of this period and those before."""
    found: dict[datetime, usage.Counts] = {}
    for row in recent:
        if row.is_past and row.day >= since:
            found[row.day] = found.get(row.day, usage.Counts()) + row.counts
    return projection.known_days(
        units={day: counts.units for day, counts in found.items()},
        since=account.created_at,
        now=now,
        unknown={day for day, counts in found.items() if counts.refused > counts.units},
    )


def _priced(
    terms: pricing.Terms, ahead: projection.Projection, cap_minor: int | None
) -> tuple[pricing.Invoice, pricing.Invoice, pricing.Invoice]:
    low, likely, high = (
        pricing.invoice(terms=terms, quantity=units, cap_minor=cap_minor)
        for units in (ahead.low, ahead.likely, ahead.high)
    )
    return low, likely, high


def same_span(*, statement: Statement, group_by: usage.GroupBy = usage.GroupBy.CAPABILITY) -> dict[str, usage.Counts]:
    """The last period's counts by group, up to the same place (to the hour) as the running one has reached."""
    if group_by is usage.GroupBy.CAPABILITY:
        in_span = [(row.capability, row.counts) for row in statement.recent if row.is_same_span]
    else:
        before = statement.before
        end = min(before.start + (statement.now - statement.period.start), before.end)
        scope = usage.Scope(statement.allowance.tenant_id, periods.hour_of(before.start), end, before.start)
        in_span = [(name, counts) for _, name, counts in usage.daily(scope, group_by=group_by)]
    found: dict[str, usage.Counts] = {}
    for name, counts in in_span:
        found[name] = found.get(name, usage.Counts()) + counts
    return found


@dataclass(frozen=True, slots=True)
class Month:
    """One past or running billing period of a tenant."""

    period: periods.Period
    capabilities: dict[str, usage.Counts]
    total: usage.Counts
    by_place: dict[str, usage.Counts]  # by capability, the part up to the same place as the running period has reached
    same_day: usage.Counts  # the sum of it
    invoice: pricing.Invoice


def months(*, account: Account, now: datetime, count: int = 13) -> list[Month]:
    """The last `count` billing periods, oldest first, the running one last; priced under the present version.

    The hard limit in money holds for the running period: what was agreed in earlier ones their invoices say.
    """
    wanted = usage.last_periods(allowance=account.tenant.allowance, now=now, count=count)
    current = wanted[-1]
    found = usage.so_far(tenant_id=account.tenant_id, wanted=wanted, reached=now - current.start)
    terms = accounts.pricing_terms(account.plan_version, account.currency)
    result = []
    for period in wanted:
        whole = {name: counts for name, (counts, _) in found[period].items()}
        by_place = whole if period == current else {name: part for name, (_, part) in found[period].items()}
        total = sum(whole.values(), usage.Counts())
        cap_minor = account.hard_limit_minor if period == current else None
        invoice = pricing.invoice(terms=terms, quantity=total.units, cap_minor=cap_minor)
        same_day = sum(by_place.values(), usage.Counts())
        result.append(Month(period, whole, total, by_place, same_day, invoice))
    return result
