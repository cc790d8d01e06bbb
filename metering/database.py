"""The engine's own connections: autocommit, short timeouts, never the request's transaction.

Not psycopg's pool: while PostgreSQL is away that one lets each caller wait for its whole timeout, and comes back on a
schedule of its own. Here a refused connection is an answer at once, and one caller in a quarter of a second tries again.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import psycopg
from django.conf import settings
from django.db import connections

from tenants.postgresql import ImpatientConnection, NoAnswer, is_dead

logger = logging.getLogger(__name__)
Connection = psycopg.Connection[tuple[Any, ...]]
RETRY_SECONDS = 0.25
SLOT_SECONDS = 2.0
PROBE_SECONDS = 5.0


class EngineConnection(ImpatientConnection):
    """A server that says nothing is unreachable, also when it is frozen."""

    patience_seconds = 2.0


class Unreachable(Exception):
    """PostgreSQL did not answer. What was sent may or may not have happened."""


def conninfo() -> str:
    """Where Django's default database is, for psycopg (in a test run: the test database)."""
    config = connections["default"].settings_dict
    names = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password", "NAME": "dbname"}
    values = {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs)}
    # The server gives up before we do: a grant carried out after we stopped waiting would hold units that nobody knows of.
    timeout = min(settings.METERING["STATEMENT_TIMEOUT_MS"], int(EngineConnection.patience_seconds * 900))
    return psycopg.conninfo.make_conninfo(
        **values,
        connect_timeout=2,
        application_name="meterhouse-engine",
        options=f"-c timezone=UTC -c statement_timeout={timeout} -c lock_timeout={timeout}",
    )


class Connects(Protocol):
    """Where the engine takes its connections from."""

    def connection(self) -> AbstractContextManager[Connection]: ...

    def close(self) -> None: ...


class Database:
    """At most POOL_SIZE connections, the last used one first. Safe for threads."""

    def __init__(self) -> None:
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(settings.METERING["POOL_SIZE"])
        self._is_down = False
        self._down_until = 0.0

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in autocommit mode; raises Unreachable, also for a statement that PostgreSQL broke off."""
        if self._is_resting():
            raise Unreachable("PostgreSQL was unreachable a moment ago.")
        if not self._slots.acquire(timeout=SLOT_SECONDS):
            self._end_try()
            raise Unreachable("All connections of this process are busy.")
        try:
            connection = self._take()
            try:
                yield connection
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if isinstance(error, NoAnswer):
                    self._note_down()
                else:
                    self._end_try()
                raise Unreachable(str(error)) from error
            except Exception:
                self._is_down = False  # PostgreSQL did answer
                raise
            else:
                self._is_down = False
            finally:
                self._put_back(connection)
        finally:
            self._slots.release()

    def _is_resting(self) -> bool:
        """Whether this caller is told at once. While PostgreSQL is away, one in RETRY_SECONDS goes on to try."""
        if not self._is_down:
            return False
        now = time.monotonic()
        with self._lock:
            if now < self._down_until:
                return True
            self._down_until = now + PROBE_SECONDS  # the others wait for the outcome of this try
            return False

    def _end_try(self) -> None:
        """A try that says neither that PostgreSQL is back nor that it is away: the next one need not wait for it any longer."""
        if self._is_down:
            self._note_down()

    def _note_down(self) -> None:
        with self._lock:
            self._is_down = True
            self._down_until = time.monotonic() + RETRY_SECONDS

    def _take(self) -> Connection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not is_dead(connection):
                return connection
            connection.close()
        try:
            return EngineConnection.connect(conninfo(), autocommit=True)
        except psycopg.OperationalError as error:
            self._note_down()
            raise Unreachable(str(error)) from error

    def _put_back(self, connection: Connection) -> None:
        if connection.closed or connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """No idle connection is left open."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
