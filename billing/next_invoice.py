"""The next invoice before Stripe makes it: the running period's calls, the fee that is billed ahead, and what waits to be added.

Stripe bills a fee ahead and calls afterwards. While the plan stays as it is, that comes to what the period costs; where it ends or
changes with the period, the difference is named. What waits are charges and credits of ended periods, and the customer's balance.
"""

from dataclasses import dataclass

from metering.periods import Period

from . import accounts, mirrored_invoices
from .estimates import Statement
from .models import Account, Charge

FEE_CHANGE, BALANCE = "fee_change", "balance"


@dataclass(frozen=True, slots=True)
class Addition:
    """What the next invoice has besides the period's fee and calls; negative for a credit."""

    kind: str
    amount_minor: int
    description: str = ""


def additions(*, account: Account, statement: Statement) -> tuple[Addition, ...]:
    """Everything that makes the next invoice differ from what the running period costs, tax apart."""
    if account.customer_id is None:
        return ()
    waiting = [
        Addition(charge.kind, charge.amount_minor, charge.description)
        for charge in _waiting(account, statement.period)
        if charge.amount_minor
    ]
    fee = fee_ahead(account, statement) - statement.terms.fee_minor
    changed = [Addition(FEE_CHANGE, fee)] if fee else []
    return (*changed, *waiting)


def fee_ahead(account: Account, statement: Statement) -> int:
    """The fee of the period that follows: the present plan's, that of the plan it changes to, or none."""
    if account.subscription_id is None:
        return statement.terms.fee_minor
    if account.cancels_at is not None and account.cancels_at <= statement.period.end:
        return 0
    coming = account.next_version
    if coming is None or not accounts.is_sold_in(coming, account.currency):
        return statement.terms.fee_minor
    return accounts.pricing_terms(coming, account.currency).fee_minor


def balance(*, account: Account, total_minor: int) -> int:
    """What Stripe takes from the customer's credit for an invoice of this total (negative), or adds from a debt."""
    if account.customer_id is None:
        return 0
    held = mirrored_invoices.balance_of(account.customer_id)
    return max(held, -max(0, total_minor)) if held < 0 else held


def _waiting(account: Account, period: Period) -> list[Charge]:
    """Charges of earlier periods that are on no invoice yet."""
    states = (Charge.State.PENDING, Charge.State.ADDED)
    found = Charge.objects.filter(
        account_id=account.pk, state__in=states, invoice_id="", period__start__lt=period.start
    )
    unplaced = [
        one
        for one in found.order_by("created_at")
        if "credited" not in one.derivation and not one.stripe_id.startswith("cn_")
    ]
    if not unplaced:
        return []
    made = mirrored_invoices.of_customer(account.customer_id or "")
    placed = {line.charge_id for invoice in made for line in invoice.lines}
    return [charge for charge in unplaced if str(charge.pk) not in placed]
