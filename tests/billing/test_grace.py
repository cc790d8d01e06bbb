"""Grace: a failed payment leaves service on for some days, then calls are refused until it is paid."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import accounts, grace
from billing.models import Account, PaymentState
from metering.models import Restriction
from tenants.models import AuditEntry, Notice
from tests.conftest import MakeTenant

DAY = timedelta(days=1)


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant, now: datetime) -> Account:
    """Past due since now."""
    account = make_tenant(plan="launch").account
    account.state, account.past_due_since, account.subscription_id = PaymentState.PAST_DUE, now, "sub_acme"
    account.save()
    accounts.push(account=account, now=now)
    return account


def restriction(account: Account) -> str:
    account.tenant.allowance.refresh_from_db()
    return account.tenant.allowance.restriction


def test_calls_are_served_for_the_grace_days(acme: Account, now: datetime) -> None:
    assert grace.ends_at(acme) == now + 7 * DAY
    assert grace.restrict_overdue(now=now + 7 * DAY - timedelta(seconds=1)) == 0
    assert restriction(acme) == ""


def test_then_they_are_refused_and_it_is_told_once(acme: Account, now: datetime) -> None:
    assert grace.restrict_overdue(now=now + 7 * DAY) == 1
    assert grace.restrict_overdue(now=now + 8 * DAY) == 0
    acme.refresh_from_db()
    assert (acme.state, restriction(acme)) == (PaymentState.RESTRICTED, Restriction.PAYMENT)
    assert grace.ends_at(acme) == now + 7 * DAY
    (notice,) = Notice.objects.filter(tenant=acme.tenant)
    assert "Calls are served again as soon as the open invoice is paid" in notice.text
    assert AuditEntry.objects.filter(tenant=acme.tenant, action="account.restricted").count() == 1


def test_the_days_are_a_setting(acme: Account, now: datetime, settings: Any) -> None:
    settings.BILLING = {**settings.BILLING, "GRACE_DAYS": 2}
    assert grace.ends_at(acme) == now + 2 * DAY
    assert grace.restrict_overdue(now=now + 2 * DAY) == 1


def test_who_has_paid_meanwhile_is_served_on(acme: Account, now: datetime) -> None:
    acme.state, acme.past_due_since = PaymentState.ACTIVE, None
    acme.save()
    assert grace.ends_at(acme) is None
    assert grace.restrict_overdue(now=now + 30 * DAY) == 0


def test_globex_and_initech_are_not_touched(acme: Account, make_tenant: MakeTenant, now: datetime) -> None:
    others = [make_tenant(name).account for name in ("Globex", "Initech")]
    grace.restrict_overdue(now=now + 7 * DAY)
    for other in others:
        other.refresh_from_db()
        assert (other.state, restriction(other)) == (PaymentState.NONE, "")
        assert not Notice.objects.filter(tenant=other.tenant).exists()
