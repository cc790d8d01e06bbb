"""What is to be paid now, as Stripe has it."""

from dataclasses import dataclass
from datetime import datetime

from billing import grace, stripe_api
from billing.errors import BillingError
from billing.models import Account

from . import formatting, refusals


@dataclass(frozen=True, slots=True)
class Due:
    """One open invoice. `next_attempt_at` is None where Stripe will not try the card again."""

    number: str
    amount: str
    since: datetime
    next_attempt_at: datetime | None
    attempts: int
    pay_address: str


@dataclass(frozen=True, slots=True)
class Dues:
    """The page. `trouble` says why Stripe could not be asked; what we know ourselves stays."""

    invoices: tuple[Due, ...]
    trouble: str
    restricts_at: datetime | None


def dues(*, account: Account) -> Dues:
    """The account's open invoices; none for a tenant that Stripe does not know."""
    restricts_at = grace.ends_at(account)
    if account.customer_id is None:
        return Dues((), "", restricts_at)
    try:
        found = stripe_api.open_invoices(account.customer_id)
    except BillingError as error:
        return Dues((), refusals.words(error), restricts_at)
    invoices = tuple(
        Due(
            number=invoice.number or invoice.id,
            amount=formatting.money(invoice.due_minor, invoice.currency),
            since=invoice.created_at,
            next_attempt_at=invoice.next_attempt_at,
            attempts=invoice.attempts,
            pay_address=invoice.pay_url,
        )
        for invoice in found
        if invoice.due_minor > 0
    )
    return Dues(invoices, "", restricts_at)
