"""Valkey that is killed, emptied, frozen, read-only or out of memory: calls go on, quotas stay exact, nothing is billed wrongly."""

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import redis
from pytest_django import Settings

from metering.burst import Burst
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


FAULTS = [killed, frozen, emptied, read_only, out_of_memory]


def test_whatever_happens_to_valkey_calls_go_on_and_quotas_stay_exact(
    breakable: Breakable,
    start_product: StartProduct,
    make_tenant: MakeTenant,
    quick_leases: dict[str, str],
    settings: Settings,
    subtests: pytest.Subtests,
    is_long: bool,
) -> None:
    """Burst limits are open meanwhile, where it does not answer as it should."""
    settings.REDIS_URL = breakable.stack.urls.redis_url
    product = start_product(workers=2, **quick_leases)
    limit = 10_000 if is_long else 400
    answered = []
    for fault in FAULTS:
        globex = make_tenant("Globex", included=limit, burst_per_second=5000)
        with subtests.test(fault.__name__), Load(product.address, SESSION, [globex.api_key], clients=4) as load:
            answered.append((globex.tenant.id, load))
            wait_until(lambda: load.statuses[200] > limit // 8, what="calls before")
            with fault(breakable):
                assert is_open() == (fault is not emptied)
                before = load.statuses.total()
                wait_until(lambda: load.statuses.total() > before + limit // 4, seconds=120, what="calls meanwhile")  # noqa: B023
            wait_until(lambda: load.is_exhausted, seconds=120, what="the limit")
    stop(product)
    for tenant_id, load in answered:
        kept = sound(tenant_id)
        assert set(load.statuses) == {200, 429}
        assert (load.statuses[200], kept.used, kept.reserved, load.lost) == (limit, limit, 0, 0)
        assert recorded(tenant_id) == load.ids()


def is_open() -> bool:
    """Whether a burst limit lets calls pass unguarded."""
    burst = Burst()
    assert burst.wait_seconds(name="probe", per_second=10) == 0
    return burst.unguarded > 0
