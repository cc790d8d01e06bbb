"""What every way in must do. A new way joins `ways.WAYS`, and is done when all of this passes for it."""

from collections import Counter
from typing import Any

import pytest
from pytest_django import Settings

from billing.onboarding import Onboarded
from metering import engine, invariants
from metering.models import Allowance, Call
from tenants import keys
from tests.conftest import MakeTenant
from tests.metering.contract.ways import WAYS, WayIn
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(params=WAYS, ids=lambda way: way.name)
def way(request: pytest.FixtureRequest, settings: Settings) -> WayIn:
    settings.ROOT_URLCONF = "tests.metering.contract.ways"
    way: WayIn = request.param
    return way


@pytest.fixture(params=[way for way in WAYS if way.answers], ids=lambda way: way.name)
def answering(request: pytest.FixtureRequest, settings: Settings) -> WayIn:
    """A way whose caller hears what was decided."""
    settings.ROOT_URLCONF = "tests.metering.contract.ways"
    way: WayIn = request.param
    return way


def settled(tenant: Onboarded) -> Any:
    """The books at rest."""
    engine.stop()
    kept = books(tenant.tenant.id)
    kept.assert_balanced()
    assert kept.reserved == 0
    assert invariants.broken(tenant_id=tenant.tenant.id) == {}
    return kept


def test_a_limit_is_exact(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=7, burst_per_second=10**6)
    assert Counter(way.call(acme.api_key).status for _ in range(12)) == {200: 7, 429: 5}
    kept = settled(acme)
    assert (kept.used, kept.rolled_up) == (7, {"billable": 7, "failed": 0, "refused": 5})


def test_the_ledger_names_capability_project_key_status_and_call(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    answer = way.call(acme.api_key, status=201)
    settled(acme)
    call = Call.objects.get(tenant=acme.tenant)
    assert (call.capability, call.project_id, call.api_key_id) == ("contract", acme.key.project_id, acme.key.id)
    assert (call.status, call.outcome, call.units, str(call.id)) == (
        201,
        "billable",
        1,
        answer.headers["meterhouse-call-id"],
    )


def test_a_call_that_fails_is_free(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=3, burst_per_second=10**6)
    failures = [401, 403, 429, 500, 503]
    assert [way.call(acme.api_key, status=status).status for status in failures] == failures
    assert [way.call(acme.api_key).status for _ in range(4)] == [200, 200, 200, 429]
    assert settled(acme).rolled_up == {"billable": 3, "failed": 5, "refused": 1}


def test_a_call_takes_all_that_it_costs_or_nothing(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10, burst_per_second=10**6)
    assert [way.call(acme.api_key, cost=4).status for _ in range(3)] == [200, 200, 429]
    kept = settled(acme)
    assert (kept.used, kept.rolled_up["billable"]) == (8, 2)


def test_a_refusal_is_a_problem_that_says_why_and_until_when(answering: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=0)
    refused = answering.call(acme.api_key)
    assert refused.status == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) >= 1
    assert "r=0" in refused.headers["ratelimit"]
    assert refused.json["type"].endswith("/problems/quota-exceeded")
    assert (refused.json["refused_by"], refused.json["limit"], refused.json["plan"]) == ("quota", 0, "Free")


def test_every_answer_says_what_is_left(answering: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=50)
    answer = answering.call(acme.api_key)
    assert '"month";q=100;w=' in answer.headers["ratelimit-policy"]
    assert '"second";q=50;w=1' in answer.headers["ratelimit-policy"]
    assert answer.headers["ratelimit"].startswith('"month";r=99;t=')


def test_a_burst_refusal_takes_no_unit(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=1)
    answers = [way.call(acme.api_key) for _ in range(6)]
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    if way.answers:
        assert refused[0].json["type"].endswith("/problems/rate-limited")
    assert settled(acme).used == 6 - len(refused)


def test_without_a_valid_key_nothing_is_served_or_counted(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    before = Call.objects.count()
    for key in (None, "", "mh_live_nonsense", "mh_live_AAAAAAAAAAAA_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBCCCCCC"):
        answer = way.call(key)
        assert answer.status == 401
        if way.answers:
            assert answer.headers["www-authenticate"] == 'Bearer realm="meterhouse"'
            assert answer.headers["content-type"] == "application/problem+json"
    engine.stop()
    assert Call.objects.count() == before
    assert books(acme.tenant.id).used == 0


def test_a_key_without_the_scope_is_refused(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    _, reader = keys.issue(project=acme.key.project, name="r", actor="test", scopes=frozenset({"usage:read"}))
    assert way.call(reader).status == 403
    assert settled(acme).rolled_up["billable"] == 0


def test_a_tenant_without_a_plan_is_told_so(way: WayIn, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    Allowance.objects.filter(tenant=acme.tenant).delete()
    answer = way.call(acme.api_key)
    assert answer.status == 403
    if way.answers:
        assert answer.json["type"].endswith("/no-plan")


def test_calls_are_counted_for_their_own_tenant_only(way: WayIn, make_tenant: MakeTenant) -> None:
    acme, initech = make_tenant(included=5), make_tenant("Initech", included=5)
    for _ in range(5):
        way.call(acme.api_key)
    assert way.call(acme.api_key).status == 429
    assert way.call(initech.api_key).status == 200
    assert (settled(acme).used, settled(initech).used) == (5, 1)
