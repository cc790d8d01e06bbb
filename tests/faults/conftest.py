"""Faults with real processes. Short by default; `--long` makes the loads longer."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from django.core.management import call_command
from django.db import connection, connections
from pytest_django import Settings

from config.stack import Stack
from metering import engine, invariants, tasks
from metering.models import Call
from tenants.keys import cache
from tests.conftest import Product, wait_until
from tests.metering.ledger import Books, books

LEASE_SECONDS = "3"


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


@pytest.fixture
def quick_leases(tmp_path: Path) -> dict[str, str]:
    """Environment of a product whose dead processes' units come back soon, with a spool folder of its own."""
    return {"METERING_LEASE_SECONDS": LEASE_SECONDS, "METERING_SPOOL_DIR": str(tmp_path / "spool")}


class Breakable:
    """A PostgreSQL and a Valkey of one test's own, which may be killed, frozen and started again."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.is_migrated = False
        self.postgres, self.valkey = (each.server for each in stack._servers)

    @property
    def postgres_address(self) -> tuple[str, int]:
        parts = urlsplit(self.stack.urls.database_url)
        return parts.hostname or "", parts.port or 0

    @contextmanager
    def down(self, server: Any, number: signal.Signals) -> Iterator[None]:
        """In the block the server is ended by the signal; afterwards it runs again on its port, with its data."""
        os.kill(server.pid, number)
        try:
            yield
        finally:
            wait_until(lambda: server.exit_code() is not None, what="the server's end")
            for now in (0.0, 1.0):
                self.stack.revive(after_seconds=0, now=now)
            wait_until(lambda: server.exit_code() is None, what="the server's return")

    @contextmanager
    def frozen(self, server: Any) -> Iterator[None]:
        """In the block the server takes connections and questions, and answers nothing."""
        os.kill(server.pid, signal.SIGSTOP)  # first: from now on it starts no child that would not be frozen
        stopped = [server.pid]
        try:
            stopped += [pid for pid in children(server.pid) if is_signalled(pid, signal.SIGSTOP)]
            yield
        finally:
            for pid in stopped:
                is_signalled(pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def _servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Breakable]:
    """Shared by the tests, each of which mends what it broke."""
    folder = tmp_path_factory.mktemp("breakable")
    environ = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    with Stack(folder, durable=True, environ=environ, say=lambda _: None) as stack:
        yield Breakable(stack)


@pytest.fixture
def breakable(committed: None, _servers: Breakable, monkeypatch: pytest.MonkeyPatch) -> Iterator[Breakable]:
    """Django, and every product that the test starts, works on servers that the test may break."""
    engine.stop()
    connections.close_all()
    settings = connections["default"].settings_dict
    before = {name: settings[name] for name in ("HOST", "PORT", "USER", "PASSWORD", "NAME")}
    parts = urlsplit(_servers.stack.urls.database_url)
    settings.update(
        HOST=parts.hostname, PORT=parts.port, USER=parts.username, PASSWORD=unquote(parts.password or ""),
        NAME=parts.path.lstrip("/"),
    )  # fmt: skip
    monkeypatch.setenv("DATABASE_URL", _servers.stack.urls.database_url)
    monkeypatch.setenv("REDIS_URL", _servers.stack.urls.redis_url)
    cache.clear()
    if not _servers.is_migrated:
        call_command("migrate", verbosity=0)
        _servers.is_migrated = True
    yield _servers
    engine.stop()
    connections.close_all()
    settings.update(before)
    cache.clear()


@pytest.fixture
def settles(settings: Settings) -> Callable[..., Books]:
    """Wait until what killed processes held of a tenant has come back, and return its books, which are sound."""

    def settle(tenant_id: Any, *, seconds: float = 40) -> Books:
        settings.METERING = {**settings.METERING, "LEASE_SECONDS": float(LEASE_SECONDS)}

        def is_returned() -> bool:
            tasks.reclaim_dead()  # as each minute in production
            return books(tenant_id).reserved == 0

        wait_until(is_returned, seconds=seconds, what="the return of the leases")
        return sound(tenant_id)

    return settle


def sound(tenant_id: Any) -> Books:
    """A tenant's books at rest: balanced, every invariant holds, and nothing waits outside the ledger."""
    kept = books(tenant_id)
    kept.assert_balanced()
    assert invariants.broken(tenant_id=tenant_id) == {}
    assert invariants.nothing_is_set_aside(tenant_id=tenant_id) == []
    return kept


def stop(product: Product) -> None:
    """The product has ended by SIGTERM: what it counted is in the ledger, what it held is returned."""
    os.kill(product.pid, signal.SIGTERM)
    # Seen and not taken: the fixture that started it waits for it, too.
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    wait_until(lambda: os.waitid(os.P_PID, product.pid, ended), seconds=40, what="the product's end")


def recorded(tenant_id: Any, outcome: str = "billable") -> set[str]:
    """Ids of the tenant's calls in the call log."""
    ids = Call.objects.filter(tenant_id=tenant_id, outcome=outcome).values_list("id", flat=True)
    return {str(call_id) for call_id in ids}


def terminate_engines() -> int:
    """PostgreSQL ends every connection of the engines; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'meterhouse-engine' AND datname = current_database()"
        )
        return int(cursor.fetchone()[0])


def is_signalled(pid: int, number: signal.Signals) -> bool:
    """Whether the process was there to be signalled: a child may end, and its parent see that, at any moment."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def children(pid: int) -> list[int]:
    """The direct children of a process: gunicorn's workers."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rest(seconds: float) -> None:
    """The load goes on for so long: the one thing that a fault under load needs time for."""
    threading.Event().wait(seconds)
