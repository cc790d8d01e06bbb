"""PostgreSQL that goes away: connections ended, the server stopped at once, the network cut during a commit."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
from django.db import connections
from django.utils import timezone
from pytest_django import Settings

from metering import calls, engine
from metering.database import PROBE_SECONDS, Database, Unreachable, conninfo
from metering.holdings import NoAllowance
from metering.models import Allowance, OnOutage, Recording
from tests.clients import get
from tests.conftest import MakeTenant, Product, wait_until
from tests.faults.conftest import Breakable, children, recorded, rest, sound, stop, terminate_engines
from tests.faults.load import Load
from tests.faults.proxy import ANY, CuttingProxy
from tests.metering.ledger import Books
from tests.metering.test_limit_is_exact import attempt, caller_of

StartProduct = Callable[..., Product]
Settles = Callable[..., Books]
SESSION = "/sandbox/v1/auth/session"


def test_connections_that_are_ended_at_random_lose_no_call(
    start_product: StartProduct, make_tenant: MakeTenant, quick_leases: dict[str, str], is_long: bool
) -> None:
    product = start_product(workers=2, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    chance, ended = random.Random(11), 0
    with Load(product.address, SESSION, [acme.api_key], clients=4) as load:
        for _ in range(60 if is_long else 6):
            rest(0.1 + chance.random() / 5)
            ended += terminate_engines()
        served = load.statuses[200]
        wait_until(lambda: load.statuses[200] > served + 50, what="service afterwards")
    stop(product)
    kept = sound(acme.tenant.id)
    assert ended > 0
    assert set(load.statuses) <= {200, 503}
    assert recorded(acme.tenant.id) == load.ids()
    assert (kept.used, kept.reserved) == (load.statuses[200], 0)


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize(
    "ending", ["SELECT pg_terminate_backend(pg_backend_pid())", "no allowance"], ids=["lost", "left"]
)
def test_a_first_try_that_ends_otherwise_does_not_prolong_an_outage(ending: str) -> None:
    """After an outage one caller tries for all. It may lose its connection, or leave before it asked anything."""
    database, settings_dict = Database(), connections["default"].settings_dict
    port, settings_dict["PORT"] = settings_dict["PORT"], 1
    with pytest.raises(Unreachable), database.connection():
        pass
    settings_dict["PORT"] = port

    def asks(question: str) -> bool:
        try:
            with database.connection() as connection:
                connection.execute("SELECT 1" if question == "no allowance" else question)
                if question == "no allowance":
                    raise NoAllowance
        except Unreachable as error:
            return "a moment ago" not in str(error)
        except NoAllowance:
            pass
        return True

    wait_until(lambda: asks(ending), seconds=PROBE_SECONDS, what="the first try")
    wait_until(lambda: asks("SELECT 1"), seconds=PROBE_SECONDS - 1, what="the next one")
    database.close()


@pytest.mark.usefixtures("committed")
def test_a_grant_that_waits_for_a_lock_until_we_give_up_leaves_no_unit_behind(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10, burst_per_second=10**6)
    caller, meter = caller_of(acme.api_key), engine.engine()
    calls.close_call(calls.open_call(caller=caller, capability="storage"), status=200, latency_us=1)
    wait_until(lambda: meter.flush(everything=True), what="the first call's flush")
    with psycopg.connect(conninfo()) as other:
        other.execute("SELECT FROM metering_quota WHERE tenant_id = %s FOR UPDATE", (acme.tenant.id,))
        with pytest.raises(calls.LimitUnavailable):
            calls.open_call(caller=caller, capability="storage")
        wait_until(meter.flush, what="the return of the lease that may have been granted")
    wait_until(lambda: not is_asked(), what="the end of every question")
    engine.stop()
    kept = sound(acme.tenant.id)
    assert (kept.used, kept.reserved) == (1, 0)


def is_asked() -> bool:
    """Whether PostgreSQL still works for an engine."""
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT FROM pg_stat_activity WHERE application_name = 'meterhouse-engine' AND state = 'active' "
            "AND datname = current_database()"
        )
        return bool(cursor.rowcount)


def test_leases_serve_on_without_postgresql_and_not_further(
    breakable: Breakable, make_tenant: MakeTenant, settings: Settings, tmp_path: Path
) -> None:
    settings.METERING = {**settings.METERING, "IDLE_SECONDS": 60.0, "SPOOL_DIR": str(tmp_path / "spool")}
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    caller, served = caller_of(acme.api_key), 0
    for _ in range(100):  # grants double
        served += attempt(caller, 1)
    lease = engine.engine().holding(acme.tenant.id).whole.lease
    assert lease is not None
    assert lease.left > 5
    connections.close_all()
    with breakable.down(breakable.postgres, signal.SIGQUIT):
        wait_until(lambda: breakable.postgres.exit_code() is not None, what="the server's end")
        served += attempt(caller, lease.left)
        with pytest.raises(calls.LimitUnavailable):
            calls.open_call(caller=caller, capability="storage")
    wait_until(engine.engine().flush, what="the flush afterwards")
    engine.stop()
    kept = sound(acme.tenant.id)
    assert (kept.used, kept.reserved) == (served, 0)


def stopped(servers: Breakable) -> AbstractContextManager[None]:
    return servers.down(servers.postgres, signal.SIGQUIT)  # `pg_ctl stop -m immediate`


def frozen(servers: Breakable) -> AbstractContextManager[None]:
    return servers.frozen(servers.postgres)


@pytest.mark.parametrize(
    "fault", [pytest.param(stopped, marks=pytest.mark.long), frozen], ids=lambda fault: fault.__name__
)
def test_an_outage_under_load_loses_no_answered_call(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    quick_leases: dict[str, str],
    settles: Settles,
    is_long: bool,
    fault: Callable[[Breakable], AbstractContextManager[None]],
) -> None:
    """`on_outage` decides; records wait on disk; all is counted once when the server is back.

    A process that the outage kept from renewing itself is a new one afterwards: what the old one held comes back at its end.
    """
    product = start_product(workers=2, **quick_leases)
    closed = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    opened = make_tenant("Globex", plan="scale", included=10**6, burst_per_second=10**6)
    Allowance.objects.filter(tenant=opened.tenant).update(on_outage=OnOutage.OPEN, changed_at=timezone.now())
    with (
        Load(product.address, SESSION, [closed.api_key], clients=2, pause_seconds=0.005) as of_closed,
        Load(product.address, SESSION, [opened.api_key], clients=2, pause_seconds=0.005) as of_opened,
    ):
        for _ in range(4 if is_long else 1):
            rest(0.5)
            connections.close_all()
            with fault(breakable):
                counts = of_opened.statuses[200], of_closed.statuses[503]
                wait_until(lambda: of_opened.statuses[200] > counts[0] + 50, what="open service")  # noqa: B023
                wait_until(lambda: of_closed.statuses[503] > counts[1] + 5, what="503 of the closed one")  # noqa: B023
                refused = get(product.address, SESSION, closed.api_key)
                assert refused.json["type"].rpartition("/")[2] in {"limit-unavailable", "unavailable"}
                assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            served = of_closed.statuses[200]
            wait_until(lambda: of_closed.statuses[200] > served + 50, seconds=20, what="service afterwards")  # noqa: B023
    stop(product)
    for tenant, load in ((closed, of_closed), (opened, of_opened)):
        kept = settles(tenant.tenant.id)
        assert recorded(tenant.tenant.id) == load.ids()
        assert kept.used == load.statuses[200]
        assert set(load.statuses) <= {200, 503}
        assert load.lost == 0
    assert list(Path(quick_leases["METERING_SPOOL_DIR"]).rglob("*.spool")) == []


def test_calls_on_disk_survive_the_process_that_recorded_them(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    settles: Settles,
    quick_leases: dict[str, str],
    settings: Settings,
) -> None:
    """PostgreSQL goes, calls are answered and wait on disk, then the process is killed: another one counts them."""
    product = start_product(workers=1, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    Allowance.objects.filter(tenant=acme.tenant).update(on_outage=OnOutage.OPEN, changed_at=timezone.now())
    spool = Path(quick_leases["METERING_SPOOL_DIR"])
    with Load(product.address, SESSION, [acme.api_key], clients=2, pause_seconds=0.005) as load:
        wait_until(lambda: load.statuses[200] > 50, what="calls before")
        connections.close_all()
        with breakable.down(breakable.postgres, signal.SIGQUIT):
            before = load.statuses[200]
            wait_until(lambda: load.statuses[200] > before + 60, what="service during the outage")
            load.stop()
            rest(0.5)  # ten flush intervals: everything that was answered is on disk
            assert list(spool.rglob("*.spool"))
            for pid in [*children(product.pid), product.pid]:
                os.kill(pid, signal.SIGKILL)
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(spool)}
    other = engine.Engine()

    def is_adopted() -> bool:
        other.adopt()
        return not list(spool.rglob("*.spool"))

    wait_until(is_adopted, what="the adoption")
    other.database.close()
    assert recorded(acme.tenant.id) == load.ids()
    assert settles(acme.tenant.id).used == load.statuses[200]


CutOff = Callable[..., AbstractContextManager[CuttingProxy]]


@pytest.fixture
def cut_off(breakable: Breakable, settings: Settings, tmp_path: Path) -> CutOff:
    """`with cut_off(what=...)`: this process reaches PostgreSQL through a proxy that cuts where such messages pass."""
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(tmp_path / "spool")}

    @contextmanager
    def through_proxy(*, what: bytes, before: float, after: float, at_least: int = 1) -> Iterator[CuttingProxy]:
        proxy = CuttingProxy(
            breakable.postgres_address, what=what, before=before, after=after, at_least=at_least, seed=5
        )
        default = connections["default"]
        default.close()
        default.settings_dict["PORT"] = proxy.port
        try:
            yield proxy
        finally:
            proxy.is_cutting = False
            engine.stop()
            default.close()
            default.settings_dict["PORT"] = breakable.postgres_address[1]
            proxy.close()

    return through_proxy


@pytest.mark.parametrize("recording", [Recording.BUFFERED, Recording.DURABLE])
def test_a_connection_cut_during_a_commit_neither_doubles_nor_loses_a_call(
    cut_off: CutOff, make_tenant: MakeTenant, is_long: bool, recording: Recording
) -> None:
    """The ambiguous commit: it may have happened or not, and the batch is sent again under the same id."""
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    Allowance.objects.filter(tenant=acme.tenant).update(recording=recording)
    caller, answered = caller_of(acme.api_key), set()
    with cut_off(what=b"billable", before=0.25, after=0.35, at_least=2) as proxy:
        proxy.is_cutting = True
        for _ in range(150 if is_long else 20):
            for _ in range(5):
                try:
                    call = calls.open_call(caller=caller, capability="storage")
                except calls.LimitUnavailable:  # the engine rests for a quarter of a second after an outage
                    rest(0.05)
                    continue
                calls.close_call(call, status=200, latency_us=1)
                answered.add(call.id)
            engine.engine().flush()
    assert proxy.cuts["before"] >= 2
    assert proxy.cuts["after"] >= 2
    kept = sound(acme.tenant.id)
    assert recorded(acme.tenant.id) == answered
    assert (kept.used, kept.reserved) == (len(answered), 0)


@pytest.mark.parametrize(("what", "chance"), [(b"billable", 0.3), (ANY, 0.04)], ids=["flushes", "anything"])
def test_the_limit_is_exact_while_connections_are_cut(
    cut_off: CutOff, make_tenant: MakeTenant, is_long: bool, what: bytes, chance: float
) -> None:
    """Also grants whose answer never came: their units come back, and are not admitted twice."""
    limit = 1000 if is_long else 100
    acme = make_tenant(included=limit, burst_per_second=10**6)
    caller, admitted = caller_of(acme.api_key), set()

    def is_exhausted() -> bool:
        for _ in range(5):
            try:
                call = calls.open_call(caller=caller, capability="storage")
            except calls.LimitUnavailable:
                return False
            calls.close_call(call, status=200, latency_us=1)
            if call.problem is not None:
                return call.problem.retry_after_seconds != 1
            admitted.add(call.id)
        engine.engine().flush()
        return False

    with cut_off(what=what, before=chance, after=chance) as proxy:
        proxy.is_cutting = True
        wait_until(is_exhausted, seconds=300, what="the limit")
    assert proxy.cuts["before"] >= 1
    assert proxy.cuts["after"] >= 1
    kept = sound(acme.tenant.id)
    assert recorded(acme.tenant.id) == admitted
    assert (len(admitted), kept.used, kept.reserved) == (limit, limit, 0)
