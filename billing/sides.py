"""The sides of a reconciliation, read one after the other: Stripe first, then our reports, the ledger last.

So what happens meanwhile is in the later sides only, and looks like what it is: something on its way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.db.models import Sum

from metering import invariants, periods, usage
from metering.periods import Period

from . import charged, reporting, stops, stripe_api
from .drifts import LOST, ON_ITS_WAY, TAKEN, Ledger, Pool, Report, Sides
from .models import Account, BilledPeriod, Charge, StripePrices, UsageReport
from .stripe_api import InvoiceLine

MINUTE = timedelta(minutes=1)
CLOCKS_DIFFER = timedelta(minutes=5)
LONGEST_PERIOD = timedelta(days=32)
MOST_PERIODS = 40
SETTLES = (Charge.Kind.LATE, Charge.Kind.CORRECTION)


@dataclass(frozen=True, slots=True)
class Place:
    """A meter and a period of one account."""

    meter_id: str
    period: Period


@dataclass(frozen=True, slots=True)
class AtStripe:
    """What Stripe said of one account: its summaries by place, and the lines of its invoices."""

    spans: dict[Place, Period]  # which whole minutes the summary is of
    totals: dict[Place, int]
    lines: list[InvoiceLine]  # for metered prices
    every_line: list[InvoiceLine]

    def invoiced(self, period: Period) -> tuple[int | None, datetime | None]:
        """Units of the period's final invoice, and since when it is final."""
        own = [line for line in self.lines if line.start in period]
        if not own or any(line.final_at is None for line in own):
            return None, None
        return sum(line.quantity for line in own), max(line.final_at for line in own if line.final_at)


def read(*, account: Account, now: datetime, settling: timedelta, since: datetime) -> Iterator[tuple[Place, Sides]]:
    """Every period of the account that ended after `since` and whose calls Stripe prices. Raises StripeError."""
    at_stripe = _ask(account, now, since)
    reports = list(UsageReport.objects.filter(account=account, stamped_at__gte=since - LONGEST_PERIOD))
    billed = BilledPeriod.objects.filter(account=account)
    without = billed.filter(state=BilledPeriod.State.FINAL, invoice_id="", is_free=False).exclude(meter_id="")
    ours = Ours(
        account, now, settling, reports, _unlogged(account), _held_from(account, now, settling),
        stopped=set(billed.exclude(stopped_because="").values_list("start", flat=True)),
        never_invoiced=dict(without.values_list("start", "final_at")),
    )  # fmt: skip
    rows = {row.start: row for row in billed.filter(end__gt=since)}
    rated = [
        Place("", Period(row.start, row.end))
        for row in rows.values()
        if not row.meter_id and row.billed_units is not None
    ]
    places = [*at_stripe.totals, *rated]
    counted = usage.by_period(tenant_id=account.tenant_id, wanted=[place.period for place in places])
    for place in places:
        units = sum(counts.units for counts in counted[place.period].values())
        row = rows.get(place.period.start)
        sides = (
            _sides(place, at_stripe, ours, units)
            if place.meter_id
            else _rated(place, rows[place.period.start], ours, units)
        )
        own = charged.own_lines(period=row, lines=at_stripe.every_line, before=now - settling) if row else ()
        yield place, replace(sides, own_lines=own)


def _sides(place: Place, at_stripe: AtStripe, ours: "Ours", units: int) -> Sides:
    period = place.period
    own = [one for one in ours.reports if one.meter_id == place.meter_id and one.window_start in period]
    invoiced, final_at = at_stripe.invoiced(period)
    if invoiced is None and period.start in ours.never_invoiced:
        invoiced, final_at = 0, ours.never_invoiced[period.start]
    span = at_stripe.spans[place]
    elsewhere = sum(one.quantity for one in own if _seen_by_the_next(one, span))
    here = [one for one in own if not _seen_by_the_next(one, span)]
    sides = Sides(
        period, Ledger(units, unlogged=ours.unlogged.get(period.start, 0)),
        (*_reports(here), Report(elsewhere, UsageReport.State.CONFIRMED, period.start)), at_stripe.totals[place] + elsewhere,
        rejected=_rejected(ours.account, period, own), foreign=_reports(_foreign(place, span, ours.reports)),
        invoiced=invoiced, written_off=_written_off(ours.account, period),
    )  # fmt: skip
    if not sides.missing:
        return sides
    ledger = _pooled(sides.ledger, period, ours, final_at)
    too_late = sum(one.quantity for one in own if one.state == UsageReport.State.TOO_LATE)
    return replace(sides, ledger=replace(ledger, late=Pool(ledger.late.added + too_late, ledger.late.removed)))


def _rated(place: Place, row: BilledPeriod, ours: "Ours", units: int) -> Sides:
    """A final period whose calls are rated here: what it was billed for stands where the meter's reports would."""
    billed = Report(row.billed_units or 0, UsageReport.State.CONFIRMED, place.period.start)
    sides = Sides(
        place.period, Ledger(units, unlogged=ours.unlogged.get(row.start, 0)), (billed,), billed.quantity,
        invoiced=billed.quantity, written_off=_written_off(ours.account, place.period),
    )  # fmt: skip
    return replace(sides, ledger=_pooled(sides.ledger, place.period, ours, row.final_at)) if sides.missing else sides


@dataclass(frozen=True, slots=True)
class Ours:
    """What is read once for an account."""

    account: Account
    now: datetime
    settling: timedelta
    reports: list[UsageReport]
    unlogged: dict[datetime, int]
    held_from: datetime | None
    stopped: set[datetime]  # starts of periods that a person has to decide about
    never_invoiced: dict[datetime, datetime | None]  # starts of periods whose subscription ended without an invoice


# -- Stripe --------------------------------------------------------------------------------------------------------------
def _ask(account: Account, now: datetime, since: datetime) -> AtStripe:
    """Raises StripeError."""
    customer_id = account.customer_id or ""
    metered = set(StripePrices.objects.exclude(usage_price_id="").values_list("usage_price_id", flat=True))
    every_line = stripe_api.invoice_lines(customer_id=customer_id, since=since)
    lines = [line for line in every_line if line.price_id in metered]
    spans = _spans(_places(account, lines, now, since))
    totals = {
        place: stripe_api.meter_total(
            meter_id=place.meter_id, customer_id=customer_id, start=span.start, end=span.end
        )
        for place, span in spans.items()
    }  # fmt: skip
    return AtStripe(spans, totals, lines, every_line)


def _places(account: Account, lines: Iterable[InvoiceLine], now: datetime, since: datetime) -> list[Place]:
    """Periods that are billed by a meter, those among them that our own rows have forgotten."""
    rows = BilledPeriod.objects.filter(account=account, end__gt=since).exclude(meter_id="").order_by("start")
    found = [Place(row.meter_id, Period(row.start, row.end)) for row in rows]
    reports = UsageReport.objects.filter(account=account, window_start__gte=since)
    marks = [(meter_id, at) for meter_id, at in reports.values_list("meter_id", "window_start").distinct()]
    prices = {row.usage_price_id: row.meter_id for row in StripePrices.objects.exclude(usage_price_id="")}
    marks += [(prices[line.price_id], line.start) for line in lines if line.start >= since]
    present = StripePrices.objects.filter(version_id=account.plan_version_id).exclude(usage_price_id="").first()
    if account.subscription_id and present is not None:
        marks.append((present.meter_id, now))
    forgotten = [mark for mark in marks if not any(mark[1] in place.period for place in found)]
    if forgotten:
        every = usage.last_periods(allowance=account.tenant.allowance, now=now, count=MOST_PERIODS)
        made = {Place(meter_id, period) for meter_id, at in forgotten for period in every if at in period}
        found += sorted(made, key=lambda place: place.period)
    return found


def _spans(places: list[Place]) -> dict[Place, Period]:
    """The periods in whole minutes, as summaries are asked for. The minute in which one follows another is the later one's."""
    begun = {(place.meter_id, _minute(place.period.start)) for place in places}
    spans = {}
    for place in places:
        end = _minute(place.period.end)
        is_followed = (place.meter_id, end) in begun
        spans[place] = Period(
            _minute(place.period.start), end if is_followed or end == place.period.end else end + MINUTE
        )
    return {place: span for place, span in spans.items() if span.start < span.end}


def _minute(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)


# -- Our reports ---------------------------------------------------------------------------------------------------------
def _reports(rows: Iterable[UsageReport]) -> tuple[Report, ...]:
    return tuple(Report(row.quantity, row.state, _touched_at(row)) for row in rows)


def _touched_at(row: UsageReport) -> datetime | None:
    return max((at for at in (row.attempted_at, row.delivered_at) if at is not None), default=None)


def _seen_by_the_next(row: UsageReport, span: Period) -> bool:
    """Whether the report's minute is in the following period's summary."""
    return row.state in TAKEN and row.stamped_at >= span.end


def _foreign(place: Place, span: Period, reports: Iterable[UsageReport]) -> list[UsageReport]:
    """Reports of other periods that are in this one's summary, because their minute is."""
    return [
        one for one in reports
        if one.meter_id == place.meter_id and one.window_start not in place.period and one.stamped_at in span
    ]  # fmt: skip


def _rejected(account: Account, period: Period, rows: Iterable[UsageReport]) -> int:
    """Units that Stripe rejected and no other revision of their window carries."""
    windows: dict[tuple[datetime, datetime], list[UsageReport]] = {}
    for row in rows:
        windows.setdefault((row.window_start, row.window_end), []).append(row)
    lost = 0
    for (start, end), revisions in windows.items():
        rejected = sum(row.quantity for row in revisions if row.state in LOST)
        if rejected:
            carried = sum(row.quantity for row in revisions if row.state in ON_ITS_WAY)
            missing = _window(account, period, start, end) - carried
            lost += min(missing, rejected) if missing > 0 else max(missing, min(rejected, 0))
    return lost


def _window(account: Account, period: Period, start: datetime, end: datetime) -> int:
    return usage.units_between(tenant_id=account.tenant_id, period_start=period.start, start=start, end=end)


def _written_off(account: Account, period: Period) -> int:
    """Units that came or went after the final invoice, and are written off or charged otherwise, by name."""
    found = Charge.objects.filter(account=account, period__start=period.start, kind__in=SETTLES)
    return int(found.aggregate(units=Sum("units"))["units"] or 0)


def _held_from(account: Account, now: datetime, settling: timedelta) -> datetime | None:
    """Calls from this instant on are not reported for the time being."""
    stopped_at = stops.stopped_at(account.pk)
    found = [reporting.held_from(account=account, now=now)]
    found.append(periods.hour_of(stopped_at - settling) if stopped_at else None)
    return min((instant for instant in found if instant is not None), default=None)


# -- The ledger ----------------------------------------------------------------------------------------------------------
UNLOGGED = """
WITH log AS (
    SELECT period_start, date_trunc('hour', occurred_at, 'UTC') AS hour, sum(units) AS units FROM (
        SELECT q.period_start, c.occurred_at, c.units FROM metering_call c
        LEFT JOIN metering_quota q ON q.tenant_id = c.tenant_id AND c.occurred_at >= q.period_start AND c.occurred_at < q.period_end
        WHERE c.tenant_id = %(tenant)s AND c.occurred_at >= %(since)s
        UNION ALL
        SELECT period_start, occurred_at, units FROM metering_adjustment WHERE tenant_id = %(tenant)s AND occurred_at >= %(since)s
    ) AS ledger GROUP BY 1, 2
), hours AS (
    SELECT period_start, hour, sum(units) AS units FROM metering_usage_hour
    WHERE tenant_id = %(tenant)s AND hour >= %(since)s GROUP BY 1, 2
)
SELECT period_start, sum(coalesce(h.units, 0) - coalesce(l.units, 0)) FROM log l FULL JOIN hours h USING (period_start, hour)
WHERE coalesce(h.units, 0) <> coalesce(l.units, 0) GROUP BY 1
"""
POOLS = """
SELECT coalesce(sum(greatest(units, 0)) FILTER (WHERE is_held), 0), coalesce(sum(greatest(-units, 0)) FILTER (WHERE is_held), 0),
       coalesce(sum(greatest(units, 0)) FILTER (WHERE is_young), 0), coalesce(sum(greatest(-units, 0)) FILTER (WHERE is_young), 0),
       coalesce(sum(greatest(units, 0)) FILTER (WHERE is_late), 0), coalesce(sum(greatest(-units, 0)) FILTER (WHERE is_late), 0),
       coalesce(sum(greatest(-units, 0)), 0)
FROM (
    SELECT units, coalesce(occurred_at >= %(held_from)s, false) AS is_held,
           NOT coalesce(occurred_at >= %(held_from)s, false)
           AND (occurred_at >= %(due)s OR (recorded_at > %(settled)s AND recorded_at <= %(until)s)) AS is_young,
           coalesce(recorded_at > %(final_at)s AND recorded_at <= %(until)s, false) AS is_late
    FROM (
        SELECT occurred_at, recorded_at, units FROM metering_call WHERE tenant_id = %(tenant)s
            AND occurred_at >= %(period)s AND occurred_at < %(end)s AND units <> 0
        UNION ALL
        SELECT occurred_at, created_at, units FROM metering_adjustment
        WHERE tenant_id = %(tenant)s AND period_start = %(period)s
    ) AS ledger
) AS judged
"""


def _unlogged(account: Account) -> dict[datetime, int]:
    """By period: units of the usage hours that its call log and corrections do not have, as far back as the log is kept."""
    since = invariants.kept_since()
    if since is None:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(UNLOGGED, {"tenant": account.tenant_id, "since": since})
        return {start: int(units) for start, units in cursor.fetchall()}


def _pooled(ledger: Ledger, period: Period, ours: Ours, final_at: datetime | None) -> Ledger:
    """The ledger with what of it need not be at Stripe. An hour is due when it has been over for the settling time."""
    settled = ours.now - ours.settling
    held_from = period.start if period.start in ours.stopped else ours.held_from
    values: dict[str, Any] = {
        "tenant": ours.account.tenant_id, "period": period.start, "end": period.end, "held_from": held_from,
        "due": periods.hour_of(settled), "settled": settled, "until": ours.now + CLOCKS_DIFFER, "final_at": final_at,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(POOLS, values)
        row: Any = cursor.fetchone()
    held, young, late = (Pool(int(added), int(removed)) for added, removed in zip(row[0:6:2], row[1:6:2], strict=True))
    return replace(ledger, held=held, young=young, late=late, corrected=int(row[6]))
