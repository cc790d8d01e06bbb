"""The gateway: what it is asked, what it is told afterwards, and what becomes of calls that nobody tells of."""

import json
import threading
import uuid
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from billing.onboarding import Onboarded
from metering import engine, invariants, limits, rebuild, usage
from metering.checks import the_gateway_is_configured
from metering.database import conninfo
from metering.engine import Engine
from metering.gateway import outcomes, paths
from metering.gateway.outcomes import State, Told
from metering.models import Allowance, Call, LimitKind, Recording
from tests.conftest import MakeTenant, wait_until
from tests.metering.contract.ways import tell
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")
CAPABILITY = {"meterhouse-capability": "storage"}


def ask(key: str, path: str = "/gate", **headers: str) -> Any:
    sent = {"authorization": f"Bearer {key}", **(headers or CAPABILITY)}
    return Client().get(path, headers={name.replace("_", "-"): value for name, value in sent.items()})


def admitted(owned: Onboarded) -> str:
    answer = ask(owned.api_key)
    assert answer.status_code == 204, answer.content
    call_id: str = answer.headers["Meterhouse-Call-Id"]
    return call_id


def waiting(owned: Onboarded) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metering_pending WHERE tenant_id = %s", [owned.tenant.id])
        return int(cursor.fetchone()[0])


def settled(owned: Onboarded) -> Any:
    engine.stop()
    kept = books(owned.tenant.id)
    kept.assert_balanced()
    assert (kept.reserved, waiting(owned)) == (0, 0)
    assert invariants.broken(tenant_id=owned.tenant.id) == {}
    return kept


def test_an_admitted_call_holds_its_unit_until_it_is_settled(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=3, burst_per_second=10**6)
    ids = [admitted(acme) for _ in range(3)]
    engine.stop()  # the process that admitted them is gone
    assert (waiting(acme), books(acme.tenant.id).used, books(acme.tenant.id).reserved) == (3, 0, 3)
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    assert ask(acme.api_key).status_code == 429
    assert tell([{"call_id": ids[0], "status": 502}])["settled"] == 1
    wait_until(lambda: ask(acme.api_key).status_code == 204, what="the freed unit")
    assert ask(acme.api_key).status_code == 429
    engine.engine().flush()
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM metering_pending WHERE tenant_id = %s", [acme.tenant.id])
        left = [str(row[0]) for row in cursor.fetchall()]
    assert tell([{"call_id": one, "status": 200} for one in left])["settled"] == 3
    assert settled(acme).rolled_up["billable"] == 3


def test_an_outcome_that_is_told_twice_counts_once_whoever_hears_it(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    call_id, tenant = admitted(acme), str(acme.tenant.id)
    told = {"call_id": call_id, "tenant": tenant, "status": 201, "latency_ms": 3}
    first = tell([told, told])
    assert [entry["status"] for entry in first["outcomes"]] == ["settled", "already"]
    engine.stop()
    with engine.replaced(Engine()) as other:
        again = tell([{**told, "status": 500}])
        assert again["outcomes"][0]["detail"] == "It was settled before, with status 201."
        unnamed = tell([{"call_id": call_id, "status": 500}])
        assert unnamed["settled"] == 0
        other.database.close()
    assert settled(acme).rolled_up == {"billable": 1, "failed": 0, "refused": 0}


def test_outcomes_told_at_once_by_many_count_once(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=1000, burst_per_second=10**6)
    ids = [admitted(acme) for _ in range(40)]
    engine.engine().flush()
    states: list[State] = []

    def run(order: list[str]) -> None:
        told = [Told(UUID(one), 200 if place % 2 else 500, 1000) for place, one in enumerate(order)]
        states.extend(result.state for result in outcomes.settle(told))

    threads = [threading.Thread(target=run, args=(order,)) for order in (ids, ids[::-1], ids[20:] + ids[:20])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states.count(State.SETTLED) == 40
    assert sum(settled(acme).rolled_up.values()) == 40


def test_a_call_without_an_outcome_counts_as_served_and_its_latency_as_unknown(
    make_tenant: MakeTenant, settings: Settings
) -> None:
    acme = make_tenant(included=10)
    told, forgotten = admitted(acme), admitted(acme)
    tell([{"call_id": told, "status": 200, "latency_ms": 20}])
    outcomes.settle_overdue()
    assert waiting(acme) == 1
    settings.GATE = {**settings.GATE, "OUTCOME_SECONDS": 0.0}
    outcomes.settle_overdue()
    call = Call.objects.get(id=forgotten)
    assert (call.status, call.outcome, call.reason, call.latency_us) == (200, "billable", "no-outcome", None)
    late = tell([{"call_id": forgotten, "tenant": str(acme.tenant.id), "status": 500}])
    assert "counts as served" in late["outcomes"][0]["detail"]
    assert settled(acme).rolled_up["billable"] == 2
    with connection.cursor() as cursor:
        cursor.execute("SELECT latency_counts FROM metering_usage_hour WHERE tenant_id = %s", [acme.tenant.id])
        assert [sum(counts) for (counts,) in cursor.fetchall()] == [1]
    hour = invariants.kept_since()
    assert hour is not None
    assert not rebuild.rebuild(tenant_id=acme.tenant.id, start=hour, end=call.occurred_at + rebuild.HOUR, apply=False)


def test_as_of_stays_at_the_first_call_that_awaits_its_outcome(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    call_id = admitted(acme)
    engine.engine().flush()
    at = datetime.fromtimestamp((UUID(call_id).int >> 80) / 1000 + 0.001, UTC)
    assert usage.as_of() <= at
    tell([{"call_id": call_id, "status": 200}])
    assert settled(acme).used == 1


def test_what_is_unknown_early_or_wrong_is_said_and_stops_nobody(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    fine = admitted(acme)
    answer = tell(
        [
            {"call_id": fine, "status": 200},
            {"call_id": "01900000-0000-7000-8000-000000000000", "status": 200},
            {"call_id": str(uuid.uuid4()), "status": 200},
            {"call_id": "nonsense", "status": 200},
            {"call_id": fine, "status": "200"},
            {"call_id": fine, "status": 200, "latency_ms": -1},
            "nonsense",
        ]
    )
    states = [entry["status"] for entry in answer["outcomes"]]
    assert states == ["settled", "unknown", "unknown", "invalid", "invalid", "invalid", "invalid"]
    assert settled(acme).used == 1


def test_a_call_that_is_not_held_yet_is_to_be_told_again(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    with engine.replaced(Engine()) as other:  # a process that has not flushed yet
        other._thread = threading.Thread(target=lambda: None)
        other._is_running = True
        call_id = admitted(acme)
    told = {"call_id": call_id, "status": 500}
    assert tell([told])["early"] == 1
    with engine.replaced(other):
        other.flush(everything=True)
        other._last_flush()
        other.database.close()
    assert tell([told])["settled"] == 1
    assert settled(acme).rolled_up["failed"] == 1


def test_one_call_that_the_ledger_cannot_take_is_set_aside_alone(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    ids = [admitted(acme) for _ in range(5)]
    engine.engine().flush()
    tell([{"call_id": ids[0], "status": 200}])
    with connection.cursor() as cursor:  # as if a spool of long ago had brought a settled call again
        cursor.execute(
            "INSERT INTO metering_pending SELECT id, tenant_id, project_id, api_key_id, capability, units, occurred_at, NULL "
            "FROM metering_call WHERE id = %s",
            [ids[0]],
        )
    assert tell([{"call_id": one, "status": 200} for one in ids])["settled"] == 5
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM metering_setaside WHERE tenant_id = %s RETURNING calls", [acme.tenant.id])
        assert cursor.fetchall() == [(1,)]
    assert settled(acme).rolled_up["billable"] == 5


def test_calls_of_a_narrower_limit_hold_its_units_too(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100)
    limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=4, actor="test")
    limits.put(tenant=acme.tenant, kind=LimitKind.PROJECT, calls=3, actor="test", subject_id=acme.key.project_id)
    ids = [admitted(acme) for _ in range(3)]
    assert ask(acme.api_key).status_code == 429
    engine.engine().flush()
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    tell([{"call_id": ids[0], "status": 503}, {"call_id": ids[1], "status": 200}])
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    wait_until(lambda: ask(acme.api_key).status_code == 204, what="the freed unit")
    engine.engine().flush()
    assert invariants.broken(tenant_id=acme.tenant.id) == {}
    outcomes_of_rest(acme)
    assert settled(acme).rolled_up["billable"] == 3


def outcomes_of_rest(owned: Onboarded) -> None:
    engine.engine().flush()
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM metering_pending WHERE tenant_id = %s", [owned.tenant.id])
        left = [str(row[0]) for row in cursor.fetchall()]
    tell([{"call_id": one, "status": 200} for one in left])


def test_a_durable_call_is_held_before_it_is_answered(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=Recording.DURABLE)
    call_id = admitted(acme)
    with psycopg.connect(conninfo()) as other:
        assert other.execute("SELECT count(*) FROM metering_pending WHERE id = %s", [call_id]).fetchone() == (1,)
    tell([{"call_id": call_id, "status": 200}])
    assert settled(acme).used == 1


# -- what is asked for -------------------------------------------------------------------------------------------------


def test_the_path_map_decides_and_what_a_client_sends_does_not(make_tenant: MakeTenant, settings: Settings) -> None:
    acme = make_tenant(included=100)
    settings.GATE = {**settings.GATE, "PATHS": ["/v1/objects=storage", "/v1/objects/scan=scans:7", "/v2=beta"]}
    spoofed = {"meterhouse_capability": "cheap", "meterhouse_cost": "1"}
    asked = {
        "/v1/objects/a?x=/v2": ("storage", 1),
        "/v1/objects/scan": ("scans", 7),
        "/v1/objects/../objects//%73can/./b": ("scans", 7),
        "/v2": ("beta", 1),
    }
    ids = {}
    for uri, meant in asked.items():
        answer = ask(acme.api_key, x_forwarded_uri=uri, **spoofed)
        ids[answer.headers["Meterhouse-Call-Id"]] = meant
    envoy = ask(acme.api_key, "/gate/at/v1/objects/a", **spoofed)
    assert envoy.status_code == 200
    ids[envoy.headers["Meterhouse-Call-Id"]] = ("storage", 1)
    for uri in ("/v1", "/v1/objectsx", "/v1/objects/../.."):
        assert ask(acme.api_key, x_forwarded_uri=uri, **spoofed).status_code == 403
    assert ask(acme.api_key, **spoofed).status_code == 500
    tell([{"call_id": one, "status": 200} for one in ids])
    assert {str(call.id): (call.capability, call.units) for call in Call.objects.filter(tenant=acme.tenant)} == ids
    settled(acme)


def test_an_answer_names_who_calls(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100)
    answer = ask(acme.api_key)
    assert answer.headers["Meterhouse-Tenant"] == str(acme.tenant.id)
    assert answer.headers["Meterhouse-Project"] == str(acme.key.project_id)
    assert answer.headers["Meterhouse-Key"] == acme.api_key[:20]
    assert answer.content == b""
    tell([{"call_id": answer.headers["Meterhouse-Call-Id"], "status": 200}])
    settled(acme)


@pytest.mark.parametrize(
    "headers",
    [{"x": "y"}, {"meterhouse_capability": "No Name"}, {"meterhouse_capability": "storage", "meterhouse_cost": "0"}],
)
def test_a_proxy_that_says_nothing_usable_is_told_what(make_tenant: MakeTenant, headers: dict[str, str]) -> None:
    acme = make_tenant(included=100)
    answer = ask(acme.api_key, **headers)
    assert answer.status_code == 500
    assert "Meterhouse-C" in json.loads(answer.content)["detail"]
    assert settled(acme).used == 0


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer ", "Basic x"])
def test_only_the_operators_secret_tells_outcomes(make_tenant: MakeTenant, settings: Settings, header: str) -> None:
    acme = make_tenant(included=100)
    told = [{"call_id": admitted(acme), "status": 500}]
    settings.GATE = {**settings.GATE, "SECRETS": ["x" * 32]}
    for value in (header, f"Bearer {acme.api_key}"):
        answer = Client().post(
            "/gate/outcomes", told, content_type="application/json", headers={"authorization": value}
        )
        assert answer.status_code == 401
    settings.GATE = {**settings.GATE, "SECRETS": []}
    assert Client().post("/gate/outcomes", told, content_type="application/json").status_code == 403
    outcomes_of_rest(acme)
    assert settled(acme).rolled_up["billable"] == 1


def test_what_is_configured_wrong_is_named_at_the_start(settings: Settings) -> None:
    assert the_gateway_is_configured() == []
    for wrong in ("storage", "/a=Bad Name", "/a=b:none", "/a=b:0"):
        settings.GATE = {**settings.GATE, "PATHS": ["/x=y", wrong]}
        assert [error.id for error in the_gateway_is_configured()] == ["metering.E004"]
    settings.GATE = {"PATHS": ["/a=b", "/a/=c"], "SECRETS": ["short"], "OUTCOME_SECONDS": 0.5}
    assert [error.id for error in the_gateway_is_configured()] == ["metering.E004", "metering.E005", "metering.E006"]


@given(st.text(alphabet="/.a%2eb", max_size=12))
def test_a_normalized_path_stays_as_it_is(path: str) -> None:
    normal = paths.normalized(path)
    assert paths.normalized(normal) == normal
    assert not {"", ".", ".."} & set(normal.split("/")[1:])
