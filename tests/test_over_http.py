"""The promises of metering as a customer's program sees them: real gunicorn processes, real HTTP."""

import http.client
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import UUID

import pytest
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from metering.gateway.outcomes import State, Told, settle
from tenants import keys
from tests.clients import get, get_many
from tests.conftest import MakeTenant, Product, StartProduct, products, wait_until
from tests.metering.ledger import books

SESSION = "/sandbox/v1/auth/session"
pytestmark = pytest.mark.usefixtures("committed")


@pytest.fixture(scope="module")
def product(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """Two web processes, shared by the tests that change nothing about them."""
    with django_db_blocker.unblock(), products(tmp_path_factory.mktemp("product")) as start:
        yield start(workers=2)


def counted(product: Product, key: str) -> dict[str, int]:
    calls: dict[str, int] = get(product.address, "/api/v1/usage", key).json["calls"]
    return calls


def test_a_limit_of_500_admits_exactly_500_of_2000(product: Product, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex", included=500, burst_per_second=100_000)
    answers = get_many(product.address, SESSION, globex.api_key, count=2000, clients=64)
    assert Counter(answer.status for answer in answers) == {200: 500, 429: 1500}
    workers = {answer.headers["meterhouse-call-id"] for answer in answers}
    assert len(workers) == 2000
    wait_until(lambda: counted(product, globex.api_key)["rejected"] == 1500, what="the last flush")
    assert counted(product, globex.api_key) == {
        "billable": 500, "units": 500, "included": 500, "hard_limit": None, "remaining": 0, "overage": 0, "rejected": 1500,
        "failed": 0,
    }  # fmt: skip
    for refused in (answer for answer in answers if answer.status == 429):
        problem = refused.json
        assert refused.headers["content-type"] == "application/problem+json"
        assert problem["type"].endswith("/problems/quota-exceeded")
        assert (problem["status"], problem["limit"], problem["plan"]) == (429, 500, "Free")
        end = datetime.fromisoformat(problem["period_end"])
        seconds = int(refused.headers["retry-after"])
        assert seconds == 1 or abs(seconds - (end - timezone.now()).total_seconds()) < 120
    kept = books(globex.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved, kept.logged) == (500, 0, {"billable": 500, "failed": 0, "refused": 1500})


def test_a_limit_of_500_is_shared_by_views_the_gateway_and_events(product: Product, make_tenant: MakeTenant) -> None:
    """All at once, in two web processes; what the gateway admitted is told to another process, a part of it twice."""
    acme = make_tenant(included=500, burst_per_second=100_000)
    _, sender = keys.issue(project=acme.key.project, name="s", actor="test", scopes=frozenset({"events:write"}))
    with ThreadPoolExecutor(3) as pool:
        viewed = pool.submit(get_many, product.address, SESSION, acme.api_key, count=300, clients=6)
        asked = pool.submit(
            get_many,
            product.address,
            "/gate",
            acme.api_key,
            count=300,
            clients=6,
            headers={"Meterhouse-Capability": "storage"},
        )
        sent = pool.submit(accepted_events, product, sender, requests=15, events=20)
    views = Counter(answer.status for answer in viewed.result())
    gate = [answer.headers["meterhouse-call-id"] for answer in asked.result() if answer.status == 204]
    assert min(views[200], len(gate), sent.result()) > 0
    assert views[200] + len(gate) + sent.result() <= 500
    told = [
        Told(UUID(call_id), 500 if place < 10 else 200, tenant_id=acme.tenant.id) for place, call_id in enumerate(gate)
    ]
    wait_until(lambda: State.EARLY not in {one.state for one in settle(told)}, what="the last flush")
    assert {one.state for one in settle(told[:50])} == {State.ALREADY}
    admitted = views[200] + len(gate) - 10 + sent.result()  # ten of them failed, and are free again
    refused = 300 - views[200] + 300 - len(gate) + 300 - sent.result()

    def is_used_up() -> bool:
        nonlocal admitted, refused
        answer = get(product.address, SESSION, acme.api_key)
        admitted += answer.status == 200
        refused += answer.status == 429
        return answer.status == 429 and answer.headers["retry-after"] != "1"

    wait_until(is_used_up, what="the last free unit")
    assert admitted == 500
    wait_until(lambda: books(acme.tenant.id).quota_refused == refused, what="the last flush")
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved, kept.logged["failed"]) == (500, 0, 10)


def accepted_events(product: Product, key: str, *, requests: int, events: int) -> int:
    """How many events were admitted, asked for in batches."""
    client, accepted = http.client.HTTPConnection(*product.address, timeout=30), 0
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for number in range(requests):
        batch = [{"id": f"{number}-{place}", "capability": "storage", "admit": True} for place in range(events)]
        client.request("POST", "/api/v1/events", json.dumps(batch), headers)
        accepted += json.loads(client.getresponse().read())["accepted"]
    client.close()
    return accepted


def test_after_the_last_flush_a_refusal_says_the_periods_end(product: Product, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex", included=2)
    statuses = [get(product.address, SESSION, globex.api_key).status for _ in range(2)]
    wait_until(lambda: counted(product, globex.api_key)["billable"] == 2)
    refused = wait_until(
        lambda: (answer := get(product.address, SESSION, globex.api_key)).headers["retry-after"] != "1" and answer
    )
    assert statuses == [200, 200]
    end = datetime.fromisoformat(refused.json["period_end"])
    assert abs(int(refused.headers["retry-after"]) - (end - timezone.now()).total_seconds()) < 60
    assert "r=0" in refused.headers["ratelimit"]


def test_failed_calls_are_free_and_latency_is_read_back(product: Product, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=300, burst_per_second=100_000)
    answers = get_many(product.address, "/sandbox/v1/storage/status/500", acme.api_key, count=200, clients=16)
    assert Counter(answer.status for answer in answers) == {500: 200}
    slow = get_many(product.address, "/sandbox/v1/database/status/200?delay_ms=120", acme.api_key, count=20, clients=4)
    assert Counter(answer.status for answer in slow) == {200: 20}
    usage = wait_until(
        lambda: (body := get(product.address, "/api/v1/usage", acme.api_key).json)["calls"]["billable"] == 20 and body
    )
    assert usage["calls"]["failed"] == 200
    assert usage["calls"]["remaining"] == 280
    by_name = {row["capability"]: row for row in usage["capabilities"]}
    assert by_name["storage"]["error_rate"] == 1.0
    assert by_name["database"]["latency_ms"]["p50"] >= 110


def test_the_ratelimit_fields_count_down(start_product: StartProduct, make_tenant: MakeTenant) -> None:
    product = start_product(workers=1)
    acme = make_tenant(included=5000)
    first, second = (get(product.address, SESSION, acme.api_key) for _ in range(2))
    assert first.headers["ratelimit-policy"].startswith('"month";q=5000;w=')
    assert first.headers["ratelimit"].startswith('"month";r=4999;t=')
    assert second.headers["ratelimit"].startswith('"month";r=4998;t=')


def test_a_burst_is_refused_and_says_so(product: Product, make_tenant: MakeTenant) -> None:
    acme = make_tenant(burst_per_second=5)
    answers = get_many(product.address, SESSION, acme.api_key, count=60, clients=20)
    refused = [answer for answer in answers if answer.status == 429]
    assert refused
    assert all(answer.json["type"].endswith("/problems/rate-limited") for answer in refused)
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    wait_until(lambda: counted(product, acme.api_key)["rejected"] == len(refused))
    assert counted(product, acme.api_key)["billable"] == 60 - len(refused)


def test_a_revoked_key_is_refused_everywhere_within_a_second(product: Product, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    assert {get(product.address, SESSION, acme.api_key).status for _ in range(20)} == {200}
    keys.revoke(key=acme.key, actor="test", now=timezone.now())
    wait_until(
        lambda: (
            {answer.status for answer in get_many(product.address, SESSION, acme.api_key, count=20, clients=8)} == {401}
        ),
        seconds=3,
        what="refusal by both processes",
    )


def test_without_redis_calls_are_served_and_it_is_said(start_product: StartProduct, make_tenant: MakeTenant) -> None:
    product = start_product(workers=1, REDIS_URL="redis://127.0.0.1:1/0")
    acme = make_tenant(included=3)
    assert [get(product.address, SESSION, acme.api_key).status for _ in range(4)] == [200, 200, 200, 429]
    ready = get(product.address, "/readyz", None)
    assert (ready.status, ready.json["status"], ready.json["redis"]) == (200, "degraded", "unreachable")


def test_with_a_wrong_database_url_everything_is_a_clear_503(start_product: StartProduct) -> None:
    product = start_product(workers=1, DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    key = "mh_live_000000000000_" + "0" * 38
    for path in (SESSION, "/api/v1/usage", "/readyz"):
        answer = get(product.address, path, key if keys.is_well_formed(key) else well_formed())
        assert answer.status == 503
    login = get(product.address, "/t/acme/", None)
    assert login.status in {302, 503}


def well_formed() -> str:
    secret = "0" * keys.SECRET_LENGTH
    public_id = "0" * keys.ID_LENGTH
    return f"mh_live_{public_id}_{secret}{keys.checksum(public_id + secret)}"


def test_a_clean_stop_flushes_and_returns_leases(start_product: StartProduct, make_tenant: MakeTenant) -> None:
    product = start_product(workers=2)
    acme = make_tenant(included=5000, burst_per_second=10_000)
    answers = get_many(product.address, SESSION, acme.api_key, count=300, clients=8)
    os.kill(product.pid, signal.SIGTERM)
    wait_until(lambda: books(acme.tenant.id).reserved == 0, what="the return of the leases")
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert kept.used == sum(answer.status == 200 for answer in answers) == 300


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Bearer mh_live_a_b", "Basic eDp5", "Bearer " + "é" * 20])
def test_every_bad_key_gets_the_same_401(committed: None, client, header: str) -> None:  # type: ignore[no-untyped-def]
    answer = client.get(SESSION, headers={"authorization": header} if header else {})
    assert answer.status_code == 401
    assert answer.json()["detail"] == "Send a valid API key as 'Authorization: Bearer mh_live_...'."
    assert answer["WWW-Authenticate"].startswith("Bearer")
