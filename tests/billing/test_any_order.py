"""A subscription's whole life, its webhooks shuffled, doubled, late and lost: with the sweep, the end is what Stripe says.

Stripe's objects are the oracle: what an account must be is read from the simulator, not from what our code did before.
"""

import json
import random
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.test import RequestFactory
from django.urls import resolve
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing import grace, inbox, stripe_api, subscriptions, sweep
from billing.models import Account, PaymentState, StripeEvent, StripePrices
from metering.models import Allowance
from tenants.models import Notice
from tests.billing.conftest import THIN_WEBHOOK_SECRET, WEBHOOK_SECRET, Stripe, Subscribe, public
from tests.billing.test_webhooks import signature
from tests.conftest import MakeTenant

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STEPS = (
    "subscribe", "upgrade", "schedule_downgrade", "cancel_later", "go_on", "cancel_now", "bad_card", "good_card", "pay",
    "next_invoice", "day", "refund",
)  # fmt: skip
SECRETS = {
    "event": ("/webhooks/stripe", WEBHOOK_SECRET),
    "v2.core.event": ("/webhooks/stripe/thin", THIN_WEBHOOK_SECRET),
}


class Life:
    """One customer at Stripe, and the post between Stripe and us."""

    def __init__(self, stripe: Stripe, account: Account, chance: random.Random) -> None:
        self.stripe, self.account, self.chance = stripe, account, chance
        self.customer_id = account.customer_id or stripe.customer_of(account)
        self.seen = len(stripe.simulator.events)
        self.late = timedelta()

    @property
    def now(self) -> Any:
        """Never backwards, as the clock of a server."""
        self.late += timedelta(milliseconds=1)
        return self.stripe.now + self.late

    @property
    def live(self) -> list[dict[str, Any]]:
        own = self.stripe.simulator.subscriptions.all(customer=self.customer_id)
        return [one for one in own if one["status"] in {"trialing", "active", "past_due", "unpaid"}]

    # -- what happens at Stripe ----------------------------------------------------------------------------------------
    def step(self, name: str) -> None:
        """It happens, or Stripe refuses it: either way is life."""
        with suppress(stripe_api.StripeRefused):
            getattr(self, name)()

    def subscribe(self) -> None:
        if not self.live:
            stripe_api.subscribe(
                customer_id=self.customer_id, tenant_id=self.account.pk, currency="usd", anchor=None,
                prices=StripePrices.objects.get(version=public("launch")), key=f"subscribe-{self.chance.random()}",
            )  # fmt: skip

    def upgrade(self) -> None:
        for one in self.live:
            stripe_api.replace_prices(
                subscription=stripe_api.subscription(one["id"]), currency="usd", at=self.stripe.now,
                prices=StripePrices.objects.get(version=public("scale")), key=f"upgrade-{self.chance.random()}",
            )  # fmt: skip

    def schedule_downgrade(self) -> None:
        for one in self.live:
            stripe_api.schedule_prices(
                subscription=stripe_api.subscription(one["id"]), currency="usd",
                prices=StripePrices.objects.get(version=public("launch")), key=f"schedule-{self.chance.random()}",
            )  # fmt: skip

    def _set_cancels(self, cancels: bool) -> None:
        for one in self.live:
            stripe_api.set_cancels_at_period_end(
                subscription_id=one["id"], cancels=cancels, key=f"cancel-{self.chance.random()}"
            )

    def cancel_later(self) -> None:
        self._set_cancels(True)

    def go_on(self) -> None:
        self._set_cancels(False)

    def cancel_now(self) -> None:
        for one in self.live:
            self.stripe.client.v1.subscriptions.cancel(one["id"])

    def bad_card(self) -> None:
        self.stripe.use_card(self.customer_id, "pm_card_chargeCustomerFail")

    def good_card(self) -> None:
        self.stripe.use_card(self.customer_id, "pm_card_visa")

    def pay(self) -> None:
        self.good_card()
        self.stripe.pay_all(self.customer_id)

    def next_invoice(self) -> None:
        if self.live:
            self.stripe.simulator.clock.to_next_invoice()
            self.stripe.advance(2 * HOUR)

    def day(self) -> None:
        self.stripe.advance(DAY)

    def refund(self) -> None:
        for charge in self.stripe.simulator.charges.all(customer=self.customer_id, refunded=False, paid=True)[:1]:
            self.stripe.simulator.refund(charge["id"])

    # -- what reaches us -----------------------------------------------------------------------------------------------
    def deliver(self, most: int) -> None:
        """Some of the events so far arrive, in any order and some of them again; the others may be lost for ever."""
        events = list(self.stripe.simulator.events)[self.seen :]
        chosen = self.chance.choices(events, k=min(most, len(events))) if events else []
        for event in chosen:
            path, secret = SECRETS[event["object"]]
            payload = json.dumps(event).encode()
            header = {"stripe-signature": signature(payload, secret=secret)}
            request = RequestFactory().post(path, payload, content_type="application/json", headers=header)
            assert resolve(path).func(request).status_code == 200
        if self.chance.random() < 0.7:  # else the worker is behind
            inbox.handle_due(now=self.now)

    def at_rest(self) -> Account:
        """Hours later, with nothing more from Stripe: the beat has run."""
        self.late += 7 * HOUR
        inbox.handle_due(now=self.now)
        sweep.sweep(now=self.now)
        grace.restrict_overdue(now=self.now)
        return Account.objects.select_related("plan_version__plan", "tenant").get(pk=self.account.pk)


def assert_as_stripe_says(life: Life, account: Account) -> None:
    """What is enforced is what Stripe's objects say, by a reading of our own."""
    allowance = Allowance.objects.get(tenant=account.tenant)
    if not life.live:
        assert (account.state, account.subscription_id, account.cancels_at) == (PaymentState.NONE, None, None)
        assert (account.plan_version.plan.code, allowance.included, allowance.restriction) == ("free", 5_000, "")
        return
    (subscription,) = life.live
    prices = {item["price"]["id"] for item in subscription["items"]["data"]}
    plan = StripePrices.objects.get(fee_price_id__in=prices).version.plan.code
    assert (account.subscription_id, account.plan_version.plan.code) == (subscription["id"], plan)
    assert allowance.included == {"launch": 100_000, "scale": 1_000_000}[plan]
    ends = {item["current_period_end"] for item in subscription["items"]["data"]}
    assert account.period_end is not None
    assert {int(account.period_end.timestamp())} == ends
    assert (account.cancels_at is not None) == bool(subscription["cancel_at_period_end"] or subscription["cancel_at"])
    expected = {"active": {PaymentState.ACTIVE}, "unpaid": {PaymentState.RESTRICTED}}.get(
        subscription["status"], {PaymentState.PAST_DUE, PaymentState.RESTRICTED}
    )
    assert account.state in expected
    assert (account.past_due_since is not None) == (subscription["status"] != "active")
    if account.past_due_since is not None:
        is_over = grace.end_of(account.past_due_since) <= life.now
        assert (account.state == PaymentState.RESTRICTED) == (is_over or subscription["status"] == "unpaid")
    assert bool(allowance.restriction) == (account.state == PaymentState.RESTRICTED)


@pytest.mark.usefixtures("_quiet")
def test_whatever_arrives_and_in_whatever_order_the_end_is_the_same(
    request: pytest.FixtureRequest, stripe: Stripe, subscribe: Subscribe, make_tenant: MakeTenant
) -> None:
    initech = make_tenant("Initech")
    examples = 100 if request.config.getoption("--long") else 3

    @hypothesis_settings(
        deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck), print_blob=True, database=None
    )
    @given(
        story=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from((0, 0, 0, 1, 3, 8))), min_size=2, max_size=8),
        seed=st.integers(0, 2**32),
    )
    def is_the_same(story: list[tuple[str, int]], seed: int) -> None:
        life = Life(stripe, subscribe("launch"), random.Random(seed))
        for name, delivered in story:
            life.step(name)
            life.deliver(delivered)
        account = life.at_rest()
        assert_as_stripe_says(life, account)
        assert not StripeEvent.objects.filter(state__in=["received", "failed"]).exists()
        assert_nothing_moves_it(life, account)
        assert not Notice.objects.filter(tenant=initech.tenant).exists()
        stripe.client.v1.customers.delete(life.customer_id)  # the next example's clock does not renew it
        assert subscriptions.sync(account_id=account.pk, now=life.now + DAY).state == PaymentState.NONE

    is_the_same()


def assert_nothing_moves_it(life: Life, account: Account) -> None:
    """Everything arrives once more, backwards."""
    before, mails = fields(account), plan_mails(account)
    for event in reversed(list(life.stripe.simulator.events)[life.seen :]):
        again = {**event, "id": f"{event['id']}again"}
        assert inbox.store(kind=StripeEvent.Kind.SNAPSHOT, body=again, now=life.now)
    inbox.handle_due(now=life.now)
    assert (fields(account), plan_mails(account)) == (before, mails)


def plan_mails(account: Account) -> int:
    return Notice.objects.filter(tenant=account.tenant, kind__startswith="plan.").count()


def fields(account: Account) -> dict[str, Any]:
    """The account, less when it was read."""
    row = Account.objects.filter(pk=account.pk).values().get()
    return {name: value for name, value in row.items() if name != "fetched_at"}


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
