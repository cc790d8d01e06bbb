"""What Stripe has counted, held against what was sent: by the hour of the reports' timestamps, in Stripe's summaries.

A report is confirmed when its hour's total agrees. One that cannot be sent again, because its answer was lost that long ago or
because Stripe has taken it and after a day still does not count it, is found in the total, or missing from it; then a further
revision carries its units. (Of many events that Stripe rejects for one reason its message names only a few.)
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from uuid import UUID

from metering import periods

from . import stripe_api, stripe_usage
from .models import Account, BilledPeriod, UsageReport

logger = logging.getLogger(__name__)
State = UsageReport.State
SENT = (State.SENDING, State.DELIVERED, State.CONFIRMED)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
VISIBLE_AFTER = timedelta(seconds=2)  # before that Stripe is not even asked
SURELY_VISIBLE = timedelta(minutes=10)  # from then on what the summaries do not show did not arrive
HOURS_ASKED = 96  # in one request: less than a page of them
MOST_LOST = 12  # in one hour: which of them arrived is found by trying
NOT_FOUND = "Stripe has not counted it: a later revision carries its units."


@dataclass(frozen=True, slots=True)
class Counted:
    """What Stripe has counted with timestamps in [start, end), and every report that was sent with one."""

    total: int
    reports: list[UsageReport]


def confirm(*, account_id: UUID, now: datetime, resent_within: timedelta) -> None:
    """The account's sent reports are confirmed where Stripe's count agrees, and lost ones are found. Raises StripeUnavailable."""
    waiting = UsageReport.objects.filter(account_id=account_id).filter(state__in=(State.DELIVERED, State.SENDING))
    forgotten = now - resent_within - SURELY_VISIBLE  # whoever sent it last has given up by then
    asked = [one for one in waiting if one.state == State.DELIVERED or (one.attempted_at or now) < forgotten]
    customer_id = Account.objects.values_list("customer_id", flat=True).get(pk=account_id) or ""
    for meter_id in sorted({one.meter_id for one in asked}):
        stamps = [one.stamped_at for one in asked if one.meter_id == meter_id]
        for counted in _counted(account_id, customer_id, meter_id, stamps, now):
            _judge(counted, now=now, forgotten=forgotten)


def _counted(
    account_id: UUID, customer_id: str, meter_id: str, stamps: Sequence[datetime], now: datetime
) -> Iterator[Counted]:
    """Past hours each with its own total; what is stamped within the present hour together."""
    past = sorted({periods.hour_of(at) for at in stamps if periods.hour_of(at) + HOUR <= now})
    known = UsageReport.objects.filter(account_id=account_id, meter_id=meter_id, state__in=SENT)
    for start, end in _stretches(past):
        totals = stripe_usage.hourly_totals(meter_id=meter_id, customer_id=customer_id, start=start, end=end)
        sent = list(known.filter(stamped_at__gte=start, stamped_at__lt=end))
        for hour in (hour for hour in past if start <= hour < end):
            yield Counted(totals.get(hour, 0), [one for one in sent if periods.hour_of(one.stamped_at) == hour])
    recent = [at.replace(second=0) for at in stamps if periods.hour_of(at) + HOUR > now]
    if recent:
        start, end = min(recent), max(recent) + MINUTE
        total = stripe_api.meter_total(meter_id=meter_id, customer_id=customer_id, start=start, end=end)
        yield Counted(total, list(known.filter(stamped_at__gte=start, stamped_at__lt=end)))


def _stretches(hours: Sequence[datetime]) -> Iterator[tuple[datetime, datetime]]:
    """Whole hours to ask for at once that hold all of these."""
    start: datetime | None = None
    end: datetime | None = None
    for hour in hours:
        if start is not None and end is not None and hour - start >= HOURS_ASKED * HOUR:
            yield start, end
            start = None
        start, end = start or hour, hour + HOUR
    if start is not None and end is not None:
        yield start, end


def _judge(counted: Counted, *, now: datetime, forgotten: datetime) -> None:
    lost = [one for one in counted.reports if _is_doubtful(one, forgotten)]
    arrived = [one for one in counted.reports if one not in lost]
    if not lost:
        if counted.total == _total(arrived):
            _set_confirmed(arrived, now)
        return
    is_settled = all(
        (one.delivered_at or now) <= now - SURELY_VISIBLE for one in arrived if one.state == State.DELIVERED
    )
    if not is_settled or any((one.attempted_at or now) >= forgotten for one in lost):
        return  # sent again, or not visible yet: another total tomorrow would be another verdict
    found = which(lost, counted.total - _total(arrived))
    if found is None:
        logger.error("Stripe has counted neither with nor without reports %s.", [str(report.pk) for report in lost])
        return
    _set_confirmed([*arrived, *found], now)
    _set_missing([one for one in lost if one not in found], now)


def _is_doubtful(report: UsageReport, forgotten: datetime) -> bool:
    """Whether it may have arrived or not: its answer was lost, or it was taken so long ago that the count would show it."""
    is_overdue = report.state == State.DELIVERED and report.delivered_at is not None and report.delivered_at < forgotten
    return report.state == State.SENDING or is_overdue


def which(lost: Sequence[UsageReport], units: int) -> list[UsageReport] | None:
    """Reports among these that add up to what Stripe has counted beyond the others; None where none do.

    Where several choices do, each leaves the same total at Stripe and the same units to be carried anew.
    """
    if _total(lost) == units:
        return list(lost)
    for count in range(min(len(lost), MOST_LOST) + 1):
        for some in combinations(lost[:MOST_LOST], count):
            if _total(some) == units:
                return list(some)
    return None


def _set_confirmed(reports: Iterable[UsageReport], now: datetime) -> None:
    seen = UsageReport.objects.filter(pk__in=[one.pk for one in reports], state__in=(State.DELIVERED, State.SENDING))
    seen.update(state=State.CONFIRMED, confirmed_at=now)


def _set_missing(reports: Sequence[UsageReport], now: datetime) -> None:
    """They never arrived: their units are free, and their periods are scanned again."""
    if not reports:
        return
    logger.error(
        "Stripe has not counted usage reports %s: later revisions carry their units.", [str(one.pk) for one in reports]
    )
    mine = UsageReport.objects.filter(pk__in=[one.pk for one in reports], state__in=(State.SENDING, State.DELIVERED))
    if mine.update(state=State.REJECTED, error=NOT_FOUND, mended_at=now):
        BilledPeriod.objects.filter(pk__in=[one.period_id for one in reports]).update(scanned_to=None)


def _total(reports: Iterable[UsageReport]) -> int:
    return sum(report.quantity for report in reports)
