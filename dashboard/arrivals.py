"""Back from Checkout: whether Stripe has confirmed the subscription yet."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing import subscriptions
from billing.errors import BillingError
from billing.models import Account, PaymentState

from . import formatting, refusals

CONFIRMED = frozenset({PaymentState.ACTIVE, PaymentState.TRIALING})


@dataclass(frozen=True, slots=True)
class Arrival:
    """The page. `trouble` says why Stripe could not be asked."""

    account: Account
    is_confirmed: bool
    plan: str
    terms: tuple[tuple[str, str], ...]
    trouble: str


def arrival(*, account: Account, asks_stripe: bool, now: datetime) -> Arrival:
    """The account as it is now, after asking Stripe once if so wished: the webhook may still be on its way."""
    trouble = ""
    if asks_stripe and account.customer_id and not _is_confirmed(account):
        try:
            account = subscriptions.sync(account_id=account.pk, now=now)
        except BillingError as error:
            trouble = refusals.words(error)
    version = account.plan_version
    return Arrival(
        account=account,
        is_confirmed=_is_confirmed(account),
        plan=version.plan.name,
        terms=(
            (_("Included calls"), _("unlimited") if version.included is None else formatting.count(version.included)),
            (_("Calls per second"), formatting.count(version.burst_per_second)),
            (
                _("Projects"),
                _("unlimited") if version.max_projects is None else formatting.count(version.max_projects),
            ),
        ),
        trouble=trouble,
    )


def _is_confirmed(account: Account) -> bool:
    return account.subscription_id is not None and account.state in CONFIRMED
