"""Usage on its way to Stripe's meter: frozen quantities, each sent once and confirmed by what Stripe has counted.

A report is a row before it is sent (`windows.py`), and the row's id is the meter event's identifier: sending it again is harmless
for a day, and later it is never sent again but looked for in Stripe's summaries (`confirming.py`). Nothing is sent for a period
whose invoice is final.
"""

import logging
from collections.abc import Collection
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet

from metering import usage

from . import accounts, billed_periods, confirming, rejections, stops, stripe_api, turns, upgrades, windows
from .errors import AlreadyDelivered, SavedFailure, StripeRefused, StripeUnavailable
from .models import Account, BilledPeriod, Consent, PlanChange, UsageReport

logger = logging.getLogger(__name__)
RESENT_WITHIN = timedelta(
    hours=23
)  # Stripe forgets identifiers after 24 h; from then on a second sending would count twice
MOST_KEYS = 20
MICROSECOND = timedelta(microseconds=1)
State = UsageReport.State


# -- One account, now: before a change of plan ---------------------------------------------------------------------------
def settle(*, account: Account, until: datetime, now: datetime) -> bool:
    """Stripe has counted exactly the calls before `until` of the period that holds them. False: not yet, call again.

    Calls from `until` on that were reported already are taken back. Without a metered price there is nothing to report.
    """
    as_of = usage.as_of()
    if as_of < until:
        return False
    if account.period_start is not None and until <= account.period_start:
        return True  # a change in the second in which the period began: no call of it was made before
    try:
        period = billed_periods.of(account=account, instant=until - MICROSECOND)
        if period is None or not period.meter_id or period.state != BilledPeriod.State.OPEN:
            return True
        rejections.review(period=period, now=now)
        windows.freeze(period=period, until=until, as_of=as_of, takes_back=True)
        with turns.only_one(account.pk) as is_mine:
            if not is_mine:
                return False
            send_all(account_id=account.pk, now=now, ended_after=period.start)
            confirming.confirm(account_id=account.pk, now=now, resent_within=RESENT_WITHIN)
    except (StripeUnavailable, billed_periods.PeriodNotKnown) as error:
        logger.warning("Usage of tenant %s is not settled yet: %s", account.pk, error)
        return False
    return not windows.freeze(period=period, until=until, as_of=as_of, takes_back=True) and _is_settled(period)


def _is_settled(period: BilledPeriod) -> bool:
    """Whether everything of the period was counted, or is carried by another report."""
    unsettled = ~Q(state=State.CONFIRMED) & ~Q(state=State.REJECTED, mended_at__isnull=False)
    return not UsageReport.objects.filter(unsettled, period=period).exists()


def held_from(*, account: Account, now: datetime) -> datetime | None:
    """From this instant on calls of the running period are not reported: a change may price them otherwise. None: all are."""
    opened = PlanChange.objects.filter(account=account, state__in=PlanChange.OPEN_STATES, cut_at__isnull=False)
    cut_at = opened.values_list("cut_at", flat=True).first()
    if cut_at is not None or accounts.active_consent(account) is None:
        return cut_at
    return upgrades.ran_out_at(
        account=account, period=usage.current_period(allowance=account.tenant.allowance, now=now)
    )


# -- All accounts, hour by hour ------------------------------------------------------------------------------------------
def make_due(*, now: datetime) -> int:
    """Every closed hour of every open period is in reports; how many periods were scanned."""
    as_of = min(usage.as_of(), now)
    learn(now=now)
    billed_periods.follow_ends()
    rejections.review_all(now=now)
    is_due = Q(scanned_to=None) | Q(scanned_to__lt=windows.cell_of(as_of))
    due = {one.pk: one for one in billed_periods.open_periods().filter(is_due).exclude(meter_id="")}
    held = _may_be_held()
    return turns.each(
        due, lambda one: scan(period=due[one], as_of=as_of, now=now, may_be_held=held), what="Usage of period",
        at_once=settings.BILLING["REPORT_SENDERS"],
    )  # fmt: skip


def scan(*, period: BilledPeriod, as_of: datetime, now: datetime, may_be_held: Collection[UUID] | None = None) -> int:
    """The period's closed windows are in reports; how many were made. Once it has ended, all of it is closed."""
    until = period.end if period.end <= as_of else windows.cell_of(as_of)
    if may_be_held is None or period.account_id in may_be_held:
        held = held_from(account=period.account, now=now)
        if held is not None and period.start <= held:
            until = min(until, held)
    return windows.freeze(period=period, until=until, as_of=as_of)


def learn(*, now: datetime) -> int:
    """Running periods are written down, each once; how many were."""
    found = {account.pk: account for account in billed_periods.unknown()}

    def one(account_id: UUID) -> None:
        try:
            billed_periods.of(account=found[account_id], instant=now)
        except billed_periods.PeriodNotKnown as error:
            logger.info("%s", error)

    return turns.each(found, one, what="The period", at_once=settings.BILLING["REPORT_SENDERS"])


def _may_be_held() -> set[UUID]:
    """Accounts with an open change or a consent: only their calls may be held back."""
    changes = PlanChange.objects.filter(state__in=PlanChange.OPEN_STATES, cut_at__isnull=False)
    consents = Consent.objects.filter(ended_at=None)
    return {*changes.values_list("account_id", flat=True), *consents.values_list("account_id", flat=True)}


def send_due(*, now: datetime) -> int:
    """Every report of a running period was sent, each account's in order and by one sender; of how many accounts.

    Those of an ended one are sent by whoever has just seen that its invoice is a draft (`ended_periods.py`).
    """
    billed_periods.follow_ends()
    waiting = _sendable(now).filter(period__end__gt=now).values_list("account_id", flat=True).distinct()

    def one(account_id: UUID) -> None:
        with turns.only_one(account_id) as is_mine:
            if is_mine:
                send_all(account_id=account_id, now=now, ended_after=now)

    return turns.each(waiting, one, what="Usage", at_once=settings.BILLING["REPORT_SENDERS"])


def confirm_due(*, now: datetime) -> int:
    """Stripe was asked whether it has counted what was sent; of how many accounts."""
    since = now - confirming.VISIBLE_AFTER
    delivered = Q(state=State.DELIVERED, delivered_at__lte=since)
    waiting = UsageReport.objects.filter(delivered | Q(state=State.SENDING, attempted_at__lt=now - RESENT_WITHIN))

    def one(account_id: UUID) -> None:
        confirming.confirm(account_id=account_id, now=now, resent_within=RESENT_WITHIN)

    found = waiting.values_list("account_id", flat=True).distinct()
    return turns.each(found, one, what="The count", at_once=settings.BILLING["REPORT_SENDERS"])


# -- Sending -------------------------------------------------------------------------------------------------------------
def _sendable(now: datetime) -> QuerySet[UsageReport]:
    """Reports that are to be sent, or sent again: not of a final or stopped period, and not when Stripe may have forgotten them."""
    is_open = Q(period__state=BilledPeriod.State.OPEN, period__stopped_because="")
    is_fresh = Q(state=State.PENDING) | Q(state=State.SENDING, attempted_at__gte=now - RESENT_WITHIN)
    return UsageReport.objects.filter(is_open, is_fresh).exclude(account__in=stops.stopped_ids())


def send_all(*, account_id: UUID, now: datetime, ended_after: datetime) -> None:
    """The account's waiting reports were sent, the oldest first. Raises StripeUnavailable at the first that was not.

    Only of periods that end after this instant: of earlier ones the invoice may be final.
    """
    waiting = _sendable(now).filter(account_id=account_id, period__end__gt=ended_after).select_related("account")
    for report in waiting.order_by("window_start", "window_end", "revision"):
        send(report=report, now=now)


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
        rejections.reject(report=report, code=error.code, message=error.message)
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
