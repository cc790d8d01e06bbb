"""A hard limit in money: calls are refused before the usage line passes it, and what passes it later is written off by name."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import accounts, estimates
from billing.onboarding import Onboarded
from metering import adjustments
from metering.models import Policy
from metering.testing import inline_metering
from tests.billing.serving import serve
from tests.conftest import MakeTenant


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant, now: datetime) -> Onboarded:
    """On Launch with ten calls included; each beyond them costs 0.025 minor units."""
    made = make_tenant(plan="launch", included=10, policy=Policy.RATE, burst_per_second=10**6)
    accounts.set_hard_limit(account=made.account, hard_limit=None, hard_limit_minor=1, actor="test", now=now)
    return made


def test_calls_are_refused_before_the_usage_line_passes_it(acme: Onboarded, now: datetime) -> None:
    with inline_metering():
        assert serve(acme.api_key, 100) == 69  # 59 calls beyond cost 1.475, 60 would cost 1.5: 2 when rounded
    statement = estimates.statement(account=acme.account, now=now + timedelta(minutes=1))
    assert (statement.used, statement.overage, statement.invoice.usage_minor) == (69, 59, 1)
    assert statement.is_refusing


def test_a_correction_beyond_it_is_written_off_by_name(
    acme: Onboarded, now: datetime, call: Callable[..., Any]
) -> None:
    change = adjustments.planned_backfill(
        tenant=acme.tenant, key=acme.key, capability="storage", occurred_at=now, calls=210, now=now
    )
    adjustments.apply(change, actor="test", reason="served during an outage")
    statement = estimates.statement(account=acme.account, now=now + timedelta(minutes=1))
    lines = [(line.kind, line.quantity, line.amount_minor) for line in statement.invoice.lines]
    assert lines == [("fee", 1, 19_00), ("included", 10, 0), ("overage", 200, 5), ("write_off", 141, -4)]
    assert statement.invoice.usage_minor == 1
    with inline_metering():
        document = call(acme.api_key, "/api/v1/usage").json()["estimate"]
    assert document["so_far_minor"] == 19_01
    assert [(line["kind"], line["amount_minor"]) for line in document["lines"]][2:] == [
        ("overage", 5),
        ("write_off", -4),
    ]
    assert document["lines"][2]["unit_price_minor"] == "0.025"


def test_a_limit_of_nothing_still_serves_what_is_included(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch", included=10, burst_per_second=10**6)
    accounts.set_hard_limit(account=acme.account, hard_limit=None, hard_limit_minor=0, actor="test", now=now)
    with inline_metering():
        assert serve(acme.api_key, 100) == 29  # 19 calls beyond round to nothing


def test_the_nearer_of_money_and_calls_counts(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant(plan="launch", included=10, burst_per_second=10**6)
    accounts.set_hard_limit(account=acme.account, hard_limit=12, hard_limit_minor=1, actor="test", now=now)
    with inline_metering():
        assert serve(acme.api_key, 100) == 12


def test_globex_on_the_free_plan_has_nothing_to_limit_in_money(
    db: None, make_tenant: MakeTenant, now: datetime
) -> None:
    globex = make_tenant("Globex")
    with pytest.raises(accounts.NotRated):
        accounts.set_hard_limit(account=globex.account, hard_limit=None, hard_limit_minor=100, actor="test", now=now)


def test_past_periods_are_not_limited_by_it(acme: Onboarded, now: datetime) -> None:
    months = estimates.months(account=acme.account, now=now, count=2)
    assert len(months) == 2
    assert months[0].period.end == months[1].period.start
