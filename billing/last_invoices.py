"""Of a subscription that has ended no further invoice comes by itself: what is ours to charge then gets one of its own.

It is a draft for an hour, as any other, and Stripe makes it final and collects it. What it is for is in its metadata, and it is
looked for there before another is made. Charges that wait at Stripe for an invoice that will not come are moved to one.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db.models import F, Q, QuerySet

from . import charges, stops, stripe_api, stripe_usage, turns
from .errors import NoSuchObject, SavedFailure, StripeUnavailable
from .models import Account, BilledPeriod, Charge
from .stripe_usage import Invoice

logger = logging.getLogger(__name__)
MOST_KEYS = 20
DELETED = "Its item was deleted at Stripe while it waited for an invoice."
State = Charge.State


def of_period(*, period: BilledPeriod, units: int) -> Invoice | None:
    """The draft for the last calls of a subscription that has ended; None where they cost nothing. Raises StripeError."""
    if not any(line.amount_minor for line in charges.lines(period, units)):
        return None
    return stripe_usage.invoice(_made(period, subject=period.pk, since=period.end))


def _made(period: BilledPeriod, *, subject: UUID, since: datetime) -> str:
    """The id of the draft for this subject, which is made once."""
    customer_id = period.account.customer_id or ""
    for number in range(MOST_KEYS):
        found = stripe_usage.find_invoice(customer_id=customer_id, subject=subject, since=since - turns.CLOCKS_DIFFER)
        if found:
            return found
        try:
            return stripe_usage.create_invoice(
                customer_id=customer_id, currency=period.currency, subject=subject,
                description=f"Calls of {charges.span_of(period)}", key=f"last-invoice-{subject}-{number}",
            )  # fmt: skip
        except SavedFailure:
            continue
    raise StripeUnavailable(f"Stripe repeats its failures under {MOST_KEYS} keys.")


# -- What waits in vain --------------------------------------------------------------------------------------------------
def gather_due(*, now: datetime) -> int:
    """Charges that wait for an invoice of a subscription that has ended are moved to one that comes; of how many accounts."""
    found = _waiting().values_list("account_id", flat=True).distinct()
    return turns.each(found, lambda one: gather(account_id=one, now=now), what="The last invoice")


def _waiting() -> QuerySet[Charge]:
    """Charges at Stripe on no invoice that we know of, whose period's subscription is no longer the account's."""
    is_over = Q(account__subscription_id=None) | ~Q(account__subscription_id=F("period__subscription_id"))
    rows = Charge.objects.filter(is_over, state=State.ADDED, invoice_id="", stripe_id__startswith=stripe_usage.ITEM)
    return rows.filter(period__stopped_because="").exclude(account__in=stops.stopped_ids())


def gather(*, account_id: UUID, now: datetime) -> None:
    """The account's charges are on an invoice, or will be. Raises StripeUnavailable."""
    with turns.only_one(account_id) as is_mine:
        rows = list(_waiting().filter(account_id=account_id).select_related("account", "period")) if is_mine else []
        stranded = [charge for charge in rows if _is_stranded(charge)]
        if stranded:
            _move(stranded, now)
    charges.add_all(account_id=account_id, now=now)


def _is_stranded(charge: Charge) -> bool:
    """Whether no invoice will take it; one that has taken it is written down, as is that an operator has deleted it."""
    mine = Charge.objects.filter(pk=charge.pk, state=State.ADDED, invoice_id="")
    try:
        item = stripe_usage.item(charge.stripe_id)
    except NoSuchObject:
        mine.update(state=State.WRITTEN_OFF, error=DELETED)
        logger.warning("Written off: %s (tenant %s). %s", charge, charge.account_id, DELETED)
        return False
    if item.invoice_id:
        mine.update(invoice_id=item.invoice_id)
        return False
    if item.subscription_id:
        return not is_live(item.subscription_id)
    return not charge.account.subscription_id  # else the next of its invoices takes it along


def is_live(subscription_id: str) -> bool:
    """Whether the subscription will have another invoice. Raises StripeUnavailable."""
    try:
        return stripe_api.subscription(subscription_id).is_live
    except NoSuchObject:
        return False


def _move(stranded: Sequence[Charge], now: datetime) -> None:
    """They are to be put on a draft of their own; their items are taken back before (`charges.add_all`)."""
    first = min(stranded, key=lambda charge: (charge.created_at, charge.pk))
    invoice_id = _made(first.period, subject=first.pk, since=first.period.end)
    ids = [charge.pk for charge in stranded if charge.currency == first.currency]
    Charge.objects.filter(pk__in=ids, state=State.ADDED, invoice_id="").update(
        state=State.PENDING, invoice_id=invoice_id, attempted_at=None
    )
    account: Account = first.account
    logger.info("%s charges of tenant %s are moved to invoice %s.", len(ids), account.pk, invoice_id)
