"""The engine's own connections: autocommit, short timeouts, never the request's transaction."""

import logging
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings
from django.db import connections
from psycopg_pool import ConnectionPool, PoolTimeout

logger = logging.getLogger(__name__)
Connection = psycopg.Connection[tuple[Any, ...]]
RETRY_SECONDS = 0.25
UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)


class Unreachable(Exception):
    """PostgreSQL did not answer. What was sent may or may not have happened."""


def conninfo() -> str:
    """Where Django's default database is, for psycopg (in a test run: the test database)."""
    config = connections["default"].settings_dict
    names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password", "NAME": "dbname"}
    values = {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs)}
    timeout = settings.METERING["STATEMENT_TIMEOUT_MS"]
    return psycopg.conninfo.make_conninfo(
        **values,
        connect_timeout=3,
        application_name="meterhouse-engine",
        options=f"-c timezone=UTC -c statement_timeout={timeout} -c lock_timeout={timeout}",
    )


def _discard_dead(connection: Connection) -> None:
    """Pool hook: a connection that the server has closed is readable; only then is a round trip spent to make sure."""
    if select.select([connection], [], [], 0)[0]:
        ConnectionPool.check_connection(connection)


class Database:
    """A small pool that fails fast while PostgreSQL is away: one caller in a quarter of a second tries, the rest are told."""

    def __init__(self) -> None:
        self._pool: ConnectionPool[Connection] | None = None
        self._lock = threading.Lock()
        self._down_until = 0.0

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit mode; raises Unreachable."""
        if time.monotonic() < self._down_until:
            raise Unreachable("PostgreSQL was unreachable a moment ago.")
        try:
            with self._opened().connection(timeout=1.0) as connection:
                yield connection
        except UNREACHABLE as error:
            self._down_until = time.monotonic() + RETRY_SECONDS
            raise Unreachable(str(error)) from error

    def _opened(self) -> ConnectionPool[Connection]:
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    conninfo(),
                    min_size=0,
                    max_size=settings.METERING["POOL_SIZE"],
                    reconnect_timeout=1.0,
                    max_idle=60.0,
                    kwargs={"autocommit": True},
                    check=_discard_dead,
                    open=True,
                    name="meterhouse-engine",
                )
            return self._pool

    def close(self) -> None:
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(timeout=2.0)
