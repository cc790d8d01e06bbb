"""acme has been on Launch for ten days when its plan changes: the simulated Stripe, small terms, a clock that moves when told."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from billing import accounts, catalogue, changes, stripe_api, subscriptions
from billing.models import Account, Consent, PlanChange, PlanVersion, StripePrices
from billing.onboarding import Onboarded
from metering import partitions, usage
from metering.ledger import commit
from metering.recorder import Batch, call_id
from metering.testing import TestsDatabase, inline_metering
from sandbox.stripe_simulator import Settings, StripeSimulator
from tests.billing.serving import serve
from tests.conftest import MakeTenant
from tests.metering.test_recovery import entry

KEY = "sk_test_" + "simulatedStripe" * 2
METER = "meterhouse_calls"
INCLUDED = 10
SUBSCRIBED_FOR = timedelta(days=10)
BEHIND = timedelta(days=4)  # the story is told in the past, so that everything in it may be counted already
QUICK = "django.contrib.auth.hashers.MD5PasswordHasher"
GOOD_CARD = "pm_card_visa"


@dataclass
class Story:
    """What a customer, Stripe and the beat do, and what can be seen afterwards."""

    simulator: StripeSimulator
    acme: Onboarded

    # -- what can be seen ----------------------------------------------------------------------------------------------
    @property
    def now(self) -> datetime:
        """What to give as `now`: Stripe's clock, which stands still until it is moved."""
        return datetime.fromtimestamp(self.simulator.clock.now, UTC)

    @property
    def account(self) -> Account:
        return Account.objects.select_related("tenant__allowance", "plan_version__plan", "next_version__plan").get(
            pk=self.acme.tenant.pk
        )

    @property
    def change(self) -> PlanChange:
        """The latest."""
        return PlanChange.objects.filter(account_id=self.acme.tenant.pk).latest("requested_at")

    @property
    def consent(self) -> Consent:
        return Consent.objects.filter(account_id=self.acme.tenant.pk).latest("given_at")

    @property
    def customer_id(self) -> str:
        return self.account.customer_id or ""

    @property
    def accepted(self) -> int:
        """Units that Stripe counts for the customer, whatever the period: the oracle."""
        return self.simulator.accepted(self.customer_id, METER)

    def invoices(self) -> list[dict[str, Any]]:
        """Of changes, the oldest first."""
        found = [one for one in self.simulator.invoices if one["customer"] == self.customer_id]
        return [one for one in found if one["billing_reason"] == "subscription_update" and one["status"] == "paid"]

    def invoiced(self) -> tuple[int, int]:
        """What the invoices of changes charge for fees and for calls."""
        fees = calls = 0
        for invoice in self.invoices():
            for line in invoice["lines"]["data"]:
                details = (line["parent"] or {}).get("subscription_item_details") or {}
                if details.get("proration"):
                    fees += line["amount"]
                else:
                    calls += line["amount"]
        return fees, calls

    # -- what is done --------------------------------------------------------------------------------------------------
    def serve(self, count: int) -> int:
        """Calls of this moment by the wall clock; how many were admitted. Afterwards nothing waits to be flushed."""
        with inline_metering():
            return serve(self.acme.api_key, count)

    def move(self, by: timedelta = timedelta(seconds=2)) -> None:
        """Time passes at Stripe and for `now`."""
        self.simulator.clock.advance(by.total_seconds())

    def record(self, count: int, *, at: datetime | None = None) -> None:
        """The ledger has this many calls of an instant, by default of the second before now."""
        instant = at or self.now - timedelta(seconds=1)
        period = usage.current_period(allowance=self.account.tenant.allowance, now=instant)
        entries = [
            entry(
                self.acme, id=call_id(instant.timestamp()), occurred_at=instant.timestamp(),
                period_start=period.start.timestamp(), period_end=period.end.timestamp(),
            )
            for _ in range(count)
        ]  # fmt: skip
        with TestsDatabase().connection() as connection:
            commit(connection, Batch(tuple(entries), {}))

    def use_card(self, behavior: str) -> None:
        self.simulator.set_card(self.customer_id, behavior)

    def advance(self, steps: int = 6) -> PlanChange:
        """The beat comes by a few times, two seconds apart."""
        for _ in range(steps):
            changes.advance_due(now=self.now)
            self.move()
        return self.change


def terms_of(tenant: Onboarded, plan: str, **agreed: Any) -> PlanVersion:
    """The plan with other terms, for this tenant alone."""
    return accounts.agreed_version(
        tenant=tenant.tenant, version=accounts.public_version(plan_code=plan), agreed=accounts.Agreed(**agreed)
    )


def prices_of(version: PlanVersion) -> StripePrices:
    return StripePrices.objects.get(version=version)


def card(customer_id: str) -> None:
    """The customer leaves a card that works."""
    client = stripe_api.client()
    method = client.v1.payment_methods.attach(GOOD_CARD, {"customer": customer_id})
    client.v1.customers.update(customer_id, {"invoice_settings": {"default_payment_method": method.id}})


@contextmanager
def simulated_stripe(settings: Any, *, behind: timedelta = BEHIND) -> Iterator[StripeSimulator]:
    """A Stripe of some days ago, whose clock stands still until it is moved; the settings point to it."""
    start = datetime.now(UTC) - behind - SUBSCRIBED_FOR
    partitions.ensure(calls_from=start, hours_from=start - timedelta(days=40), now=datetime.now(UTC))
    kept = Settings(api_keys=(KEY,), summary_delay_seconds=1.0)
    with StripeSimulator(start=int(start.timestamp()), is_frozen=True, settings=kept) as simulator:
        settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = simulator.url, False
        settings.STRIPE_LIVE_MODE, settings.STRIPE_TEST_SECRET_KEY = False, KEY
        settings.PASSWORD_HASHERS = [QUICK]  # of many tenants nobody signs in
        yield simulator


def customer(tenant: Onboarded) -> str:
    """The tenant has a customer with a card."""
    made = stripe_api.create_customer(
        tenant_id=tenant.tenant.pk, name=tenant.tenant.name, email=tenant.tenant.email, key=uuid.uuid4().hex
    )
    Account.objects.filter(pk=tenant.tenant.pk).update(customer_id=made)
    card(made)
    return made


def small_launch(included: int, unit_price_minor: Decimal, now: datetime) -> PlanVersion:
    """A version of Launch that is for sale and at Stripe, with so few calls that a test can use them up."""
    terms: dict[str, Any] = {"included": included, "unit_price_minor": unit_price_minor, "burst_per_second": 10**6}
    versions = PlanVersion.objects.filter(plan__code="launch", tenant=None).order_by("-number")
    version = versions.filter(**terms).first()
    if version is None:
        version = versions[0]
        version.pk, version.number, version.used_at = None, version.number + 1, None
        for name, value in terms.items():
            setattr(version, name, value)
        version.save(force_insert=True)
        catalogue.make(now=now)
    return version


def subscribed(
    simulator: StripeSimulator, make_tenant: MakeTenant, *, included: int = INCLUDED,
    unit_price_minor: Decimal = Decimal(100), since: timedelta = SUBSCRIBED_FOR,
) -> Story:  # fmt: skip
    """acme has been on Launch (19.00 with ten calls, 1.00 for each beyond) for ten days, or `since` a shorter time."""
    begun = datetime.fromtimestamp(simulator.clock.now, UTC)
    acme = make_tenant(anchor=begun)
    stripe_api.subscribe(
        customer_id=customer(acme), tenant_id=acme.tenant.pk, currency="usd", anchor=None, key=uuid.uuid4().hex,
        prices=prices_of(small_launch(included, unit_price_minor, begun)),
    )  # fmt: skip
    subscriptions.sync(account_id=acme.tenant.pk, now=begun)
    simulator.clock.advance(since.total_seconds())
    return Story(simulator, acme)
