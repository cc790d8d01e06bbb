"""Invoices in the mirror without a Stripe behind them: in every state, as Stripe writes them."""

import uuid
from datetime import datetime, timedelta
from typing import Any

from djstripe import models as mirrored

from billing.models import Account

SHOWN: dict[str, dict[str, Any]] = {
    "draft": {"number": None, "hosted_invoice_url": None, "invoice_pdf": None},
    "void": {"amount_remaining": 0},
    "paid": {"amount_remaining": 0},
}


def customer_of(account: Account) -> str:
    """The account's customer, mirrored."""
    if account.customer_id is None:
        account.customer_id = f"cus_{uuid.uuid4().hex[:14]}"
        Account.objects.filter(pk=account.pk).update(customer_id=account.customer_id)
    body = {"id": account.customer_id, "object": "customer", "balance": 0}
    mirrored.Customer.objects.get_or_create(id=account.customer_id, defaults={"stripe_data": body})
    return account.customer_id


def set_balance(account: Account, minor: int) -> None:
    body = {"id": customer_of(account), "object": "customer", "balance": minor}
    mirrored.Customer.objects.filter(id=account.customer_id).update(stripe_data=body)


def line(amount: int, *, start: datetime, end: datetime, **fields: Any) -> dict[str, Any]:
    """A row of an invoice: an invoice item, unless the fields say more."""
    return {
        "id": f"il_{uuid.uuid4().hex[:14]}", "object": "line_item", "amount": amount, "currency": "usd",
        "description": "Something", "quantity": 1, "metadata": {}, "parent": None, "pricing": None,
        "period": {"start": int(start.timestamp()), "end": int(end.timestamp())}, **fields,
    }  # fmt: skip


def invoice(account: Account, *, now: datetime, state: str = "paid", lines: Any = None, **fields: Any) -> str:
    """The account has this invoice in the mirror; its id."""
    customer = customer_of(account)
    identifier = f"in_{uuid.uuid4().hex[:20]}"
    rows = lines if lines is not None else [line(19_00, start=now - timedelta(days=30), end=now)]
    total = sum(row["amount"] for row in rows)
    made = int(now.timestamp())
    body = {
        "id": identifier, "object": "invoice", "customer": customer, "status": state, "currency": "usd", "created": made,
        "number": f"ACME-{identifier[-4:]}", "total": total, "subtotal": total, "amount_remaining": total,
        "amount_paid": total if state == "paid" else 0, "attempt_count": 0, "next_payment_attempt": None,
        "hosted_invoice_url": f"https://invoice.stripe.com/i/{identifier}", "invoice_pdf": f"https://pay.stripe.com/{identifier}/pdf",
        "lines": {"data": rows, "has_more": False}, "starting_balance": 0, "ending_balance": 0,
        "status_transitions": {"finalized_at": None if state == "draft" else made},
        "total_discount_amounts": [], "total_taxes": [], "pre_payment_credit_notes_amount": 0,
        "post_payment_credit_notes_amount": 0, **SHOWN.get(state, {}), **fields,
    }  # fmt: skip
    mirrored.Invoice.objects.create(id=identifier, customer_id=customer, created=now, stripe_data=body)
    return identifier
