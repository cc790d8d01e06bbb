"""Alerts in money: the call that makes the usage cost the amount fires it; projections by a task; one mail to the right people."""

from datetime import datetime, timedelta

import pytest
from django.core import mail
from django.utils import timezone

from billing import accounts, alerting
from billing.models import Account
from billing.onboarding import Onboarded
from metering.models import Alert, AlertKind, Crossing, Policy
from tenants import notices
from tenants.models import Event, EventType, MailChoice, Membership, Notice, User
from tests.conftest import MakeTenant
from tests.dashboard.conftest import MIDDLE, add_days, add_usage

INCLUDED = 100_000  # of Launch, and 25 cents for each 1,000 calls beyond


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant) -> Onboarded:
    return make_tenant(plan="launch", anchor=timezone.now() - MIDDLE)


def amount(kind: AlertKind, minor: int) -> Alert:
    return Alert(kind=kind, amount_minor=minor)


def keys(acme: Onboarded) -> set[str]:
    return set(Crossing.objects.filter(tenant=acme.tenant).values_list("key", flat=True))


def test_an_amount_fires_with_the_call_that_costs_it(acme: Onboarded, now: datetime) -> None:
    alerting.put(account=acme.account, alert=amount(AlertKind.AMOUNT, 500), actor="olivia", now=now)
    terms = accounts.pricing_terms(acme.account.plan_version)
    calls = Alert.objects.get(tenant=acme.tenant, kind=AlertKind.AMOUNT).calls
    assert calls == INCLUDED + 19_980  # 499.5 cents are rounded to 500
    assert terms.included == INCLUDED
    add_usage(acme.key, now, billable=calls - 1)
    assert "amount:500:usd" not in keys(acme)
    add_usage(acme.key, now, billable=1)
    assert "amount:500:usd" in keys(acme)
    event = Event.objects.get(tenant=acme.tenant, type="alert.fired", data__alert__kind="amount")
    assert event.data["alert"] == {"kind": "amount", "amount_minor": 500, "currency": "usd"}


def test_another_plan_moves_an_amount(acme: Onboarded, now: datetime) -> None:
    alerting.put(account=acme.account, alert=amount(AlertKind.AMOUNT, 600), actor="olivia", now=now)
    accounts.change_plan(
        account=acme.account, version=accounts.public_version(plan_code="scale"), actor="olivia", now=now
    )
    assert Alert.objects.get(tenant=acme.tenant, kind=AlertKind.AMOUNT).calls == 1_000_000 + 99_917
    assert Event.objects.filter(tenant=acme.tenant, type=EventType.PLAN_CHANGED, data__plan="scale").count() == 1
    accounts.change_plan(
        account=acme.account, version=accounts.public_version(plan_code="free"), actor="olivia", now=now
    )
    assert Alert.objects.get(tenant=acme.tenant, kind=AlertKind.AMOUNT).calls is None


def test_a_plan_without_a_price_takes_no_amount(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    globex = make_tenant("Globex")
    with pytest.raises(alerting.UnusableAmount):
        alerting.put(account=globex.account, alert=amount(AlertKind.AMOUNT, 500), actor="olivia", now=now)


def test_a_projection_fires_from_the_task_once_in_a_period(acme: Onboarded, now: datetime) -> None:
    add_days(acme.key, now=now, days=20, calls=8_000)
    Account.objects.filter(pk=acme.account.pk).update(created_at=now - timedelta(days=40))
    alerting.put(account=acme.account, alert=amount(AlertKind.PROJECTED, 100), actor="olivia", now=now)
    alerting.put(account=acme.account, alert=amount(AlertKind.PROJECTED, 10**9), actor="olivia", now=now)
    assert not [key for key in keys(acme) if key.startswith("projected")]
    alerting.fire_projected(account_id=acme.account.pk, now=now)
    assert alerting.fire_projected(account_id=acme.account.pk, now=now) == 0
    assert [key for key in keys(acme) if key.startswith("projected")] == ["projected:100:usd"]


def test_what_fired_is_mailed_once_to_owners_and_billing(acme: Onboarded, now: datetime) -> None:
    add_usage(acme.key, now, billable=INCLUDED // 2)
    assert alerting.tell(now=now) >= 1
    alerting.tell(now=now)
    assert Notice.objects.filter(tenant=acme.tenant, kind="alert.fired").count() == 1
    notices.send_due(now=now + timedelta(seconds=5))
    (message,) = [one for one in mail.outbox if acme.tenant.slug in one.body]
    assert message.subject == "50 % of the included calls are used"
    assert "50,000 calls, 100,000 are included" in message.body
    assert acme.user.email in message.recipients()


def test_chosen_members_get_the_mails_of_alerts_and_no_others(acme: Onboarded, now: datetime) -> None:
    dora = User.objects.create_user(f"dora@{acme.tenant.slug}.example")
    chosen = Membership.objects.create(tenant=acme.tenant, user=dora, role="developer")
    topic = MailChoice.Topic.ALERTS
    notices.choose(tenant=acme.tenant, topic=topic, membership_ids=[chosen.pk, 10**9], actor="olivia")
    assert notices.recipients(acme.tenant, "alert.fired") == [dora.email]
    assert dora.email not in notices.recipients(acme.tenant, "payment.failed")
    chosen.delete()  # whoever leaves gets nothing; then it is as by default
    assert acme.user.email in notices.recipients(acme.tenant, "alert.fired")


def test_a_hard_limit_that_is_reached_is_told(acme: Onboarded, now: datetime) -> None:
    accounts.set_hard_limit(account=acme.account, hard_limit=120_000, actor="olivia", now=now)
    accounts.set_policy(account=acme.account, policy=Policy.RATE, actor="olivia", now=now)
    add_usage(acme.key, now, billable=120_000)
    alerting.tell(now=now)
    told = Notice.objects.get(tenant=acme.tenant, kind="limit.reached")
    assert told.title == "The limit of 120,000 calls is reached"
    assert "refused with 429" in told.text
