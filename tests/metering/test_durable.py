"""`durable`: the call is committed before its answer is sent."""

import pytest
from django.utils import timezone

from metering import calls, engine
from metering.models import Allowance, Recording
from tests.conftest import MakeTenant
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import attempt, caller_of

pytestmark = pytest.mark.usefixtures("committed")


def test_a_durable_call_is_in_the_ledger_when_its_answer_is_ready(make_tenant: MakeTenant) -> None:
    acme, globex = make_tenant(included=50), make_tenant("Globex", included=50)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=Recording.DURABLE)
    for number in range(1, 6):
        call = calls.open_call(caller=caller_of(acme.api_key), capability="storage")
        calls.close_call(call, status=200, latency_us=1)
        assert books(acme.tenant.id).used == number
    attempt(caller_of(globex.api_key), 5)
    engine.stop()
    for tenant in (acme, globex):
        books(tenant.tenant.id).assert_balanced()
        assert (books(tenant.tenant.id).used, books(tenant.tenant.id).reserved) == (5, 0)


def test_a_durable_limit_is_exact_over_threads(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=60, burst_per_second=10**6)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=Recording.DURABLE)
    assert attempt(caller_of(acme.api_key), 160, threads=8) == 60
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.rolled_up["refused"]) == (60, 100)


def test_a_durable_call_that_fails_costs_nothing(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=5)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=Recording.DURABLE, changed_at=timezone.now())
    attempt(caller_of(acme.api_key), 4, status=lambda _: 500)
    assert books(acme.tenant.id).rolled_up == {"billable": 0, "failed": 4, "refused": 0}
    engine.stop()
    books(acme.tenant.id).assert_balanced()
