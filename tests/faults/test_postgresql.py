"""PostgreSQL that goes away: connections ended, the server stopped at once, the network cut during a commit."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from metering import calls, engine, invariants
from metering.models import Allowance, OnOutage, Recording
from tests.clients import get
from tests.conftest import MakeTenant, Product, wait_until
from tests.faults.conftest import Breakable, recorded, rest, terminate_engines
from tests.faults.load import Load
from tests.faults.proxy import CuttingProxy
from tests.metering.ledger import Books, books
from tests.metering.test_limit_is_exact import caller_of

StartProduct = Callable[..., Product]
Settles = Callable[..., Books]
SESSION = "/sandbox/v1/auth/session"


def test_connections_that_are_ended_at_random_lose_no_call(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, quick_leases: dict[str, str], is_long: bool
) -> None:
    product = start_product(workers=2, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    chance, ended = random.Random(11), 0
    with Load(product.address, SESSION, [acme.api_key], clients=4) as load:
        for _ in range(60 if is_long else 10):
            rest(0.1 + chance.random() / 5)
            ended += terminate_engines()
        rest(0.5)
    os.kill(product.pid, signal.SIGTERM)
    kept = settles(acme.tenant.id)
    assert ended > 0
    assert set(load.statuses) <= {200, 503}
    assert recorded(acme.tenant.id) == load.ids()
    assert kept.used == load.statuses[200]


def test_an_immediate_stop_under_load_loses_no_answered_call(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    settles: Settles,
    quick_leases: dict[str, str],
    is_long: bool,
) -> None:
    """Leases serve on, then `on_outage` decides; records wait on disk; all is counted once when the server is back."""
    product = start_product(workers=2, **quick_leases)
    closed = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    opened = make_tenant("Globex", plan="scale", included=10**6, burst_per_second=10**6)
    Allowance.objects.filter(tenant=opened.tenant).update(on_outage=OnOutage.OPEN, changed_at=timezone.now())
    with (
        Load(product.address, SESSION, [closed.api_key], clients=2, pause_seconds=0.005) as of_closed,
        Load(product.address, SESSION, [opened.api_key], clients=2, pause_seconds=0.005) as of_opened,
    ):
        for _ in range(4 if is_long else 1):
            rest(1.5)
            connections.close_all()
            breakable.send(breakable.postgres, signal.SIGQUIT)  # `pg_ctl stop -m immediate`
            counts = of_opened.statuses[200], of_closed.statuses[503]
            wait_until(lambda: of_opened.statuses[200] > counts[0] + 50, what="open service during the outage")  # noqa: B023
            wait_until(lambda: of_closed.statuses[503] > counts[1] + 5, what="503 of the closed one")  # noqa: B023
            breakable.bring_back(breakable.postgres)
            served = of_closed.statuses[200]
            wait_until(lambda: of_closed.statuses[200] > served + 50, seconds=20, what="service afterwards")  # noqa: B023
    os.kill(product.pid, signal.SIGTERM)
    for tenant, load in ((closed, of_closed), (opened, of_opened)):
        kept = settles(tenant.tenant.id, seconds=40)
        assert recorded(tenant.tenant.id) == load.ids()
        assert kept.used == load.statuses[200]
        assert set(load.statuses) <= {200, 503}
    assert list(Path(quick_leases["METERING_SPOOL_DIR"]).rglob("*.spool")) == []


def test_calls_on_disk_survive_the_process_that_recorded_them(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    settles: Settles,
    quick_leases: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> None:
    """PostgreSQL goes, calls are answered and wait on disk, then the process is killed: another one counts them."""
    product = start_product(workers=1, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    Allowance.objects.filter(tenant=acme.tenant).update(on_outage=OnOutage.OPEN, changed_at=timezone.now())
    with Load(product.address, SESSION, [acme.api_key], clients=2, pause_seconds=0.005) as load:
        rest(1.2)
        connections.close_all()
        breakable.send(breakable.postgres, signal.SIGQUIT)
        before = load.statuses[200]
        wait_until(lambda: load.statuses[200] > before + 60, what="service during the outage")
    spool = Path(quick_leases["METERING_SPOOL_DIR"])
    rest(0.5)  # ten flush intervals: everything that was answered is on disk
    assert list(spool.rglob("*.spool"))
    for pid in [*_children(product.pid), product.pid]:
        os.kill(pid, signal.SIGKILL)
    breakable.bring_back(breakable.postgres)
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(spool), "LEASE_SECONDS": 3.0}
    other = engine.Engine()

    def is_adopted() -> bool:
        other.adopt()
        return not list(spool.rglob("*.spool"))

    wait_until(is_adopted, what="the adoption")
    other.database.close()
    assert recorded(acme.tenant.id) == load.ids()
    books(acme.tenant.id).assert_balanced()
    assert set(invariants.broken(tenant_id=acme.tenant.id)) == set()


def _children(pid: int) -> list[int]:
    from tests.faults.conftest import children

    return children(pid)


@pytest.fixture
def cut_off(breakable: Breakable, settings: Any, tmp_path: Path) -> Iterator[CuttingProxy]:
    """The engine of this process reaches PostgreSQL through a proxy that cuts flushes, before or after they are carried out."""
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(tmp_path / "spool")}
    proxy = CuttingProxy(breakable.postgres_address, what=b"billable", before=0.25, after=0.35, seed=5)
    yield proxy
    engine.stop()
    connections.close_all()
    connections["default"].settings_dict["PORT"] = breakable.postgres_address[1]
    proxy.close()


@pytest.mark.parametrize("recording", [Recording.BUFFERED, Recording.DURABLE])
def test_a_connection_cut_during_a_commit_neither_doubles_nor_loses_a_call(
    cut_off: CuttingProxy, make_tenant: MakeTenant, is_long: bool, recording: Recording
) -> None:
    """The ambiguous commit: it may have happened or not, and the batch is sent again under the same id."""
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=recording)
    connections["default"].close()
    connections["default"].settings_dict["PORT"] = cut_off.port
    caller, answered = caller_of(acme.api_key), set()
    cut_off.is_cutting = True
    for _ in range(150 if is_long else 40):
        for _ in range(5):
            try:
                call = calls.open_call(caller=caller, capability="storage")
            except calls.LimitUnavailable:  # the engine rests for a quarter of a second after an outage
                rest(0.05)
                continue
            calls.close_call(call, status=200, latency_us=1)
            answered.add(call.id)
        engine.engine().flush()
    cut_off.is_cutting = False
    engine.stop()
    assert cut_off.cuts["before"] >= 2
    assert cut_off.cuts["after"] >= 2
    assert recorded(acme.tenant.id) == answered
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved) == (len(answered), 0)
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


def test_the_limit_is_exact_while_connections_are_cut(cut_off: CuttingProxy, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=120, burst_per_second=10**6)
    connections["default"].close()
    connections["default"].settings_dict["PORT"] = cut_off.port
    caller, admitted = caller_of(acme.api_key), 0
    cut_off.is_cutting = True

    def is_exhausted() -> bool:
        nonlocal admitted
        try:
            call = calls.open_call(caller=caller, capability="storage")
        except calls.LimitUnavailable:
            return False
        calls.close_call(call, status=200, latency_us=1)
        admitted += call.problem is None
        return call.problem is not None and call.problem.retry_after_seconds != 1

    wait_until(is_exhausted, seconds=40, what="the limit")
    cut_off.is_cutting = False
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (admitted, kept.used, kept.reserved) == (120, 120, 0)


def test_the_product_answers_while_postgresql_is_away(
    breakable: Breakable, start_product: StartProduct, make_tenant: MakeTenant, quick_leases: dict[str, str]
) -> None:
    product = start_product(workers=1, **quick_leases)
    acme = make_tenant(included=10**6, burst_per_second=10**6)
    assert get(product.address, SESSION, acme.api_key).status == 200
    connections.close_all()
    breakable.send(breakable.postgres, signal.SIGQUIT)
    answers = [get(product.address, SESSION, acme.api_key) for _ in range(20)]
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.json["type"].rpartition("/")[2] in {"limit-unavailable", "unavailable"}
    assert refused.headers["retry-after"] == "1"
    breakable.bring_back(breakable.postgres)
    wait_until(lambda: get(product.address, SESSION, acme.api_key).status == 200, what="service afterwards")
