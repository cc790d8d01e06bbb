"""The demo's paying tenants at Stripe: customers with a card, subscribed since their running period began."""

from collections.abc import Callable, Iterable
from datetime import datetime

from billing import accounts, catalogue, checkout, stripe_api, subscriptions
from billing.models import Account
from metering import usage

from . import story

CARD = "pm_card_visa"  # a test card of Stripe's that always pays
Say = Callable[[str], None]


def subscribe(*, now: datetime, say: Say, stories: Iterable[story.TenantStory] = story.TENANTS) -> int:
    """The catalogue is at Stripe, and each story's paying tenant is subscribed; returns how many were not before.

    Interrupted or repeated it goes on where it was: each write has a key of its own. Raises StripeError.
    """
    if catalogue.missing_versions():
        catalogue.make(now=now)
    slugs = [told.slug for told in stories]
    found = Account.objects.filter(tenant__slug__in=slugs, subscription_id=None).select_related(
        "tenant__allowance", "plan_version__plan"
    )
    paying = [account for account in found if accounts.is_sold(account.plan_version)]
    for account in paying:
        subscribe_one(account, now)
        say(f"{account.tenant.name} is a customer of Stripe, on {account.plan_version.plan.name}")
    return len(paying)


def subscribe_one(account: Account, now: datetime) -> None:
    """The tenant has a customer at Stripe with a card, subscribed since its running period began."""
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    customer_id = checkout.customer(account)
    stripe_api.give_card(customer_id=customer_id, card=CARD, key=f"demo-card-{account.pk}")
    stripe_api.subscribe(
        customer_id=customer_id,
        tenant_id=account.pk,
        prices=account.plan_version.stripe_prices,
        currency=account.currency,
        anchor=period.end,
        backdated_to=period.start,
        key=f"demo-subscription-{account.pk}",
    )
    sync(account, now)


def sync(account: Account, now: datetime) -> None:
    """The account says what Stripe says."""
    subscriptions.sync(account_id=account.pk, now=now)
