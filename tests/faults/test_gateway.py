"""Web workers that are killed while a proxy asks them and tells them outcomes: nothing is doubled, and what was held is settled."""

import http.client
import json
import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.db import connection
from pytest_django import Settings

from metering.gateway import outcomes
from metering.models import Call
from tests.conftest import MakeTenant, Product
from tests.faults.conftest import children, rest, stop
from tests.faults.load import Load
from tests.metering.ledger import Books

StartProduct = Callable[..., Product]
SECRET = "of-the-operator-" * 3
FAILS = "05af"  # a call whose id ends with one of these was answered with 500


def test_killed_workers_neither_double_nor_lose_what_they_held(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Callable[..., Books], quick_leases: dict[str, str],
    settings: Settings, is_long: bool,
) -> None:  # fmt: skip
    product = start_product(workers=2, GATE_PATHS="/=storage", GATE_SECRETS=SECRET, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    kills, chance, told = (30 if is_long else 2), random.Random(7), set[str]()
    with Load(product.address, "/gate/at/objects", [acme.api_key], clients=4) as load:
        for _ in range(kills):
            for _ in range(4):
                rest(0.05 + chance.random() / 10)
                with suppress(OSError, http.client.HTTPException):  # cut off by a kill: told again
                    told |= tell(product, acme.tenant.id, sorted(load.ids() - told)[:500])
            with suppress(ProcessLookupError, IndexError):
                os.kill(chance.choice(children(product.pid)), signal.SIGKILL)
    stop(product)
    ids = load.ids()
    results = outcomes.settle([outcome(call_id, acme.tenant.id) for call_id in sorted(ids)])
    lost = {call_id for call_id, one in zip(sorted(ids), results, strict=True) if not is_settled(one)}
    settings.GATE = {**settings.GATE, "OUTCOME_SECONDS": 0.0}
    unheard = outcomes.settle_overdue()  # admitted by an answer that the kill cut off
    kept = settles(acme.tenant.id)
    logged = {
        str(call_id): status for call_id, status in Call.objects.values_list("id", "status").filter(tenant=acme.tenant)
    }
    print(f"{kills} kills: {len(ids):,} admitted, {len(lost)} lost, {unheard} unheard")  # noqa: T201
    rate = len(load.answers) / (load.answers[-1].at - load.answers[0].at)
    assert len(lost) <= kills * (0.05 + 0.25) * rate  # a flush interval, and what busy cores may add to it
    assert logged.keys() >= ids - lost
    assert not logged.keys() & lost
    assert len(logged.keys() - ids) == unheard <= load.lost
    assert all(logged[call_id] == (500 if call_id[-1] in FAILS else 200) for call_id in ids - lost)
    for answered in load.by_connection():
        losses = [call_id in lost for call_id in answered]
        assert losses == sorted(losses)  # only the last calls that a killed process answered
    assert kept.logged["failed"] == sum(status == 500 for status in logged.values())
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metering_pending WHERE tenant_id = %s", [acme.tenant.id])
        assert cursor.fetchone() == (0,)


def outcome(call_id: str, tenant_id: Any) -> outcomes.Told:
    return outcomes.Told(UUID(call_id), 500 if call_id[-1] in FAILS else 200, 1000, tenant_id)


def is_settled(result: outcomes.Result) -> bool:
    return result.state in {outcomes.State.SETTLED, outcomes.State.ALREADY}


def tell(product: Product, tenant_id: Any, call_ids: list[str]) -> set[str]:
    """Those that the product has settled, over HTTP; sometimes it is killed meanwhile."""
    client = http.client.HTTPConnection(*product.address, timeout=10)
    entries = [
        {"call_id": one, "tenant": str(tenant_id), "status": 500 if one[-1] in FAILS else 200, "latency_ms": 1}
        for one in call_ids
    ]
    headers = {"Authorization": f"Bearer {SECRET}"}
    try:
        client.request("POST", "/gate/outcomes", json.dumps(entries), headers)
        results = json.loads(client.getresponse().read())["outcomes"]
    finally:
        client.close()
    return {entry["call_id"] for entry in results if entry["status"] in {"settled", "already"}}
