"""Periods that had ended before anybody here heard of them: all workers were away from before their begin until after their end.

The calls of such a period were served and counted, and its fee was invoiced by Stripe, but nobody has written it down as one
to be billed (`billed_periods.py`). It is found by the ledger's own periods and Stripe's invoices, and from then on is billed as
any other that has ended: onto its draft if that is still one, else as late usage.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection

from metering.periods import Period

from . import billed_periods, stripe_api, turns
from .models import Account, BilledPeriod, StripePrices
from .stripe_api import InvoiceLine

logger = logging.getLogger(__name__)
LOOKED_BACK = timedelta(days=100)
INVOICED_BEFORE = timedelta(days=1)  # the fee's invoice is made when the period begins
COUNTED = """
SELECT q.tenant_id, q.period_start, q.period_end FROM metering_quota q JOIN billing_account a ON a.tenant_id = q.tenant_id
WHERE a.customer_id IS NOT NULL AND q.period_end > %(since)s AND q.period_end <= %(now)s
  AND q.period_start >= least(
      a.anchor, (SELECT min(b.start) FROM billing_billedperiod b WHERE b.account_id = q.tenant_id)
  )
  AND NOT EXISTS (
      SELECT FROM billing_billedperiod b
      WHERE b.account_id = q.tenant_id AND b.start < q.period_end AND b."end" > q.period_start
  )
ORDER BY q.period_start
"""


def find(*, now: datetime) -> int:
    """Ended periods that Stripe took a fee for and nobody has seen are to be billed; how many accounts were looked at."""
    found: dict[UUID, list[Period]] = defaultdict(list)
    with connection.cursor() as cursor:
        cursor.execute(COUNTED, {"since": now - LOOKED_BACK, "now": now})
        for account_id, start, end in cursor.fetchall():
            found[account_id].append(Period(start, end))
    return turns.each(found, lambda one: learn(account_id=one, periods=found[one]), what="Unseen periods")


def learn(*, account_id: UUID, periods: Sequence[Period]) -> int:
    """Those of these periods that Stripe has taken a fee for are written down; how many were. Raises StripeError."""
    account = Account.objects.select_related("tenant").get(pk=account_id)
    since = min(period.start for period in periods) - INVOICED_BEFORE
    lines = stripe_api.invoice_lines(customer_id=account.customer_id or "", since=since)
    fees = [line for line in lines if line.item_id and not line.is_proration]
    every = StripePrices.objects.filter(fee_price_id__in={line.price_id for line in fees})
    prices = {one.fee_price_id: one for one in every.select_related("version__plan")}
    made = 0
    for period in periods:
        fee = next((line for line in fees if line.price_id in prices and _is_for(line, period)), None)
        if fee is not None:
            made += _write_down(account, period, fee, prices[fee.price_id], fees)
    return made


def _is_for(line: InvoiceLine, period: Period) -> bool:
    """Whether the line is for this period, by Stripe's seconds."""
    return (line.start, line.end) == (period.start.replace(microsecond=0), period.end.replace(microsecond=0))


def _write_down(
    account: Account, period: Period, fee: InvoiceLine, prices: StripePrices, lines: Iterable[InvoiceLine]
) -> bool:
    if not billed_periods.is_priced(prices.version, fee.currency):
        return False
    subscription = stripe_api.subscription(fee.subscription_id)
    calls = [one.item_id for one in lines if one.price_id == prices.usage_price_id and _is_for(one, period)]
    calls += [one.id for one in subscription.items if one.price_id == prices.usage_price_id]
    trial_end = subscription.trial_ends_at
    row, is_new = BilledPeriod.objects.get_or_create(
        account=account, subscription_id=subscription.id, start=period.start,
        defaults={
            "version": prices.version, "currency": fee.currency, "end": period.end,
            "item_id": calls[0] if calls else "", "meter_id": prices.meter_id if prices.usage_price_id else "",
            "counts_from": period.start.replace(microsecond=0),
            "is_free": trial_end is not None and period.end <= trial_end,
        },
    )  # fmt: skip
    if is_new:
        logger.error(
            "%s has ended and was not seen while it ran: %s units are billed now, or are late usage.",
            row, billed_periods.units(row),
        )  # fmt: skip
    return is_new
