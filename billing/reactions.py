"""What each type of event leads to. Always the same: the account follows what Stripe has now, then mirror and mails.

The event says whom to look at and nothing else. So a type is here because it may mean a change, and one that is missing
here is found by the sweep all the same, only later.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from . import billed_periods, ended_periods, mirror, payment_mails, rejections, subscriptions
from .models import Account, StripeEvent
from .stripe_objects import id_of

Mail = Callable[[Account, StripeEvent], None]

# What the account's people are told besides; the mails decide by Stripe's present objects, too.
MAILS: dict[str, Mail] = {
    "customer.subscription.trial_will_end": lambda account, _: payment_mails.tell_trial_ending(account=account),
    "invoice.payment_failed": lambda account, _: payment_mails.tell_unpaid(account=account),
    "invoice.payment_action_required": lambda account, event: payment_mails.tell_action_required(
        account=account, invoice_id=event.object_id
    ),
    "invoice.paid": lambda account, event: payment_mails.tell_recovered(account=account, invoice_id=event.object_id),
    "charge.refunded": lambda account, event: payment_mails.tell_refunded(account=account, charge_id=event.object_id),
    "charge.dispute.created": lambda account, event: payment_mails.tell_disputed(
        account=account, dispute_id=event.object_id
    ),
}
FOLLOWED = (
    "checkout.session.completed",
    "customer.updated",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "invoice.created",
    "invoice.finalized",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "charge.dispute.closed",
    "credit_note.created",
    "credit_note.voided",
    *MAILS,
)
# After these a period may have begun or ended.
BILLED = ("customer.subscription.", "invoice.created", "invoice.finalized")
THIN = rejections.TYPES


def concerns(event_type: str) -> bool:
    """Whether events of this type mean anything here."""
    return event_type in FOLLOWED or event_type in THIN


def react(*, event: StripeEvent, now: datetime) -> bool:
    """The account, the mirror and the mails are as Stripe's objects say now; False when it is no affair of ours."""
    if event.type in THIN:
        rejections.record(event_id=event.pk)
        return True
    if event.type not in FOLLOWED:
        return False
    customer_id = event.customer_id or _customer_of(event)
    account = subscriptions.sync_customer(customer_id=customer_id, now=now) if customer_id else None
    if account is None:
        return False
    if event.type.startswith(BILLED):
        _bill(account, now)
    tell = MAILS.get(event.type)
    if tell is not None:
        tell(account, event)
    _copy(event)
    return True


def _bill(account: Account, now: datetime) -> None:
    """The running period is known; of one that has ended the last usage is on its draft, before Stripe makes that final."""
    ended_periods.flush_ahead(account=account, now=now)
    with suppress(billed_periods.PeriodNotKnown):  # the beat learns it a moment later
        billed_periods.of(account=account, instant=now)
    ended_periods.bill_account(account=account, now=now)


def _customer_of(event: StripeEvent) -> str:
    """A dispute does not say whose payment it is about."""
    return payment_mails.customer_of_dispute(event.object_id) if event.type.startswith("charge.dispute.") else ""


def _copy(event: StripeEvent) -> None:
    """The mirror's row of the object; the mirror says by itself what it cannot copy."""
    about = event.body["data"]["object"]
    kind = str(about.get("object") or "")
    if kind == "credit_note":  # the mirror has none; what it takes off is a field of its invoice
        mirror.copy("invoice", id_of(about.get("invoice")))
    elif kind and event.object_id and event.type != "customer.deleted":
        mirror.copy(kind, event.object_id)
