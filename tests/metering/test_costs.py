"""Calls that cost more than one unit."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import calls, engine
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import caller_of
from tests.metering.test_several_limits import try_one

pytestmark = pytest.mark.usefixtures("committed")
HIGH = 10**6


@pytest.mark.parametrize("limit", [0, 4, 5, 23, 500])
def test_a_call_that_costs_five_takes_five_or_nothing(make_tenant: MakeTenant, limit: int) -> None:
    acme = make_tenant(included=limit, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    admitted = sum(try_one(caller, cost=5).problem is None for _ in range(limit // 5 + 10))
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert admitted == limit // 5
    assert (kept.used, kept.reserved, kept.logged["billable"]) == (admitted * 5, 0, admitted)


def test_a_failed_call_gives_all_its_units_back(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    for _ in range(10):
        assert try_one(caller, cost=100, status=503).problem is None
        engine.engine().flush()
    assert try_one(caller, cost=100).problem is None
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (100, 0)


def test_what_is_too_little_for_a_dear_call_is_enough_for_a_cheap_one(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    assert try_one(caller, cost=8).problem is None
    engine.engine().flush()
    refused: Any = wait_until(
        lambda: (problem := try_one(caller, cost=3).problem) and problem.retry_after_seconds != 1 and problem
    )
    assert refused.extra["cost"] == 3
    assert "2 of the 10" in refused.detail
    assert wait_until(lambda: try_one(caller, cost=2).problem is None)
    engine.stop()
    assert books(acme.tenant.id).used == 10


def test_a_dear_call_is_not_admitted_on_a_lease_for_cheap_ones(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=500, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    for _ in range(30):
        assert try_one(caller).problem is None
    assert try_one(caller, cost=490).problem is not None
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (30, 0)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(costs=st.lists(st.integers(1, 40), min_size=1, max_size=60), limit=st.integers(0, 300))
def test_any_mix_of_costs_never_passes_the_limit(make_tenant: MakeTenant, costs: list[int], limit: int) -> None:
    acme = make_tenant(included=limit, burst_per_second=HIGH)
    caller = caller_of(acme.api_key)
    taken = sum(cost for cost in costs if try_one(caller, cost=cost).problem is None)
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (taken, 0)
    assert taken <= limit


@pytest.mark.parametrize("cost", [0, -1, True, 1.5, "5", None, 1_000_001])
def test_an_absurd_cost_is_refused_by_name(make_tenant: MakeTenant, cost: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="from 1 to 1,000,000"):
        calls.open_call(caller=caller_of(make_tenant().api_key), capability="storage", cost=cost)
