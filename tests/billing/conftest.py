"""The simulated Stripe over HTTP, the catalogue in it, and customers who pay.

`stripe` is a Stripe of the test's own. Its clock goes with ours until `stripe.advance(...)` moves it on; `stripe.now` is what it
says, and what to give as `now` afterwards. `stripe.faults.add("drop_after", method="POST", path="/v1/customers")` lets something
go wrong.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
import stripe as library

from billing import accounts, catalogue, stripe_api, subscriptions
from billing.models import Account, PlanVersion, StripePrices
from sandbox.stripe_simulator import Settings, StripeSimulator
from sandbox.stripe_simulator.faults import Faults
from tests.conftest import MakeTenant

KEY = "sk_test_" + "simulatedStripe" * 2
WEBHOOK_SECRET, THIN_WEBHOOK_SECRET = "whsec_" + "snapshot" * 4, "whsec_" + "thin" * 8
GOOD_CARD, REFUSING_CARD = "pm_card_visa", "pm_card_chargeCustomerFail"


@pytest.fixture(autouse=True)
def _quick_passwords(settings: Any) -> None:
    """Owners' passwords are hashed as slowly as in production otherwise, which is most of what making a tenant takes."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@dataclass
class Stripe:
    """The simulated Stripe, and what customers and operators do there."""

    simulator: StripeSimulator

    @property
    def url(self) -> str:
        return self.simulator.url

    @property
    def faults(self) -> Faults:
        return self.simulator.faults

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self.simulator.clock.now, UTC)

    def advance(self, to: datetime | timedelta) -> None:
        """It is this moment, or so much later, and all that was due by then has happened."""
        moment = self.now + to if isinstance(to, timedelta) else to
        self.simulator.clock.to(int(moment.timestamp()))

    @property
    def client(self) -> library.StripeClient:
        """Stripe's own library, for what the product never asks."""
        key = stripe_api.secret_key()
        return library.StripeClient(key, base_addresses={"api": self.url, "meter_events": self.url})

    def customer_of(self, account: Account, card: str = GOOD_CARD) -> str:
        """The account has a customer, who pays with this card."""
        customer_id = stripe_api.create_customer(
            tenant_id=account.pk, name=account.tenant.name, email=account.tenant.email, key=f"customer-{account.pk}"
        )
        Account.objects.filter(pk=account.pk).update(customer_id=customer_id)
        account.customer_id = customer_id
        self.use_card(customer_id, card)
        return customer_id

    def use_card(self, customer_id: str, card: str) -> None:
        """All of the customer's invoices are charged to this card from now on."""
        client = self.client.v1
        method = client.payment_methods.attach(card, {"customer": customer_id})
        client.customers.update(customer_id, {"invoice_settings": {"default_payment_method": method.id}})
        for subscription in client.subscriptions.list({"customer": customer_id}).data:
            client.subscriptions.update(subscription.id, {"default_payment_method": method.id})

    def submit(self, page_url: str, **fields: str) -> str:
        """The form of one of Stripe's pages is sent; the address that it leads to, empty when it stays where it is."""
        answer = requests.post(page_url, data=fields, allow_redirects=False, timeout=10)
        return answer.headers.get("Location", "")

    def pay_all(self, customer_id: str) -> None:
        """The customer pays what is open."""
        for invoice in stripe_api.open_invoices(customer_id):
            self.client.v1.invoices.pay(invoice.id)


@pytest.fixture
def stripe(settings: Any) -> Iterator[Stripe]:
    """A Stripe of the test's own; the settings point to it."""
    with StripeSimulator(seed=1, settings=Settings(api_keys=(KEY,), summary_delay_seconds=0)) as simulator:
        settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = simulator.url, False
        settings.STRIPE_LIVE_MODE, settings.STRIPE_TEST_SECRET_KEY = False, KEY
        settings.STRIPE_WEBHOOK_SECRETS = [WEBHOOK_SECRET]
        settings.STRIPE_THIN_WEBHOOK_SECRETS = [THIN_WEBHOOK_SECRET]
        yield Stripe(simulator)


@pytest.fixture
def prices(stripe: Stripe, db: None, now: datetime) -> Callable[[str], StripePrices]:
    """The catalogue is at Stripe; the prices of a plan's public version: prices("launch")."""
    catalogue.make(now=now)

    def of(plan: str) -> StripePrices:
        return StripePrices.objects.get(version=public(plan))

    return of


def public(plan: str) -> PlanVersion:
    return accounts.public_version(plan_code=plan)


Subscribe = Callable[..., Account]


@pytest.fixture
def subscribe(stripe: Stripe, prices: Callable[[str], StripePrices], make_tenant: MakeTenant) -> Subscribe:
    """A tenant that pays for a plan: subscribe("launch"), or subscribe("launch", account=acme)."""

    def make(plan: str = "launch", *, name: str = "Acme", account: Account | None = None) -> Account:
        account = account or make_tenant(name).account
        customer_id = account.customer_id or stripe.customer_of(account)
        stripe_api.subscribe(
            customer_id=customer_id, tenant_id=account.pk, prices=prices(plan), currency="usd", anchor=None,
            key=f"subscribe-{uuid.uuid4()}",
        )  # fmt: skip
        return subscriptions.sync(account_id=account.pk, now=stripe.now)

    return make
