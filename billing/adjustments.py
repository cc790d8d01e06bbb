"""What a correction of the ledger does to a period's price: the dry run in money."""

from dataclasses import dataclass
from datetime import datetime

from metering import adjustments

from . import accounts, pricing
from .models import Account


@dataclass(frozen=True, slots=True)
class Priced:
    """A correction's effect in units and in money. The period is priced under the account's present version."""

    effect: adjustments.Effect
    before: pricing.Invoice
    after: pricing.Invoice

    @property
    def difference_minor(self) -> int:
        return self.after.total_minor - self.before.total_minor


def priced(change: adjustments.Change, *, now: datetime) -> Priced:
    """The correction's effect, with nothing written; raises CannotAdjust when the period would fall below zero."""
    effect = adjustments.effect(change, now=now)
    account = Account.objects.select_related("plan_version__plan").get(tenant_id=change.tenant_id)
    terms = accounts.pricing_terms(account.plan_version)
    if effect.after < 0:
        raise adjustments.CannotAdjust(
            f"The period has {effect.before:,} units; {-change.units:,} cannot be taken away."
        )
    return Priced(
        effect,
        pricing.invoice(terms=terms, quantity=effect.before),
        pricing.invoice(terms=terms, quantity=effect.after),
    )
