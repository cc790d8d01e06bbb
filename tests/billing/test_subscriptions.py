"""What Stripe says is what is enforced: whatever came before, however often it is read."""

import logging
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections

from billing import accounts, catalogue, stripe_api, subscriptions
from billing.errors import StripeUnavailable
from billing.models import Account, Consent, PaymentState, PlanChange, StripePrices
from metering import usage
from metering.models import Allowance, Policy, Restriction
from tenants.models import AuditEntry, Notice
from tests.billing.conftest import REFUSING_CARD, Stripe, Subscribe, public
from tests.conftest import MakeTenant, wait_until

Prices = Callable[[str], StripePrices]
HOUR = timedelta(hours=1)


def followed(stripe: Stripe, account: Account) -> Account:
    return subscriptions.sync(account_id=account.pk, now=stripe.now)


def the_subscription(account: Account) -> stripe_api.Subscription:
    return stripe_api.subscription(account.subscription_id or "")


def upgrade(stripe: Stripe, account: Account, prices: StripePrices) -> stripe_api.Subscription:
    """As Stripe's dashboard would do it, or a worker that was killed right afterwards."""
    before = the_subscription(account)
    return stripe_api.replace_prices(
        subscription=before, prices=prices, currency="usd", at=stripe.now, key=f"upgrade-{uuid.uuid4()}"
    )


def open_change(account: Account, kind: PlanChange.Kind, to: str, **fields: Any) -> PlanChange:
    return PlanChange.objects.create(
        account=account, kind=kind, state=fields.pop("state", PlanChange.State.APPLYING), from_version=account.plan_version,
        to_version=public(to), requested_by="owner@acme.example", due_at=account.created_at, **fields,
    )  # fmt: skip


def test_sign_up_asks_stripe_nothing(make_tenant: MakeTenant, db: None, settings: Any, now: datetime) -> None:
    settings.STRIPE_API_BASE = "http://127.0.0.1:9"
    acme = make_tenant()
    account = subscriptions.sync(account_id=acme.account.pk, now=now)
    assert (account.state, account.customer_id, account.plan_version.plan.code) == (PaymentState.NONE, None, "free")


def test_what_is_bought_is_enforced(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    assert (acme.state, acme.plan_version, acme.currency) == (PaymentState.ACTIVE, public("launch"), "usd")
    bought = the_subscription(acme)
    assert (acme.period_start, acme.period_end) == (bought.items[0].period_start, bought.items[0].period_end)
    assert acme.anchor == bought.anchor
    allowance = acme.tenant.allowance
    assert (allowance.included, allowance.policy, allowance.label) == (100_000, Policy.RATE, "Launch")
    acme.tenant.refresh_from_db()
    assert acme.tenant.max_projects == 3
    period = usage.current_period(allowance=allowance, now=stripe.now + HOUR)
    assert (period.start, period.end) == (acme.period_start, acme.period_end)


def test_what_was_used_before_stays_in_its_period(stripe: Stripe, subscribe: Subscribe, now: datetime) -> None:
    acme = subscribe("launch")
    before, running = usage.last_periods(allowance=acme.tenant.allowance, now=stripe.now + HOUR, count=2)
    assert before.end == running.start == acme.period_start


def test_reading_again_changes_nothing(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    pushed = Allowance.objects.get(pk=acme.pk).changed_at
    entries = AuditEntry.objects.filter(tenant=acme.tenant).count()
    for _ in range(3):
        followed(stripe, acme)
    assert Allowance.objects.get(pk=acme.pk).changed_at == pushed  # no process has to drop its leases
    assert AuditEntry.objects.filter(tenant=acme.tenant).count() == entries


def test_a_reading_that_was_overtaken_is_made_anew(
    stripe: Stripe, committed: None, make_tenant: MakeTenant, now: datetime
) -> None:
    catalogue.make(now=now)
    acme = make_tenant().account
    launch, scale = (StripePrices.objects.get(version=public(plan)) for plan in ("launch", "scale"))
    bought = stripe_api.subscribe(
        customer_id=stripe.customer_of(acme), tenant_id=acme.pk, prices=launch, currency="usd", anchor=None,
        key="buy",
    )  # fmt: skip
    assert subscriptions.sync(account_id=acme.pk, now=now).plan_version == public("launch")
    stripe.faults.add("slow_drip", method="GET", path="/v1/subscriptions", seconds=1.0)
    ahead = now + HOUR  # and its worker's clock is an hour ahead
    slow = threading.Thread(target=in_thread, args=(lambda: subscriptions.sync(account_id=acme.pk, now=ahead),))
    slow.start()
    wait_until(lambda: any(one.fault == "slow_drip" for one in stripe.simulator.requests), what="the slow reading")
    stripe_api.replace_prices(subscription=bought, prices=scale, currency="usd", at=stripe.now, key="upgrade")
    assert subscriptions.sync(account_id=acme.pk, now=now).plan_version == public("scale")
    slow.join()
    acme.refresh_from_db()
    assert acme.plan_version == public("scale")
    StripePrices.objects.all().delete()  # other tests begin without a catalogue


def in_thread(run: Callable[[], object]) -> None:
    try:
        run()
    finally:
        connections.close_all()


def test_a_reading_counts_whatever_the_clock_says(stripe: Stripe, subscribe: Subscribe, prices: Prices) -> None:
    acme = subscribe("launch")
    ahead = stripe.now + timedelta(days=30)
    subscriptions.sync(account_id=acme.pk, now=ahead)
    upgrade(stripe, acme, prices("scale"))
    found = subscriptions.sync(account_id=acme.pk, now=stripe.now)
    assert found.plan_version == public("scale")
    assert found.fetched_at is not None
    assert found.fetched_at < ahead  # nobody waits for that clock


def test_nothing_changes_while_stripe_is_away(stripe: Stripe, subscribe: Subscribe, prices: Prices) -> None:
    acme = subscribe("launch")
    upgrade(stripe, acme, prices("scale"))
    for fault in ("drop_before", "error_500_before", "rate_limit_429", "garbage"):
        stripe.faults.add(fault, method="GET", path="/v1/subscriptions")
        with pytest.raises(StripeUnavailable):
            followed(stripe, acme)
        acme.refresh_from_db()
        assert acme.plan_version == public("launch")
    assert followed(stripe, acme).plan_version == public("scale")


def test_initech_sees_nothing_of_it(stripe: Stripe, subscribe: Subscribe, make_tenant: MakeTenant) -> None:
    initech = make_tenant("Initech").account
    acme, globex = subscribe("launch"), make_tenant("Globex").account
    stripe.customer_of(globex)
    assert subscriptions.sync_customer(customer_id=acme.customer_id or "", now=stripe.now) == acme
    for other in (initech, globex):
        other.refresh_from_db()
        assert (other.state, other.plan_version.plan.code) == (PaymentState.NONE, "free")
        assert not Notice.objects.filter(tenant=other.tenant).exists()
    assert initech.customer_id is None


def test_a_customer_of_somebody_else_is_none_of_ours(stripe: Stripe, db: None) -> None:
    foreign = stripe.client.v1.customers.create({"metadata": {"tenant_id": "not one of ours"}})
    unknown = stripe.client.v1.customers.create({"metadata": {"tenant_id": str(uuid.uuid4())}})
    for customer_id in (foreign.id, unknown.id, "cus_nobody"):
        assert subscriptions.sync_customer(customer_id=customer_id, now=stripe.now) is None


def test_a_customer_that_was_made_before_a_crash_is_ours(
    stripe: Stripe, subscribe: Subscribe, make_tenant: MakeTenant
) -> None:
    acme = subscribe("launch", account=make_tenant().account)
    customer_id = acme.customer_id or ""
    Account.objects.filter(pk=acme.pk).update(
        customer_id=None, subscription_id=None, state=PaymentState.NONE, fetched_at=None
    )
    found = subscriptions.sync_customer(customer_id=customer_id, now=stripe.now)
    assert found is not None
    assert (found.pk, found.customer_id, found.state) == (acme.pk, customer_id, PaymentState.ACTIVE)


# -- Changes -------------------------------------------------------------------------------------------------------------
def test_a_change_that_stripe_shows_is_applied_also_when_its_worker_was_killed(
    stripe: Stripe, subscribe: Subscribe, prices: Prices
) -> None:
    acme = subscribe("launch")
    stripe.advance(timedelta(days=3))
    cut_at = stripe.now - timedelta(seconds=5)
    change = open_change(acme, PlanChange.Kind.UPGRADE, "scale", cut_at=cut_at)
    made = upgrade(stripe, acme, prices("scale"))
    first_end = acme.period_end
    acme = followed(stripe, acme)
    change.refresh_from_db()
    assert (change.state, change.items) == (PlanChange.State.APPLIED, [item.id for item in made.items])
    assert (acme.period_start, acme.period_end) == (cut_at, first_end)  # docs/decisions/0007
    assert acme.tenant.allowance.included == 1_000_000
    assert (followed(stripe, acme).period_start, change.ended_at) == (cut_at, change.ended_at)
    stripe.advance((first_end or cut_at) + HOUR)
    assert followed(stripe, acme).period_start == first_end  # from the next period on Stripe's own boundaries hold


def test_a_change_that_stripe_does_not_show_stays_open(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    changes = [open_change(acme, PlanChange.Kind.UPGRADE, "scale", cut_at=stripe.now)]
    followed(stripe, acme)
    for change in changes:
        change.refresh_from_db()
        assert change.is_open


def test_a_scheduled_change_is_known_and_then_made(stripe: Stripe, subscribe: Subscribe, prices: Prices) -> None:
    acme = subscribe("scale")
    change = open_change(acme, PlanChange.Kind.DOWNGRADE, "launch")
    schedule_id = stripe_api.schedule_prices(
        subscription=the_subscription(acme), prices=prices("launch"), currency="usd", key="down"
    )
    acme = followed(stripe, acme)
    change.refresh_from_db()
    assert (change.state, acme.next_version, acme.schedule_id) == (
        PlanChange.State.APPLIED,
        public("launch"),
        schedule_id,
    )
    assert acme.tenant.allowance.included == 1_000_000
    first_end = acme.period_end
    assert first_end is not None
    stripe.advance(first_end + HOUR)
    acme = followed(stripe, acme)
    assert (acme.plan_version, acme.next_version, acme.schedule_id) == (public("launch"), None, "")
    assert (acme.period_start, acme.tenant.allowance.included) == (first_end, 100_000)


def test_a_cancelled_subscription_runs_to_its_end(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    change = open_change(acme, PlanChange.Kind.CANCEL, "free")
    stripe_api.set_cancels_at_period_end(subscription_id=acme.subscription_id or "", cancels=True, key="cancel")
    acme = followed(stripe, acme)
    change.refresh_from_db()
    assert (change.state, acme.cancels_at, acme.state) == (
        PlanChange.State.APPLIED,
        acme.period_end,
        PaymentState.ACTIVE,
    )
    back = open_change(acme, PlanChange.Kind.REACTIVATE, "launch")
    assert followed(stripe, acme).cancels_at == acme.period_end
    back.refresh_from_db()
    assert back.is_open
    stripe_api.set_cancels_at_period_end(subscription_id=acme.subscription_id or "", cancels=False, key="go-on")
    assert followed(stripe, acme).cancels_at is None
    back.refresh_from_db()
    assert back.state == PlanChange.State.APPLIED


def test_after_the_end_the_free_plan_holds(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    anchor, period, ended_id = acme.anchor, (acme.period_start, acme.period_end), acme.subscription_id or ""
    stripe.client.v1.subscriptions.cancel(ended_id)
    acme = followed(stripe, acme)
    assert (acme.state, acme.plan_version, acme.subscription_id) == (PaymentState.NONE, public("free"), None)
    assert (acme.anchor, (acme.period_start, acme.period_end)) == (anchor, period)
    allowance = acme.tenant.allowance
    assert (allowance.included, allowance.policy, allowance.admits) == (5_000, Policy.BLOCK, 5_000)
    running = usage.current_period(allowance=allowance, now=stripe.now + HOUR)
    assert (running.start, running.end) == period
    assert Notice.objects.filter(tenant=acme.tenant, kind="plan.ended", key=ended_id).exists()


def test_a_deleted_customer_is_on_the_free_plan(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    stripe.client.v1.customers.delete(acme.customer_id or "")
    acme = followed(stripe, acme)
    assert (acme.state, acme.plan_version) == (PaymentState.NONE, public("free"))


def test_terms_by_agreement_without_a_subscription_stay(
    stripe: Stripe, prices: Prices, make_tenant: MakeTenant
) -> None:
    acme = make_tenant(plan="enterprise", included=7).account
    stripe.customer_of(acme)
    own = acme.plan_version
    assert followed(stripe, acme).plan_version == own


def test_a_consent_ends_with_the_version_that_it_leads_on_from(
    stripe: Stripe, subscribe: Subscribe, prices: Prices
) -> None:
    acme = subscribe("launch")
    about: dict[str, Any] = {
        "account": acme, "from_version": public("launch"), "to_version": public("scale"), "currency": "usd",
        "fee_minor": 4900, "fallback": Policy.RATE, "text": "Yes.", "given_by": "owner@acme.example",
    }  # fmt: skip
    consent = Consent.objects.create(**about)
    followed(stripe, acme)
    consent.refresh_from_db()
    assert consent.ended_at is None
    upgrade(stripe, acme, prices("scale"))
    followed(stripe, acme)
    consent.refresh_from_db()
    assert consent.end == Consent.End.OVERTAKEN


def test_a_consent_that_was_carried_out_is_used(stripe: Stripe, subscribe: Subscribe, prices: Prices) -> None:
    acme = subscribe("launch")
    consent = Consent.objects.create(
        account=acme, from_version=public("launch"), to_version=public("scale"), currency="usd", fee_minor=4900,
        fallback=Policy.RATE, text="Yes.", given_by="owner@acme.example",
    )  # fmt: skip
    open_change(acme, PlanChange.Kind.AUTOMATIC, "scale", consent=consent, cut_at=stripe.now)
    upgrade(stripe, acme, prices("scale"))
    followed(stripe, acme)
    consent.refresh_from_db()
    assert consent.end == Consent.End.USED


# -- Payment -------------------------------------------------------------------------------------------------------------
def fail_renewal(stripe: Stripe, account: Account) -> Account:
    """The next invoice is not paid, and an hour of drafting has passed."""
    stripe.use_card(account.customer_id or "", REFUSING_CARD)
    assert account.period_end is not None
    stripe.advance(account.period_end + 2 * HOUR)
    return followed(stripe, account)


def test_a_failed_payment_is_past_due_since_its_invoice_was_final(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = subscribe("launch")
    boundary = acme.period_end
    assert boundary is not None
    acme = fail_renewal(stripe, acme)
    assert acme.state == PaymentState.PAST_DUE
    assert acme.past_due_since is not None
    assert boundary <= acme.past_due_since <= boundary + 2 * HOUR
    assert acme.tenant.allowance.restriction == ""
    since = acme.past_due_since
    stripe.advance(timedelta(days=1))
    assert followed(stripe, acme).past_due_since == since


def test_beyond_the_grace_days_calls_are_refused_until_it_is_paid(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = fail_renewal(stripe, subscribe("launch"))
    stripe.advance(timedelta(days=7))
    acme = followed(stripe, acme)
    assert (acme.state, acme.tenant.allowance.restriction) == (PaymentState.RESTRICTED, Restriction.PAYMENT)
    assert Notice.objects.filter(tenant=acme.tenant, kind="account.restricted").count() == 1
    stripe.use_card(acme.customer_id or "", "pm_card_visa")
    stripe.pay_all(acme.customer_id or "")
    acme = followed(stripe, acme)
    assert (acme.state, acme.past_due_since) == (PaymentState.ACTIVE, None)
    assert (acme.tenant.allowance.restriction, acme.tenant.allowance.included) == ("", 100_000)


def test_when_stripe_gives_up_calls_are_refused(stripe: Stripe, subscribe: Subscribe, settings: Any) -> None:
    settings.BILLING = {**settings.BILLING, "GRACE_DAYS": 90}
    acme = fail_renewal(stripe, subscribe("launch"))
    stripe.advance(timedelta(days=20))
    assert the_subscription(acme).status == "unpaid"
    assert followed(stripe, acme).state == PaymentState.RESTRICTED


def test_a_stripe_whose_clock_is_ahead_counts_from_when_we_heard_of_it(stripe: Stripe, subscribe: Subscribe) -> None:
    acme = fail_renewal(stripe, subscribe("launch"))
    Account.objects.filter(pk=acme.pk).update(fetched_at=None, past_due_since=None, state=PaymentState.ACTIVE)
    ours = acme.created_at + HOUR
    assert subscriptions.sync(account_id=acme.pk, now=ours).past_due_since == ours
    assert subscriptions.sync(account_id=acme.pk, now=ours + HOUR).past_due_since == ours


def test_a_trial_is_one(stripe: Stripe, prices: Prices, make_tenant: MakeTenant) -> None:
    acme = make_tenant().account
    customer_id = stripe.customer_of(acme)
    items: Any = [{"price": prices("launch").fee_price_id}, {"price": prices("launch").usage_price_id}]
    stripe.client.v1.subscriptions.create(
        {"customer": customer_id, "items": items, "trial_period_days": 14, "billing_mode": {"type": "flexible"}}
    )
    acme = followed(stripe, acme)
    assert (acme.state, acme.trial_ends_at) == (PaymentState.TRIALING, acme.period_end)
    assert acme.period_end is not None
    assert acme.tenant.allowance.included == 100_000
    stripe.advance(acme.period_end + 2 * HOUR)
    after = followed(stripe, acme)
    assert (after.state, after.trial_ends_at, after.period_start) == (PaymentState.ACTIVE, None, acme.trial_ends_at)


# -- What should not be ----------------------------------------------------------------------------------------------------
def test_of_two_subscriptions_the_newest_counts_and_somebody_is_told(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    acme = subscribe("launch")
    stripe.advance(HOUR)
    with caplog.at_level(logging.ERROR):
        acme = subscribe("scale", account=acme)
    assert acme.plan_version == public("scale")
    assert f"{acme.customer_id} has 2 live subscriptions" in caplog.text


def test_prices_that_are_not_ours_leave_the_terms_as_they_were(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    acme = subscribe("launch")
    StripePrices.objects.filter(version=public("launch")).update(fee_price_id="price_unknown")
    with caplog.at_level(logging.ERROR):
        acme = followed(stripe, acme)
    assert (acme.plan_version, acme.state) == (public("launch"), PaymentState.ACTIVE)
    assert "not in the catalogue" in caplog.text


def test_terms_agreed_with_another_tenant_are_not_taken_over(
    stripe: Stripe, subscribe: Subscribe, make_tenant: MakeTenant, caplog: pytest.LogCaptureFixture
) -> None:
    initech = make_tenant("Initech", included=7).account
    acme = subscribe("launch")
    StripePrices.objects.filter(version=public("launch")).update(version=initech.plan_version)
    with caplog.at_level(logging.ERROR):
        acme = followed(stripe, acme)
    assert acme.plan_version == public("launch")
    assert "agreed with another tenant" in caplog.text


def test_a_plan_that_is_paid_at_stripe_is_not_changed_by_hand(subscribe: Subscribe, now: datetime) -> None:
    acme = subscribe("launch")
    with pytest.raises(accounts.PaysByStripe, match=acme.subscription_id or ""):
        accounts.change_plan(account=acme, version=public("scale"), actor="operator", now=now)
