"""Windows of usage: frozen quantities, each unit in exactly one of them.

A window is a cell of the grid (an hour by default) inside one period, cut where a change of plan may come. It is made from counted
hours only and never changed; what the ledger holds beyond its reports is a further revision, positive or negative. Every scan
goes over the whole period, for a flush may commit late; there is no watermark to miss it.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from metering import periods, usage

from .errors import BillingError
from .models import Account, BilledPeriod, UsageReport

logger = logging.getLogger(__name__)
MOST_REVISIONS = 50
HOUR = timedelta(hours=1)
DAY_MINUTES = 24 * 60
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
State = UsageReport.State


class WindowsDoNotFit(BillingError):
    """REPORT_WINDOW_MINUTES must divide an hour, or be hours that divide a day."""


@dataclass(slots=True)
class Window:
    """[start, end), with what its reports carry."""

    start: datetime
    end: datetime
    carried: int = 0
    revisions: int = 0


def width() -> timedelta:
    """Raises WindowsDoNotFit."""
    minutes = settings.BILLING["REPORT_WINDOW_MINUTES"]
    fits = minutes > 0 and (60 % minutes == 0 or (minutes % 60 == 0 and DAY_MINUTES % minutes == 0))
    if not fits:
        raise WindowsDoNotFit(f"REPORT_WINDOW_MINUTES is {minutes}: take 5, 15, 60 or another that tiles the day.")
    return timedelta(minutes=minutes)


def cell_of(instant: datetime) -> datetime:
    """The start of the grid's cell that holds the instant."""
    return instant - (instant - EPOCH) % width()


def freeze(*, period: BilledPeriod, until: datetime, as_of: datetime, takes_back: bool = False) -> int:
    """The period's units before `until` are in reports, sent or not; how many reports were made.

    With `takes_back` calls from `until` on that were reported already are taken back. Nothing is made for a final period.
    """
    with transaction.atomic():
        locked = Account.objects.select_for_update().filter(
            pk=period.account_id
        )  # one at a time: a unit is in one report
        locked.values_list("pk").get()
        period.state, period.end = _state_and_end(period)
        if period.state != BilledPeriod.State.OPEN:
            return 0
        scan = _Scan(period, until)
        made = [*scan.revisions(takes_back=takes_back), *scan.new()]
        UsageReport.objects.bulk_create(made)
        BilledPeriod.objects.filter(pk=period.pk).update(scanned_to=as_of, end=scan.end)
    return len(made)


BY_HOUR = """
SELECT hour, sum(units) FROM metering_usage_hour WHERE tenant_id = %s AND period_start = %s AND hour >= %s GROUP BY hour
HAVING sum(units) <> 0 ORDER BY hour
"""


def _by_hour(period: BilledPeriod) -> dict[datetime, int]:
    with connection.cursor() as cursor:
        cursor.execute(BY_HOUR, [period.account_id, period.start, periods.hour_of(period.start)])
        return {hour: int(units) for hour, units in cursor.fetchall()}


STATE_AND_END = """
SELECT b.state, coalesce(q.period_end, b."end") FROM billing_billedperiod b
LEFT JOIN metering_quota q ON q.tenant_id = b.account_id AND q.period_start = b.start WHERE b.id = %s
"""


def _state_and_end(period: BilledPeriod) -> tuple[str, datetime]:
    """As they are now. It ends where the metered period does, which a change of plan may have cut since ours was written down."""
    with connection.cursor() as cursor:
        cursor.execute(STATE_AND_END, [period.pk])
        row: Any = cursor.fetchone()
    return row[0], row[1]


class _Scan:
    """One look over a period, under its account's lock."""

    def __init__(self, period: BilledPeriod, until: datetime) -> None:
        self.period, self.end = period, period.end
        self.until = min(until, self.end)
        self.hours, self.known = _by_hour(period), _known(period)

    def revisions(self, *, takes_back: bool) -> Iterator[UsageReport]:
        """What the known windows lack, or have too much of."""
        for window in self.known:
            if window.end > self.until and not takes_back:
                continue
            missing = self.units(window.start, min(window.end, self.until)) - window.carried
            if missing and window.revisions < MOST_REVISIONS:
                yield self.report(window, missing)
            elif missing:
                logger.error("Usage of tenant %s from %s has too many revisions.", self.period.account_id, window.start)

    def new(self) -> Iterator[UsageReport]:
        """Windows for used hours that none covers."""
        for window in self.uncovered():
            quantity = self.units(window.start, window.end)
            if quantity:
                yield self.report(window, quantity)

    def uncovered(self) -> Iterator[Window]:
        for cell in self.cells():
            start, end = max(cell, self.period.start), min(cell + width(), self.until)
            for known in self.known:
                if known.end <= start or known.start >= end:
                    continue
                if known.start > start:
                    yield Window(start, known.start)
                start = max(start, known.end)
            if start < end:
                yield Window(start, end)

    def cells(self) -> list[datetime]:
        """The grid's cells in which something was used, the oldest first."""
        step = min(width(), HOUR)
        return sorted({cell_of(hour + n * step) for hour in self.hours for n in range(HOUR // step)})

    def units(self, start: datetime, end: datetime) -> int:
        """From the rollup where whole hours are meant, or the period's own ends; else from the call log, too."""
        if start >= end:
            return 0
        is_from_start = start == periods.hour_of(start) or start == self.period.start
        if is_from_start and (end == periods.hour_of(end) or end == self.end):
            first = periods.hour_of(start)
            return sum(units for hour, units in self.hours.items() if first <= hour < end)
        return usage.units_between(
            tenant_id=self.period.account_id, period_start=self.period.start, start=start, end=end
        )

    def report(self, window: Window, quantity: int) -> UsageReport:
        period = self.period
        return UsageReport(
            account_id=period.account_id, period=period, subscription_id=period.subscription_id, meter_id=period.meter_id,
            period_start=period.start, window_start=window.start, window_end=window.end, revision=window.revisions + 1,
            quantity=quantity, stamped_at=stamp(period, window.start),
        )  # fmt: skip


def stamp(period: BilledPeriod, window_start: datetime) -> datetime:
    """The meter event's second: the window's first, inside the time of Stripe's item."""
    return max(window_start.replace(microsecond=0), period.counts_from)


def _known(period: BilledPeriod) -> list[Window]:
    """The period's windows, the oldest first. What was rejected and is mended is carried by nobody."""
    found: dict[tuple[datetime, datetime], Window] = {}
    rows = UsageReport.objects.filter(period=period).order_by("window_start", "window_end")
    for start, end, quantity, state, mended_at in rows.values_list(
        "window_start", "window_end", "quantity", "state", "mended_at"
    ):
        window = found.setdefault((start, end), Window(start, end))
        window.revisions += 1
        if not (state == State.TOO_LATE or (state == State.REJECTED and mended_at is not None)):
            window.carried += quantity
    return list(found.values())
