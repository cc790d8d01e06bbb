"""What corrections of the ledger do to a period's price: the dry run in money."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from metering import adjustments
from tenants.models import Tenant

from . import accounts, pricing
from .models import Account


@dataclass(frozen=True, slots=True)
class Priced:
    """What corrections do to one period in units and in money."""

    effect: adjustments.Effect
    before: pricing.Invoice
    after: pricing.Invoice

    @property
    def difference_minor(self) -> int:
        return self.after.total_minor - self.before.total_minor


def priced(changes: Sequence[adjustments.Change], *, tenant: Tenant, now: datetime) -> list[Priced]:
    """What these corrections do to each period of the tenant, the oldest first; nothing is written.

    Priced under the account's present version, as every estimate is. Raises CannotAdjust.
    """
    account = Account.objects.select_related("plan_version__plan").filter(tenant=tenant).first()
    if account is None:
        raise adjustments.CannotAdjust(f"{tenant} has no plan, so no price.")
    terms = accounts.pricing_terms(account.plan_version, account.currency)
    found = []
    for effect in adjustments.effects(changes, now=now):
        cap_minor = (
            None if effect.is_closed else account.hard_limit_minor
        )  # of a closed period it is not known any more
        before, after = (
            pricing.invoice(terms=terms, quantity=quantity, cap_minor=cap_minor)
            for quantity in (effect.before, effect.after)
        )
        found.append(Priced(effect, before, after))
    return found
