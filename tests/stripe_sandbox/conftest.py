"""Stripe itself, with a key of yours: `STRIPE_SANDBOX_KEY=sk_test_... uv run pytest tests/stripe_sandbox`. See docs/stripe.md."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from django.conf import settings as django_settings

from billing.models import Account

CLOCK_SECONDS = 180  # Stripe advances a clock within minutes, while it bills
GOOD_CARD, REFUSING_CARD = "pm_card_visa", "pm_card_chargeCustomerFail"


@dataclass
class Sandbox:
    """Stripe's test mode: a test clock that moves when told, and cards that pay or fail."""

    client: stripe.StripeClient
    clock_id: str

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock().frozen_time, UTC)

    def _clock(self) -> Any:
        return self.client.v1.test_helpers.test_clocks.retrieve(self.clock_id)

    def advance(self, to: datetime) -> None:
        """It is this moment at Stripe, and everything that was due by then has happened. At most two months at once."""
        self.client.v1.test_helpers.test_clocks.advance(self.clock_id, {"frozen_time": int(to.timestamp())})
        deadline = time.monotonic() + CLOCK_SECONDS
        while self._clock().status == "advancing":
            if time.monotonic() > deadline:
                pytest.fail(f"Stripe did not advance its test clock within {CLOCK_SECONDS} s.")
            time.sleep(2)

    def customer_of(self, account: Account) -> str:
        """A customer who lives by the test clock and pays with a card that works."""
        made = self.client.v1.customers.create(
            {
                "name": account.tenant.name,
                "email": account.tenant.email,
                "test_clock": self.clock_id,
                "metadata": {"tenant_id": str(account.pk)},
            }
        )
        Account.objects.filter(pk=account.pk).update(customer_id=made.id)
        account.refresh_from_db()
        self.use_card(made.id, GOOD_CARD)
        return made.id

    def use_card(self, customer_id: str, card: str) -> None:
        """All of the customer's invoices are charged to this card from now on."""
        method = self.client.v1.payment_methods.attach(card, {"customer": customer_id})
        self.client.v1.customers.update(customer_id, {"invoice_settings": {"default_payment_method": method.id}})
        for subscription in self.client.v1.subscriptions.list({"customer": customer_id}).data:
            self.client.v1.subscriptions.update(subscription.id, {"default_payment_method": method.id})

    def pay(self, invoice_id: str) -> None:
        self.client.v1.invoices.pay(invoice_id)


def eventually(answer: Callable[[], Any], *, seconds: float = 90, what: str = "it") -> Any:
    """The first true answer: some of Stripe's figures lag behind."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := answer():
            return found
        time.sleep(2)
    return pytest.fail(f"{what} did not happen at Stripe within {seconds:.0f} s.")


@pytest.fixture
def sandbox(socket_enabled: None, settings: Any) -> Iterator[Sandbox]:
    """Stripe's test mode, and a test clock that is deleted afterwards with all its customers."""
    key = os.environ.get("STRIPE_SANDBOX_KEY", "")
    if not key:
        pytest.skip("STRIPE_SANDBOX_KEY is not set: this runs against Stripe itself, see docs/stripe.md.")
    if not key.startswith("sk_test_"):
        pytest.fail("STRIPE_SANDBOX_KEY must be a secret key of test mode (sk_test_...): it makes test clocks.")
    settings.STRIPE_LIVE_MODE, settings.STRIPE_TEST_SECRET_KEY = False, key
    settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = django_settings.STRIPE_REAL_API, True
    client = stripe.StripeClient(key, stripe_version=django_settings.STRIPE_API_VERSION, max_network_retries=3)
    start = datetime.now(UTC) - timedelta(days=1)
    clock = client.v1.test_helpers.test_clocks.create({"frozen_time": int(start.timestamp()), "name": "meterhouse"})
    yield Sandbox(client, clock.id)
    client.v1.test_helpers.test_clocks.delete(clock.id)
