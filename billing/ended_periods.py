"""Periods that have ended: the last usage goes to the draft of their invoice, then the invoice is final.

Looked at when Stripe says that an invoice was made, and by the clock until it is final. What the ledger holds then beyond the
invoice is late usage (`late_usage.py`).
"""

import logging
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from metering import usage

from . import (
    billed_periods,
    billing_ways,
    charges,
    last_invoices,
    reporting,
    stripe_api,
    stripe_usage,
    turns,
    windows,
)
from .errors import NoSuchObject
from .models import Account, BilledPeriod, UsageReport
from .stripe_usage import Invoice

logger = logging.getLogger(__name__)
LOOKED_AT_AGAIN = timedelta(minutes=5)
INVOICED_WITHIN = timedelta(days=2)  # after that the subscription ended without an invoice for its last calls
CLOCKS_DIFFER = timedelta(minutes=1)
State, ReportState = BilledPeriod.State, UsageReport.State


def bill_due(*, now: datetime) -> int:
    """Each ended period whose invoice is not final was looked at; how many were."""
    billed_periods.follow_ends()
    is_due = Q(looked_at=None) | Q(looked_at__lte=now - LOOKED_AT_AGAIN)
    due = {one.pk: one for one in billed_periods.open_periods().filter(is_due, end__lte=now)}
    return turns.each(due, lambda one: bill(period=due[one], now=now), what="The invoice of period")


def bill_account(*, account: Account, now: datetime) -> None:
    """The account's ended periods are billed as far as Stripe is. Raises StripeUnavailable."""
    billed_periods.follow_ends()
    for period in billed_periods.open_periods().filter(account=account, end__lte=now):
        bill(period=period, now=now)


def bill(*, period: BilledPeriod, now: datetime) -> None:
    """All of an ended period is on its draft, or its invoice is final and so is the period. Calling again is harmless."""
    as_of = min(usage.as_of(), now)
    if as_of < period.end:
        return  # a process has not flushed its last calls yet
    invoice = _invoice(period)
    _flush(period, invoice, as_of, now)
    if invoice is not None and not invoice.is_draft:
        _finish(period, invoice, now)
    elif invoice is None and _has_none(period, billing_ways.of(period), now):
        _finish(period, None, now)
    BilledPeriod.objects.filter(pk=period.pk).update(looked_at=now)


def flush_ahead(*, account: Account, now: datetime) -> None:
    """The calls so far are sent where Stripe's clock is ahead of ours, as a test clock's may be: its draft does not wait.

    Raises StripeUnavailable.
    """
    if account.period_start is None or account.period_start <= now:
        return
    as_of = min(usage.as_of(), now)
    running = billed_periods.open_periods().filter(account=account, start__lte=now, end__gt=now).exclude(meter_id="")
    for period in running:
        windows.freeze(period=period, until=as_of, as_of=as_of)
        with turns.only_one(account.pk) as is_mine:
            if is_mine:
                reporting.send_all(account_id=account.pk, now=now, ended_after=period.start)


def _invoice(period: BilledPeriod) -> Invoice | None:
    """The invoice that the period's calls belong on, draft or final; None when there is none yet."""
    if period.invoice_id:
        return stripe_usage.invoice(period.invoice_id)
    way = billing_ways.of(period)
    if not way.is_reported and billed_periods.is_cut(period):
        return None
    try:
        found = stripe_usage.invoices_of(
            subscription_id=period.subscription_id, since=period.counts_from - CLOCKS_DIFFER
        )
        invoice = next((one for one in found if way.is_invoice_of(period, one)), None)
        if invoice is None and not way.is_reported and not last_invoices.is_live(period.subscription_id):
            invoice = last_invoices.of_period(period=period, units=billed_periods.units(period))
    except NoSuchObject:
        return None
    if invoice is not None:
        period.invoice_id = invoice.id
        BilledPeriod.objects.filter(pk=period.pk).update(invoice_id=invoice.id)
    return invoice


def _flush(period: BilledPeriod, invoice: Invoice | None, as_of: datetime, now: datetime) -> None:
    """Everything that is counted is reported, or rated onto the draft. A final invoice takes nothing more."""
    if invoice is not None and not invoice.is_draft:
        return
    if period.meter_id:
        reporting.scan(period=period, as_of=as_of, now=now)
        with turns.only_one(period.account_id) as is_mine:
            if is_mine:
                reporting.send_all(account_id=period.account_id, now=now, ended_after=period.start)
    if invoice is not None:
        charges.rate(period=period, units=billed_periods.units(period), invoice_id=invoice.id)
        charges.add_all(account_id=period.account_id, now=now)


def _has_none(period: BilledPeriod, way: billing_ways.BillingWay, now: datetime) -> bool:
    """Whether no invoice of its own will come for the period: a trial, one cut by a change, an ended subscription."""
    if period.is_free or (not way.is_reported and billed_periods.is_cut(period)):
        return True
    if not way.is_reported and not last_invoices.is_live(period.subscription_id):
        return True
    if now - period.end < INVOICED_WITHIN:
        return False
    logger.error("%s of subscription %s has no invoice: its calls are late usage.", period, period.subscription_id)
    return True


def _finish(period: BilledPeriod, invoice: Invoice | None, now: datetime) -> None:
    """The period is final with what its invoice is for; our own lines that missed the draft go on the next one."""
    way = billing_ways.of(period)
    if way.is_reported:
        units = billed_periods.units(period) if period.is_free else way.billed_units(period, invoice)
        charges.rate(period=period, units=units)
    else:
        units = _units_without_invoice(period) if invoice is None else period.rated_units
        charges.rate(period=period, units=units)
    with transaction.atomic():
        Account.objects.select_for_update().get(pk=period.account_id)
        opened = BilledPeriod.objects.filter(pk=period.pk, state=State.OPEN)
        if opened.update(state=State.FINAL, billed_units=units, final_at=now):
            unsent = UsageReport.objects.filter(period=period, mended_at=None)
            unsent.filter(state__in=(ReportState.PENDING, ReportState.REJECTED)).update(state=ReportState.TOO_LATE)
    charges.add_all(account_id=period.account_id, now=now)


def _units_without_invoice(period: BilledPeriod) -> int:
    """Units of a period without an invoice of its own that are charged for: none when Stripe has no such customer any more."""
    customer_id = period.account.customer_id or ""
    return billed_periods.units(period) if stripe_api.has_customer(customer_id) else 0
