"""Mails about payments, by what Stripe has now: an invoice that was paid in the meantime is not complained about."""

import logging
from typing import Any

from tenants import events, notices
from tenants.models import EventType, Notice, WebhookEndpoint

from . import grace, letters, stripe_api
from .errors import NoSuchObject
from .models import Account, PaymentState
from .stripe_objects import OpenInvoice, id_of

logger = logging.getLogger(__name__)


def tell_unpaid(*, account: Account) -> None:
    """The latest failed try of each open invoice is told. A first payment fails before the customer's eyes: no mail."""
    if account.past_due_since is None or account.customer_id is None:
        return
    for invoice in stripe_api.open_invoices(account.customer_id):
        if invoice.attempts:
            _emit_failed(account, invoice)
            _tell(account, letters.payment_failed(invoice=invoice, restricted_at=grace.ends_at(account)))


def _emit_failed(account: Account, invoice: OpenInvoice) -> None:
    events.emit(
        tenant=account.tenant,
        event=EventType.PAYMENT_FAILED,
        key=f"{invoice.id}:{invoice.attempts}",
        data={
            "invoice": invoice.id, "number": invoice.number, "due_minor": invoice.due_minor, "currency": invoice.currency,
            "attempts": invoice.attempts,
        },
    )  # fmt: skip


def emit_paid(*, account: Account, invoice_id: str) -> None:
    """That an invoice is paid is on record for the webhooks that listen."""
    listening = WebhookEndpoint.objects.filter(
        tenant=account.tenant, is_on=True, events__contains=[EventType.INVOICE_PAID.value]
    )
    invoice = _own(account, "invoice", invoice_id) if listening.exists() else None
    if invoice is not None and invoice["status"] == "paid":
        told = {"number": invoice.get("number"), "paid_minor": invoice["amount_paid"], "currency": invoice["currency"]}
        events.emit(
            tenant=account.tenant, event=EventType.INVOICE_PAID, key=invoice_id, data={"invoice": invoice_id, **told}
        )


def tell_action_required(*, account: Account, invoice_id: str) -> None:
    """A payment that the bank wants confirmed is told, while its invoice is open."""
    waiting = stripe_api.open_invoices(account.customer_id) if account.customer_id else []
    for invoice in waiting:
        if invoice.id == invoice_id:
            _tell(account, letters.payment_action_required(invoice=invoice))


def tell_recovered(*, account: Account, invoice_id: str) -> None:
    """That an invoice is paid is told where a failure was told before, and to webhooks always."""
    emit_paid(account=account, invoice_id=invoice_id)
    failed = Notice.objects.filter(tenant=account.tenant, kind="payment.failed", key__startswith=f"{invoice_id}:")
    if failed.exists():
        invoice = _own(account, "invoice", invoice_id)
        if invoice is not None and invoice["status"] == "paid":
            _tell(account, letters.payment_recovered(invoice=invoice))


def tell_refunded(*, account: Account, charge_id: str) -> None:
    """What has been refunded of a charge so far is told."""
    charge = _own(account, "charge", charge_id)
    if charge is not None and charge["amount_refunded"]:
        _tell(account, letters.payment_refunded(charge=charge))


def tell_disputed(*, account: Account, dispute_id: str) -> None:
    """A payment that the bank took back is told, and logged: somebody has to answer the bank within days."""
    dispute = _present("dispute", dispute_id)
    if dispute is None or customer_of_dispute(dispute_id) != account.customer_id:
        return
    if _tell(account, letters.payment_disputed(dispute=dispute)):
        logger.error(
            "A payment of tenant %s is disputed (%s): answer it in Stripe's dashboard.", account.pk, dispute_id
        )


def tell_trial_ending(*, account: Account) -> None:
    """The end of a running trial is told."""
    if account.state == PaymentState.TRIALING and account.trial_ends_at is not None:
        _tell(account, letters.trial_ending(account=account, ends_at=account.trial_ends_at))


def customer_of_dispute(dispute_id: str) -> str:
    """Whose payment is disputed: a dispute names its charge, and the charge its customer. Empty when it names none."""
    dispute = _present("dispute", dispute_id) or {}
    charge_id = id_of(dispute.get("charge"))
    charge = _present("charge", charge_id) if charge_id else None
    return id_of(charge.get("customer")) if charge else ""


def _tell(account: Account, letter: letters.Letter) -> bool:
    return notices.tell(tenant=account.tenant, kind=letter.kind, key=letter.key, title=letter.title, text=letter.text)


def _own(account: Account, kind: str, object_id: str) -> dict[str, Any] | None:
    """The account's object as Stripe has it now; None when it is gone or another customer's."""
    found = _present(kind, object_id)
    return found if found is not None and id_of(found.get("customer")) == account.customer_id else None


def _present(kind: str, object_id: str) -> dict[str, Any] | None:
    try:
        plain: dict[str, Any] = stripe_api.raw(kind, object_id).to_dict(for_json=True)
    except NoSuchObject:
        return None
    return plain
