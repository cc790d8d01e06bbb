"""The sweep: with every event lost, accounts come right by the clock."""

import json
from datetime import timedelta
from typing import Any

import pytest
import redis
from celery.signals import beat_init
from django.conf import settings
from django.utils import timezone

from billing import sweep
from billing.models import Account, PaymentState, PlanChange
from config.celery import CATCH_UP, app
from tenants.models import Notice
from tests.billing.conftest import Stripe, Subscribe
from tests.conftest import MakeTenant

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def changed(account: Account, **fields: Any) -> Account:
    Account.objects.filter(pk=account.pk).update(**fields)
    account.refresh_from_db()
    return account


def is_due(account: Account, after: timedelta) -> bool:
    assert account.fetched_at is not None
    return sweep.due(now=account.fetched_at + after).filter(pk=account.pk).exists()


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant) -> Account:
    """Read from Stripe a moment ago, paid, with a period of a month."""
    account = make_tenant(plan="launch").account
    now = timezone.now()
    return changed(
        account, customer_id=f"cus_{account.pk}", subscription_id=f"sub_{account.pk}", state="active", fetched_at=now,
        period_start=now, period_end=now + timedelta(days=30),
    )  # fmt: skip


def test_a_quiet_account_is_read_every_six_hours(acme: Account) -> None:
    assert not is_due(acme, 6 * HOUR - SECOND)
    assert is_due(acme, 6 * HOUR)


@pytest.mark.parametrize("state", ["past_due", "restricted"])
def test_one_that_has_not_paid_is_read_every_minute(acme: Account, state: str) -> None:
    changed(acme, state=state, past_due_since=acme.fetched_at)
    assert not is_due(acme, 30 * SECOND)
    assert is_due(acme, 60 * SECOND)


@pytest.mark.parametrize("state", PlanChange.State.values)
def test_one_whose_plan_is_being_changed_is_read_every_minute(acme: Account, state: str) -> None:
    PlanChange.objects.create(
        account=acme, kind="upgrade", state=state, from_version=acme.plan_version, to_version=acme.plan_version,
        requested_by="test", due_at=timezone.now(),
    )  # fmt: skip
    assert is_due(acme, 60 * SECOND) == (state in {"announced", "settling", "applying"})


@pytest.mark.parametrize("field", ["period_end", "cancels_at", "trial_ends_at"])
def test_one_whose_time_has_run_out_is_read_until_stripe_has_moved_on(acme: Account, field: str) -> None:
    fields: dict[str, Any] = {field: (acme.fetched_at or timezone.now()) + HOUR}
    if field == "trial_ends_at":
        fields["state"] = "trialing"
    changed(acme, **fields)
    assert not is_due(acme, HOUR - SECOND)
    assert is_due(acme, HOUR)


def test_one_that_stripe_does_not_know_is_never_read(db: None, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex").account
    assert not sweep.due(now=timezone.now() + timedelta(days=99)).filter(pk=globex.pk).exists()


def test_a_customer_whose_checkout_event_was_lost_is_found(stripe: Stripe, subscribe: Subscribe) -> None:
    account = changed(
        subscribe("launch"), state="none", subscription_id=None, fetched_at=stripe.now - 6 * HOUR, period_end=None
    )
    assert sweep.sweep(now=stripe.now) == 1
    account.refresh_from_db()
    assert (account.state, account.plan_version.plan.code) == (PaymentState.ACTIVE, "launch")


def test_a_life_without_any_event_comes_right(stripe: Stripe, subscribe: Subscribe) -> None:
    """Renewed, refused, reminded, paid, cancelled: the sweep alone follows, and mails."""
    account = subscribe("launch")
    first_end = account.period_end
    assert first_end is not None
    stripe.advance(first_end + 2 * HOUR)
    assert sweep.sweep(now=stripe.now) == 1
    account.refresh_from_db()
    assert account.period_start == first_end
    stripe.use_card(str(account.customer_id), "pm_card_chargeCustomerFail")
    stripe.advance((account.period_end or first_end) + 2 * HOUR)
    assert sweep.sweep(now=stripe.now) == 1
    account.refresh_from_db()
    assert account.state == PaymentState.PAST_DUE
    assert Notice.objects.filter(tenant=account.tenant, kind="payment.failed").count() == 1
    stripe.use_card(str(account.customer_id), "pm_card_visa")
    stripe.pay_all(str(account.customer_id))
    assert sweep.sweep(now=stripe.now + 60 * SECOND) == 1
    account.refresh_from_db()
    assert account.state == PaymentState.ACTIVE
    stripe.client.v1.subscriptions.cancel(str(account.subscription_id))
    assert sweep.sweep(now=stripe.now + 7 * HOUR) == 1
    account.refresh_from_db()
    assert (account.state, account.plan_version.plan.code) == (PaymentState.NONE, "free")


def test_in_an_outage_a_run_ends_early_and_changes_nothing(stripe: Stripe, subscribe: Subscribe) -> None:
    for name in ("Acme", "Globex", "Hooli", "Vandelay", "Soylent"):
        changed(subscribe("launch", name=name), fetched_at=stripe.now - 7 * HOUR)
    before = list(Account.objects.order_by("pk").values())
    stripe.faults.add("error_500_before", probability=1.0, count=10_000)
    asked = len(stripe.simulator.requests)
    assert sweep.sweep(now=stripe.now) == 0
    assert len(stripe.simulator.requests) - asked == sweep.OUTAGES_IN_A_ROW
    assert list(Account.objects.order_by("pk").values()) == before
    stripe.faults.clear()
    assert sweep.sweep(now=stripe.now) == 5


def test_one_account_that_cannot_be_read_holds_up_no_other(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Acme", "Globex"):
        changed(subscribe("launch", name=name), fetched_at=stripe.now - 7 * HOUR)
    stripe.faults.add("rate_limit_429", method="GET", path="/v1/subscriptions", count=1)
    assert sweep.sweep(now=stripe.now) == 1
    assert sweep.sweep(now=stripe.now) == 1
    assert sweep.sweep(now=stripe.now) == 0
    assert "could not be read from Stripe" in caplog.text


# -- the timetable -----------------------------------------------------------------------------------------------------


def test_every_entry_of_the_timetable_names_a_task() -> None:
    app.autodiscover_tasks(force=True)
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= set(app.tasks)


def test_what_was_not_delivered_is_looked_for_at_each_start_of_beat() -> None:
    broker = redis.Redis.from_url(settings.REDIS_URL)

    def waiting() -> int:
        return sum(json.loads(one)["headers"]["task"] == CATCH_UP for one in broker.lrange("celery", 0, -1))

    before = waiting()
    beat_init.send(sender=None)
    assert waiting() == before + 1
