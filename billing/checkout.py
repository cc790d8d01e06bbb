"""Stripe's pages: buying the first paid plan, leaving a card, and the portal for card, tax id and address.

A subscription exists only once it is paid, and is then found by `subscriptions.sync`; nothing here changes what is enforced.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from urllib.parse import urlsplit

from django.db import transaction

from tenants import audit

from . import accounts, stripe_api, subscriptions
from .accounts import NotOffered
from .errors import BillingError, SavedFailure
from .models import Account, PaymentState, PlanVersion, StripePrices
from .stripe_api import Checkout, Subscription


class AlreadySubscribed(BillingError):
    """There is a subscription: its plan is changed, not bought a second time."""


class StillOwes(BillingError):
    """An invoice of a subscription that has ended is unpaid: it is paid before another is bought."""


class NotInCatalogue(BillingError):
    """Stripe does not know the plan's prices yet."""


class NoCustomer(BillingError):
    """Stripe knows nothing of this tenant, so it has no page for it."""


def begin(
    *,
    account: Account,
    version: PlanVersion,
    currency: str,
    success_url: str,
    cancel_url: str,
    actor: str,
    now: datetime,
) -> str:
    """The address of the page on which the customer pays for this plan; it is subscribed once it has paid.

    Asking again gives the same page while it is open; pages for other plans take no payment any more, so that nobody pays
    twice. Raises AlreadySubscribed, StillOwes, NotOffered, NotInCatalogue and StripeError.
    """
    prices = offered_prices(account=account, version=version, currency=currency)
    _refuse_second(account)
    _refuse_debtor(account, now)
    page = _page(
        account=account,
        customer_id=_living_customer(account),
        prices=prices,
        currency=currency,
        urls=Urls(success_url, cancel_url),
        now=now,
    )
    audit.record(
        tenant=account.tenant,
        actor=actor,
        action="checkout.begun",
        subject=str(version),
        checkout=page.id,
        currency=currency,
    )
    return page.url


@dataclass(frozen=True, slots=True)
class Urls:
    """Where Stripe's page leads back to."""

    success: str
    cancel: str


def _page(
    *, account: Account, customer_id: str, prices: StripePrices, currency: str, urls: Urls, now: datetime
) -> Checkout:
    """An open page for these prices, the only one that takes payment."""
    past = stripe_api.subscriptions_of(customer_id)
    if any(one.is_live for one in past):  # paid a moment ago
        _refuse_second(subscriptions.sync(account_id=account.pk, now=now))
    pages = stripe_api.checkouts_of(customer_id)
    return _open_page(pages, prices, currency) or stripe_api.create_checkout(
        customer_id=customer_id,
        tenant_id=account.pk,
        prices=prices,
        currency=currency,
        trial_days=_trial_days(prices.version, past),
        success_url=urls.success,
        cancel_url=urls.cancel,
        key=f"checkout-{customer_id}-{prices.version_id}-{currency}-after-{pages[0].id if pages else 'none'}",
    )


def offered_prices(*, account: Account, version: PlanVersion, currency: str) -> StripePrices:
    """The prices under which this tenant may buy the version; raises NotOffered or NotInCatalogue."""
    if version.tenant_id not in {None, account.pk}:
        raise NotOffered(f"{version} was agreed with another tenant.")
    if version.tenant_id is None and version != accounts.public_version(plan_code=version.plan.code):
        raise NotOffered(f"{version} is no longer sold; the plan page shows the present one.")
    if not accounts.is_sold(version):
        raise NotOffered(f"{version.plan} is not bought: it is free or made by agreement. Please write to us.")
    if not accounts.is_sold_in(version, currency):
        raise NotOffered(f"{version.plan} is not sold in {currency.upper()}.")
    prices = StripePrices.objects.filter(version=version).first()
    if prices is None:
        raise NotInCatalogue(f"{version} has no prices at Stripe yet. An operator runs: manage.py stripe_catalogue")
    return prices


def _refuse_second(account: Account) -> None:
    if account.state != PaymentState.NONE:
        raise AlreadySubscribed(
            f"There is a subscription of {account.plan_version.plan} already: change its plan instead."
        )


def _refuse_debtor(account: Account, now: datetime) -> None:
    if account.past_due_since is None or subscriptions.sync(account_id=account.pk, now=now).past_due_since is None:
        return  # nothing is owed, or it was paid a moment ago
    raise StillOwes("An invoice of your former subscription is unpaid. Pay it first, then subscribe again.")


def _trial_days(version: PlanVersion, past: list[Subscription]) -> int:
    """A trial is for the first subscription alone."""
    return 0 if any(one.status != "incomplete_expired" for one in past) else version.trial_days


def _open_page(pages: list[Checkout], prices: StripePrices, currency: str) -> Checkout | None:
    """The open page for these prices; the others are closed."""
    wanted = {"version": str(prices.version_id), "currency": currency}
    kept: Checkout | None = None
    for page in pages:
        about = page.metadata or {}
        if page.status != "open" or "version" not in about:
            continue
        if kept is None and wanted.items() <= about.items():
            kept = page
        else:
            stripe_api.expire_checkout(page.id, key=f"expire-{page.id}")
    return kept


def customer(account: Account, *, instead_of: str | None = None) -> str:
    """The tenant's customer at Stripe, made when there is none; `instead_of` is one that Stripe has no more."""
    if account.customer_id and account.customer_id != instead_of:
        return account.customer_id
    known = stripe_api.find_customer(tenant_id=account.pk)
    if known is None or known == instead_of:
        known = _made_customer(account, f"customer-{account.pk}" + (f"-after-{instead_of}" if instead_of else ""))
    with transaction.atomic():
        locked = Account.objects.select_for_update().get(pk=account.pk)
        if locked.customer_id and locked.customer_id != instead_of:
            known = locked.customer_id  # another click was faster; the customer it does not use has nothing to pay
        else:
            locked.customer_id = known
            locked.save(update_fields=["customer_id"])
    account.customer_id = known
    return known


def _living_customer(account: Account) -> str:
    """The tenant's customer; a new one where it was deleted at Stripe, or is another Stripe's."""
    known = customer(account)
    return known if stripe_api.has_customer(known) else customer(account, instead_of=known)


def _made_customer(account: Account, key: str) -> str:
    tenant = account.tenant
    create = partial(stripe_api.create_customer, tenant_id=tenant.pk, name=tenant.name, email=tenant.email)
    try:
        return create(key=key)
    except SavedFailure:  # nothing was found of it, so it did not happen; under this key Stripe would fail for a day
        return create(key=f"{key}-again")


def portal(*, account: Account, return_url: str, flow: str = "") -> str:
    """The address of Stripe's page for card, tax id and address. Raises NoCustomer and StripeError."""
    if not account.customer_id:
        raise NoCustomer("Nothing was paid here yet, so there is no card to show. Choose a paid plan first.")
    return stripe_api.create_portal(customer_id=account.customer_id, return_url=return_url, flow=flow)


def card(*, account: Account, success_url: str, cancel_url: str, actor: str, now: datetime) -> str:
    """The address of a page on which the customer leaves a card for later; nothing is charged. Raises StripeError."""
    page = stripe_api.create_card_setup(
        customer_id=_living_customer(account),
        success_url=success_url,
        cancel_url=cancel_url,
        key=f"card-{account.pk}-{now:%Y%m%d%H%M}-{urlsplit(success_url).path}",
    )
    audit.record(tenant=account.tenant, actor=actor, action="card.asked", subject=page.id)
    return page.url


def has_card(*, account: Account) -> bool:
    """Whether an invoice could be charged to a card that the customer left. Raises StripeError."""
    return bool(account.customer_id and stripe_api.card_of(account.customer_id))
