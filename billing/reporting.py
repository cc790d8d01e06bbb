"""Usage on its way to Stripe's meter: frozen quantities, each sent once and confirmed by what Stripe has counted.

A report is a row before it is sent, and the row's id is the meter event's identifier: sending it again is harmless for a day, and
later it is never sent again but looked for in Stripe's summaries. What the ledger holds beyond a window's reports (a late flush, a
correction) is a further revision of that window; what belongs to other terms after all is a negative one.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from metering import usage
from metering.periods import Period

from . import accounts, stripe_api, upgrades
from .errors import AlreadyDelivered, SavedFailure, StripeRefused, StripeUnavailable
from .models import Account, PlanChange, StripePrices, UsageReport

logger = logging.getLogger(__name__)
RESENT_WITHIN = timedelta(
    hours=23
)  # Stripe forgets identifiers after 24 h; from then on a second sending would count twice
MOST_REVISIONS = 50
MOST_KEYS = 20
MICROSECOND = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
NOT_FOUND = "Stripe has not counted it: a later revision carries its units."
State = UsageReport.State
SENT = (State.SENDING, State.DELIVERED, State.CONFIRMED)


@dataclass(frozen=True, slots=True)
class Target:
    """Where an account's usage goes: which meter, which subscription, and no earlier than its item counts."""

    account: Account
    meter_id: str
    period: Period
    counts_from: datetime

    def stamp(self, window_end: datetime) -> datetime:
        """The meter event's second: the window's last one, inside the item's time."""
        return max((window_end - MICROSECOND).replace(microsecond=0), self.counts_from)

    @property
    def reports(self) -> QuerySet[UsageReport]:
        """What was reported of the period."""
        return UsageReport.objects.filter(
            account=self.account, meter_id=self.meter_id, window_start__gte=self.period.start,
            window_start__lt=self.period.end,
        )  # fmt: skip


def settle(*, account: Account, until: datetime, now: datetime) -> bool:
    """Stripe has counted exactly the calls before `until` of the period that holds them. False: not yet, call again.

    Calls from `until` on that were reported already are taken back. Without a metered price there is nothing to report.
    """
    if usage.as_of() < until:
        return False
    target = _target(account, until)
    if target is None:
        return True
    _freeze(target, until)
    try:
        for report in target.reports.filter(state__in=[State.PENDING, State.SENDING]):
            send(report=report, now=now)
        return _confirm(target, now)
    except StripeUnavailable as error:
        logger.warning("Usage of tenant %s is not settled yet: %s", account.tenant_id, error)
        return False


def held_from(*, account: Account, now: datetime) -> datetime | None:
    """From this instant on calls of the running period are not reported: a change may price them otherwise. None: all are."""
    opened = PlanChange.objects.filter(account=account, state__in=PlanChange.OPEN_STATES, cut_at__isnull=False)
    cut_at = opened.values_list("cut_at", flat=True).first()
    if cut_at is not None or accounts.active_consent(account) is None:
        return cut_at
    return upgrades.ran_out_at(
        account=account, period=usage.current_period(allowance=account.tenant.allowance, now=now)
    )


def _target(account: Account, until: datetime) -> Target | None:
    """None when Stripe does not price the account's calls."""
    prices = StripePrices.objects.filter(version_id=account.plan_version_id).first()
    if not account.subscription_id or prices is None or not prices.usage_price_id:
        return None
    period = usage.current_period(allowance=account.tenant.allowance, now=until - MICROSECOND)
    subscription = stripe_api.subscription(account.subscription_id)
    begun = [
        max(item.created_at, item.period_start) for item in subscription.items if item.price_id == prices.usage_price_id
    ]
    return Target(account, prices.meter_id, period, max(begun)) if begun else None


def _freeze(target: Target, until: datetime) -> None:
    """There are reports, sent or not, of exactly the period's units before `until`."""
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=target.account.pk)  # one at a time: a unit is in one report
        windows: dict[tuple[datetime, datetime], list[UsageReport]] = {}
        for report in target.reports:
            windows.setdefault((report.window_start, report.window_end), []).append(report)
        for (start, end), revisions in windows.items():
            carried = sum(report.quantity for report in revisions if report.state != State.REJECTED)
            missing = _units(target, start, min(end, until)) - carried
            if missing:
                _add(target, start, end, missing, revision=len(revisions) + 1)
        start = max([target.period.start, *(end for _, end in windows)])
        quantity = _units(target, start, until)
        if quantity:
            _add(target, start, until, quantity)


def _units(target: Target, start: datetime, end: datetime) -> int:
    return usage.units_between(
        tenant_id=target.account.tenant_id, period_start=target.period.start, start=start, end=end
    )


def _add(target: Target, start: datetime, end: datetime, quantity: int, *, revision: int = 1) -> None:
    if revision > MOST_REVISIONS:
        logger.error("Usage of tenant %s from %s is rejected again and again.", target.account.tenant_id, start)
        return
    UsageReport.objects.create(
        account=target.account, subscription_id=target.account.subscription_id or "", meter_id=target.meter_id,
        period_start=target.period.start, window_start=start, window_end=end, revision=revision, quantity=quantity,
        stamped_at=target.stamp(end),
    )  # fmt: skip


def send(*, report: UsageReport, now: datetime) -> None:
    """Stripe has taken the report once, or refused it, or it stays open and may be sent again. Raises StripeUnavailable."""
    if report.attempted_at is not None and now - report.attempted_at > RESENT_WITHIN:
        return  # only the summaries tell whether it arrived
    if report.attempted_at is None:
        report.attempted_at = now
        UsageReport.objects.filter(pk=report.pk, state=State.PENDING).update(state=State.SENDING, attempted_at=now)
    mine = UsageReport.objects.filter(pk=report.pk, state=State.SENDING)
    try:
        _deliver(report)
    except AlreadyDelivered:
        pass
    except StripeRefused as error:
        logger.error("Stripe refuses usage report %s: %s", report.pk, error)
        mine.update(state=State.REJECTED, error=error.message[:500])
        return
    mine.update(state=State.DELIVERED, delivered_at=now)


def _deliver(report: UsageReport) -> None:
    """The identifier makes it once, whatever the key: so a failure that Stripe repeats under a key is left for another key."""
    for number in range(MOST_KEYS):
        try:
            stripe_api.send_meter_event(
                identifier=str(report.pk), customer_id=report.account.customer_id or "", value=report.quantity,
                at=report.stamped_at, key=f"{report.pk}-{number}",
            )  # fmt: skip
            return
        except SavedFailure:
            continue
    raise StripeUnavailable(f"Stripe repeats its failures under {MOST_KEYS} keys.")


def _confirm(target: Target, now: datetime) -> bool:
    """Whether Stripe has counted what was sent; then the reports are confirmed."""
    reports = list(target.reports.exclude(state=State.REJECTED))
    if not reports:
        return True
    if any(report.state == State.PENDING for report in reports):
        return False
    start = min(report.stamped_at for report in reports).replace(second=0)
    last = max(report.stamped_at for report in reports)
    end = last.replace(second=0) + MINUTE
    counted = stripe_api.meter_total(
        meter_id=target.meter_id, customer_id=target.account.customer_id or "", start=start, end=end
    )
    known = list(
        UsageReport.objects.filter(
            account=target.account, meter_id=target.meter_id, stamped_at__gte=start, stamped_at__lt=end, state__in=SENT
        )
    )
    lost = [report for report in known if report.state == State.SENDING]
    if lost:
        _find(lost, is_counted=counted == _total(known), is_absent=counted == _total(known) - _total(lost), now=now)
        return False
    if counted != _total(known):
        return False
    seen = UsageReport.objects.filter(pk__in=[report.pk for report in known], state=State.DELIVERED)
    seen.update(state=State.CONFIRMED, confirmed_at=now)
    return True


def _total(reports: Iterable[UsageReport]) -> int:
    return sum(report.quantity for report in reports)


def _find(lost: list[UsageReport], *, is_counted: bool, is_absent: bool, now: datetime) -> None:
    """What became of reports whose answer was lost so long ago that they cannot be sent again: by what Stripe has counted."""
    if any(now - (report.attempted_at or now) <= RESENT_WITHIN for report in lost):
        return
    mine = UsageReport.objects.filter(pk__in=[report.pk for report in lost], state=State.SENDING)
    if is_counted:
        mine.update(state=State.DELIVERED, delivered_at=now)
    elif is_absent:
        mine.update(state=State.REJECTED, error=NOT_FOUND)
    else:
        logger.error("Stripe has counted neither with nor without reports %s.", [str(report.pk) for report in lost])
