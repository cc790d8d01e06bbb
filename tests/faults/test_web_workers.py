"""Web workers that are killed, reloaded and stopped under load, and callers who mean harm."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import connection

from tests.clients import get
from tests.conftest import MakeTenant, Product, wait_until
from tests.faults.conftest import children, recorded, rest, sound, stop
from tests.faults.load import Load
from tests.metering.ledger import Books

StartProduct = Callable[..., Product]
Settles = Callable[..., Books]
SESSION = "/sandbox/v1/auth/session"


def test_killed_workers_never_over_count_and_leak_nothing(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, quick_leases: dict[str, str], is_long: bool
) -> None:
    """SIGKILL: what is in the ledger was admitted; what is missing was answered after the killed process's last flush."""
    product = start_product(workers=2, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    kills, chance = (50 if is_long else 3), random.Random(7)
    killed: set[int] = set()
    with Load(product.address, SESSION, [acme.api_key], clients=6) as load:
        while len(killed) < kills:
            rest(0.3 + chance.random() / 2)
            with suppress(ProcessLookupError, IndexError):
                victim = chance.choice(children(product.pid))
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
        rest(0.5)
    stop(product)
    kept = settles(acme.tenant.id)
    logged, missing = recorded(acme.tenant.id), load.ids() - recorded(acme.tenant.id)
    print(f"{kills} kills: {len(load.ids()):,} answered, {len(missing)} missing, {load.lost} cut off")  # noqa: T201
    assert load.statuses.keys() == {200}
    assert 0 < load.lost <= kills * load.clients
    assert len(logged - load.ids()) <= load.lost  # recorded and not answered: only calls that the kill cut off
    for answered in load.by_connection():
        losses = [call_id in missing for call_id in answered]
        assert losses == sorted(losses)  # only the last calls that the process answered
    flush = 0.05 + 0.25  # a flush interval, and what busy cores may add to it
    rate = len(load.answers) / (load.answers[-1].at - load.answers[0].at)
    assert len(missing) <= kills * flush * rate
    assert kept.used == len(logged)


def test_a_killed_worker_never_lets_a_limit_be_passed(
    start_product: StartProduct, make_tenant: MakeTenant, settles: Settles, quick_leases: dict[str, str]
) -> None:
    """Only its unflushed calls are admitted again: the ledger does not pass the limit, and all of it can be used."""
    product = start_product(workers=2, **quick_leases)
    globex = make_tenant("Globex", included=700, burst_per_second=10**6)
    with Load(product.address, SESSION, [globex.api_key], clients=6) as load:
        wait_until(lambda: load.statuses[200] > 200)
        os.kill(children(product.pid)[0], signal.SIGKILL)
        wait_until(lambda: load.is_exhausted, seconds=30, what="the limit")
    stop(product)
    kept = settles(globex.tenant.id)
    missing = load.ids() - recorded(globex.tenant.id)
    unheard = recorded(globex.tenant.id) - load.ids()
    assert kept.used == 700
    assert load.statuses[200] == 700 + len(missing) - len(unheard)
    assert len(unheard) <= load.lost


@pytest.mark.parametrize("worker_class", ["gthread", pytest.param("sync", marks=pytest.mark.long)])
def test_reloads_and_a_stop_under_load_lose_no_call_and_fail_no_request(
    start_product: StartProduct,
    make_tenant: MakeTenant,
    quick_leases: dict[str, str],
    is_long: bool,
    worker_class: str,
) -> None:
    """HUP: new workers take over, old ones answer what they have begun, flush and return their leases. TERM: so does the last."""
    product = start_product(workers=2, WEB_WORKER_CLASS=worker_class, **quick_leases)
    acme = make_tenant(plan="scale", included=10**6, burst_per_second=10**6)
    with (
        Load(product.address, SESSION, [acme.api_key], clients=2, pause_seconds=0.002) as kept_alive,
        Load(product.address, SESSION, [acme.api_key], clients=2, pause_seconds=0.002, keeps_alive=False) as single,
    ):
        for _ in range(10 if is_long else 2):
            before = set(children(product.pid))
            rest(0.4)
            os.kill(product.pid, signal.SIGHUP)
            wait_until(lambda: not before & set(children(product.pid)), seconds=40, what="new workers")  # noqa: B023
        rest(0.3)
        assert (kept_alive.lost, single.lost, kept_alive.unheard, single.unheard) == (0, 0, 0, 0)
        stop(product)
    assert (kept_alive.statuses + single.statuses).keys() == {200}
    kept = sound(acme.tenant.id)
    assert kept.reserved == 0
    assert recorded(acme.tenant.id) == kept_alive.ids() | single.ids()


def test_a_blocked_tenant_that_hammers_costs_no_sql_a_call_and_slows_nobody(
    start_product: StartProduct, make_tenant: MakeTenant, quick_leases: dict[str, str], is_long: bool
) -> None:
    workers = 2
    product = start_product(workers=workers, **quick_leases)
    globex, acme = make_tenant("Globex", included=5, burst_per_second=10**6), make_tenant(plan="scale")
    before, started = transactions(), time.monotonic()
    with (
        Load(product.address, SESSION, [globex.api_key], clients=6) as flood,
        Load(product.address, SESSION, [acme.api_key], clients=1, pause_seconds=0.01) as other,
    ):
        wait_until(lambda: flood.statuses[429] > (20_000 if is_long else 2000), seconds=120, what="the flood")
    stop(product)
    spent, seconds = transactions() - before, time.monotonic() - started
    assert flood.statuses.keys() == {200, 429}
    assert flood.statuses[200] == 5
    assert other.statuses.keys() == {200}
    print(f"{flood.statuses[429]:,} refused in {seconds:.1f} s, {spent} transactions")  # noqa: T201
    # What a process asks in a second, however many calls it refuses: flushes, grants, renewals, keys and whether they still hold.
    assert spent < 60 * workers * seconds + 100
    kept = sound(globex.tenant.id)
    assert (kept.used, kept.quota_refused) == (5, flood.statuses[429])


def transactions() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")
        cursor.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


def test_64_clients_that_race_for_the_last_calls_get_exactly_those(
    start_product: StartProduct, make_tenant: MakeTenant, quick_leases: dict[str, str]
) -> None:
    """Also while half of the calls fail and give their unit back."""
    product = start_product(workers=2, **quick_leases)
    globex = make_tenant("Globex", included=40, burst_per_second=10**6)
    with (
        Load(product.address, SESSION, [globex.api_key], clients=32) as served,
        Load(product.address, "/sandbox/v1/storage/status/500", [globex.api_key], clients=32) as failing,
    ):
        wait_until(lambda: served.is_exhausted, seconds=30, what="the limit")
    stop(product)
    kept = sound(globex.tenant.id)
    assert (served.statuses[200], kept.used, kept.reserved) == (40, 40, 0)
    assert kept.quota_failed == failing.statuses[500]
    assert recorded(globex.tenant.id) == served.ids()


RECORD, OBJECT = b"PUT /sandbox/v1/database/records/a", b"PUT /sandbox/v1/storage/objects/a"
HOSTILE = [  # request line, further header lines, body
    (b"GET /sandbox/v1/auth/session?q=%00", b"", b""),
    (b"GET /sandbox/v1/auth/session?q=\xff\xfe", b"", b""),
    (b"GET /sandbox/v1/auth/session?" + b"a" * 3000, b"", b""),
    (b"GET /sandbox/v1/auth/session?" + b"a" * 100_000, b"", b""),
    (b"GET /sandbox/v1/database/records/%00", b"", b""),
    (b"GET /sandbox/v1/database/records/%ff%fe", b"", b""),
    (b"GET /sandbox/v1/database/records/\xff\x00", b"", b""),
    (b"GET /sandbox/v1/storage/objects/%0d%0aSet-Cookie:%20a=b", b"", b""),
    (b"GET /sandbox/v1/%ff/status/200", b"", b""),
    (b"GET /sandbox/v1/auth/session", b"X-Request-Id: \x00\xff\r\n", b""),
    (b"GET /sandbox/v1/auth/session", b"X-Request-Id: \xff\xfe\r\n", b""),
    (b"GET /sandbox/v1/auth/session", b"X-Forwarded-For: \xff\xfe, 10.0.0.1\r\n", b""),
    (RECORD, b"", b'{"a": "\\u0000"}'),
    (RECORD, b"", b'{"a": "\xff"}'),
    (RECORD, b"", b'{"\\ud800": "\\udfff"}'),
    (RECORD, b"", b"\x00"),
    (RECORD, b"", b"1e999"),
    (RECORD, b"", b"[" * 20_000),
    (OBJECT, b"Content-Type: \xff/\xfe\r\n", b"\x00\xff"),
    (b"PUT /sandbox/v1/storage/objects/%00", b"", b"a"),
]  # fmt: skip
HOSTILE_KEYS = [
    b"mh_live_\x00",
    b"mh_live_\xff\xfe_\xff",
    b"\xff" * 5000,
    b"mh_live_" + b"a" * 7000,
    b"mh_live_%00_%ff",
]


def test_hostile_requests_are_refused_or_counted_like_others(
    start_product: StartProduct, make_tenant: MakeTenant, quick_leases: dict[str, str]
) -> None:
    """NUL, bad UTF-8, deep JSON, huge numbers, long lines: below 500, the books stay right, the next caller is served."""
    product = start_product(workers=1, **quick_leases)
    acme = make_tenant(included=1000, burst_per_second=10**6)
    key, billed = acme.api_key.encode(), 0
    for line, more, body in HOSTILE:
        status, is_metered = sent(product, line, more + b"Authorization: Bearer " + key, body)
        assert 200 <= status < 500, (line, more, body)
        billed += is_metered and status not in {401, 403, 429}
    for hostile in HOSTILE_KEYS:
        status, is_metered = sent(product, b"GET " + SESSION.encode(), b"Authorization: Bearer " + hostile, b"")
        assert (status in {400, 401, 431}, is_metered) == (True, False), hostile
    assert get(product.address, SESSION, acme.api_key).status == 200
    stop(product)
    kept = sound(acme.tenant.id)
    assert (kept.used, kept.quota_failed, kept.reserved) == (billed + 1, 0, 0)
    assert "Traceback" not in product.log.read_text()


def sent(product: Product, line: bytes, headers: bytes, body: bytes) -> tuple[int, bool]:
    """The status of the answer to these very bytes, and whether the call was metered."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    with socket.create_connection(product.address, timeout=20) as caller:
        with suppress(OSError):  # refused before it was read to the end
            caller.sendall(
                line + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" + length + headers + b"\r\n\r\n"
            )
            caller.sendall(body)
        with suppress(ConnectionResetError), caller.makefile("rb") as answer:
            head = answer.read().partition(b"\r\n\r\n")[0]
    return int(head.split(b" ", 2)[1]), b"meterhouse-call-id:" in head.lower()
