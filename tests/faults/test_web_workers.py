"""Web workers that are killed, reloaded and stopped under load."""

import os
import random
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import connection

from tests.conftest import MakeTenant, Product, wait_until
from tests.faults.conftest import children, recorded, rest
from tests.faults.load import Load
from tests.metering.ledger import Books, books

StartProduct = Callable[..., Product]
Settles = Callable[..., Books]
SESSION = "/sandbox/v1/auth/session"


def test_killed_workers_never_over_count_and_leak_nothing(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, quick_leases: dict[str, str], is_long: bool
) -> None:
    """SIGKILL: what is in the ledger was admitted; what is missing was answered in the last moments of a killed process."""
    product = start_product(workers=2, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    kills, chance = (50 if is_long else 4), random.Random(7)
    with Load(product.address, SESSION, [acme.api_key], clients=6) as load:
        for _ in range(kills):
            rest(0.3 + chance.random() / 2)
            with suppress(ProcessLookupError, IndexError):
                os.kill(chance.choice(children(product.pid)), signal.SIGKILL)
        rest(0.5)
    os.kill(product.pid, signal.SIGTERM)
    kept = settles(acme.tenant.id, seconds=40)
    answered, logged = load.ids(), recorded(acme.tenant.id)
    assert load.statuses.keys() == {200}
    assert len(logged - answered) <= load.lost  # recorded and not answered: only calls that the kill cut off
    missing = answered - logged
    flush = 0.05 + 0.25  # a flush interval, and what two busy cores may add to it
    rate = len(load.answers) / (load.answers[-1].at - load.answers[0].at)
    print(f"{kills} kills: {len(answered):,} answered, {len(missing)} missing, {load.lost} cut off")  # noqa: T201
    assert len(missing) <= kills * flush * rate
    assert kept.used == len(logged)


def test_a_killed_worker_never_lets_a_limit_be_passed(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, quick_leases: dict[str, str]
) -> None:
    product = start_product(workers=2, **quick_leases)
    globex = make_tenant("Globex", included=700, burst_per_second=10**6)
    with Load(product.address, SESSION, [globex.api_key], clients=6) as load:
        wait_until(lambda: load.statuses[200] > 200)
        os.kill(children(product.pid)[0], signal.SIGKILL)
        wait_until(lambda: load.statuses[429] > 50, seconds=30)
    os.kill(product.pid, signal.SIGTERM)
    kept = settles(globex.tenant.id, seconds=40)
    missing = load.ids() - recorded(globex.tenant.id)
    assert kept.used <= 700
    assert load.statuses[200] <= 700 + len(missing)


@pytest.mark.parametrize("worker_class", ["gthread", "sync"])
def test_reloads_under_load_lose_no_call_and_fail_no_request(
    start_product: StartProduct,
    make_tenant: MakeTenant,
    settles: Settles,
    quick_leases: dict[str, str],
    is_long: bool,
    worker_class: str,
) -> None:
    """HUP: new workers take over, old ones answer what they have begun, flush and return their leases."""
    product = start_product(workers=2, WEB_WORKER_CLASS=worker_class, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    with Load(product.address, SESSION, [acme.api_key], clients=4, pause_seconds=0.002) as load:
        for _ in range(10 if is_long else 3):
            before = set(children(product.pid))
            rest(0.4)
            os.kill(product.pid, signal.SIGHUP)
            wait_until(lambda: not before & set(children(product.pid)), seconds=40, what="new workers")  # noqa: B023
        rest(0.3)
    os.kill(product.pid, signal.SIGTERM)
    kept = settles(acme.tenant.id, seconds=40)
    assert load.statuses.keys() == {200}
    assert load.ids() - recorded(acme.tenant.id) == set()
    assert len(recorded(acme.tenant.id) - load.ids()) <= load.lost
    assert kept.reserved == 0


def test_a_blocked_tenant_that_hammers_costs_no_sql_a_call_and_slows_nobody(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, quick_leases: dict[str, str]
) -> None:
    product = start_product(workers=2, **quick_leases)
    globex, acme = make_tenant("Globex", included=5, burst_per_second=10**6), make_tenant(plan="scale")
    before = transactions()
    with (
        Load(product.address, SESSION, [globex.api_key], clients=6) as flood,
        Load(product.address, SESSION, [acme.api_key], clients=1, pause_seconds=0.01) as other,
    ):
        wait_until(lambda: flood.statuses[429] > 3000, seconds=60, what="the flood")
    spent = transactions() - before
    os.kill(product.pid, signal.SIGTERM)
    settles(globex.tenant.id)
    assert flood.statuses[200] == 5
    assert other.statuses.keys() == {200}
    assert spent < flood.statuses[429] / 4, spent  # flushes, grants and renewals of some seconds, not calls


def transactions() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize(
    "path", [SESSION + "?q=%00", "/sandbox/v1/database/records/%00", "/sandbox/v1/database/records/%ff%fe",
             SESSION + "?" + "a" * 3000],
)  # fmt: skip
def test_hostile_addresses_are_answered_and_counted_like_others(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, path: str
) -> None:
    from tests.clients import get

    product = start_product(workers=1)
    acme = make_tenant(included=10)
    answer = get(product.address, path, acme.api_key)
    os.kill(product.pid, signal.SIGTERM)
    kept = settles(acme.tenant.id)
    assert answer.status < 500
    assert kept.used == (1 if "meterhouse-call-id" in answer.headers and answer.status not in {401, 403, 429} else 0)
    assert books(acme.tenant.id).rolled_up["failed"] == 0
