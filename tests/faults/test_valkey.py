"""Valkey that is killed, emptied, frozen, read-only or out of memory: calls go on, quotas stay exact, nothing is billed wrongly."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import redis

from tests.conftest import MakeTenant, Product, wait_until
from tests.faults.conftest import Breakable, recorded, sound, stop
from tests.faults.load import Load

StartProduct = Callable[..., Product]
SESSION = "/sandbox/v1/auth/session"


def killed(servers: Breakable) -> AbstractContextManager[None]:
    return servers.down(servers.valkey, signal.SIGKILL)


def frozen(servers: Breakable) -> AbstractContextManager[None]:
    return servers.frozen(servers.valkey)


@contextmanager
def emptied(servers: Breakable) -> Iterator[None]:
    client(servers).flushall()
    client(servers).script_flush()
    yield


@contextmanager
def read_only(servers: Breakable) -> Iterator[None]:
    client(servers).execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        client(servers).execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def out_of_memory(servers: Breakable) -> Iterator[None]:
    client(servers).config_set("maxmemory", "1")  # its policy is `noeviction`: it refuses to write
    try:
        yield
    finally:
        client(servers).config_set("maxmemory", "0")


def client(servers: Breakable) -> Any:
    return redis.Redis.from_url(servers.stack.urls.redis_url)


@pytest.mark.parametrize("fault", [killed, frozen, emptied, read_only, out_of_memory], ids=lambda fault: fault.__name__)
def test_calls_go_on_and_the_quota_stays_exact(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    quick_leases: dict[str, str],
    fault: Callable[[Breakable], AbstractContextManager[None]],
    is_long: bool,
) -> None:
    product = start_product(workers=2, **quick_leases)
    limit = 20_000 if is_long else 600
    globex = make_tenant("Globex", included=limit, burst_per_second=5000)
    with Load(product.address, SESSION, [globex.api_key], clients=4) as load:
        wait_until(lambda: load.statuses[200] > 100, what="calls before")
        with fault(breakable):
            before = load.statuses.total()
            wait_until(lambda: load.statuses.total() > before + limit // 3, seconds=120, what="calls meanwhile")
        wait_until(lambda: load.is_exhausted, seconds=120, what="the limit")
    stop(product)
    kept = sound(globex.tenant.id)
    assert set(load.statuses) == {200, 429}
    assert (load.statuses[200], kept.used, kept.reserved, load.lost) == (limit, limit, 0, 0)
    assert recorded(globex.tenant.id) == load.ids()
    assert ("Burst limits are open" in product.log.read_text()) == (fault is not emptied)
