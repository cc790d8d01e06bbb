"""Valkey that is killed, emptied, frozen, read-only or out of memory: calls go on, quotas stay exact, nothing is billed wrongly."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from tests.conftest import MakeTenant, Product, wait_until
from tests.faults.conftest import Breakable, recorded, rest
from tests.faults.load import Load
from tests.metering.ledger import Books

StartProduct = Callable[..., Product]
SESSION = "/sandbox/v1/auth/session"


@contextmanager
def killed(servers: Breakable) -> Iterator[None]:
    servers.send(servers.valkey, signal.SIGKILL)
    yield
    servers.bring_back(servers.valkey)


@contextmanager
def frozen(servers: Breakable) -> Iterator[None]:
    servers.send(servers.valkey, signal.SIGSTOP)
    yield
    servers.send(servers.valkey, signal.SIGCONT)


@contextmanager
def emptied(servers: Breakable) -> Iterator[None]:
    client(servers).flushall()
    yield


@contextmanager
def read_only(servers: Breakable) -> Iterator[None]:
    client(servers).execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    client(servers).execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def out_of_memory(servers: Breakable) -> Iterator[None]:
    client(servers).config_set("maxmemory-policy", "noeviction")
    client(servers).config_set("maxmemory", "1")
    yield
    client(servers).config_set("maxmemory", "0")


def client(servers: Breakable) -> Any:
    return redis.Redis.from_url(servers.stack.urls.redis_url)


@pytest.mark.parametrize("fault", [killed, frozen, emptied, read_only, out_of_memory], ids=lambda fault: fault.__name__)
def test_calls_go_on_and_the_quota_stays_exact(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    settles: Callable[..., Books],
    quick_leases: dict[str, str],
    fault: Callable[[Breakable], Iterator[None]],
) -> None:
    product = start_product(workers=2, **quick_leases)
    limit = 600
    globex = make_tenant("Globex", included=limit, burst_per_second=5000)
    with Load(product.address, SESSION, [globex.api_key], clients=4) as load:
        wait_until(lambda: load.statuses[200] > 100, what="calls before")
        with fault(breakable):  # type: ignore[attr-defined]
            before = load.statuses.total()
            wait_until(lambda: load.statuses.total() > before + 200, what="calls meanwhile")
        wait_until(lambda: load.statuses[429] > 50, seconds=30, what="the limit")
        rest(0.2)
    os.kill(product.pid, signal.SIGTERM)
    kept = settles(globex.tenant.id)
    assert set(load.statuses) == {200, 429}
    assert load.statuses[200] == kept.used == limit
    assert recorded(globex.tenant.id) == load.ids()
