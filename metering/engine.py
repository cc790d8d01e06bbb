"""The engine of one process: its clock, registration, leases and recorder, and the thread that flushes them.

It starts with the first metered call (after a fork, never before), and `stop` leaves nothing behind: records flushed,
leases returned, registration removed. A forked child begins with an engine of its own.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from django.conf import settings

from .backlog import Backlog
from .clock import DatabaseClock
from .database import Connection, Connects, Database, Unreachable
from .holdings import Holding, Ticket
from .leases import Leases
from .ledger import commit, set_aside
from .process import BURY, CHANGED, Registration
from .recorder import Batch, Buffer, Entry, Settled

logger = logging.getLogger(__name__)
RENEW_SECONDS = 1.0
TIDY_SECONDS = 30.0
AWAY = psycopg.OperationalError, psycopg.InterfaceError  # not the records' fault: Unreachable, and they are sent again


class Engine:
    """`inline`: without a thread of its own; each record is flushed before `record` returns (for tests, see `testing.py`)."""

    def __init__(
        self, *, clock: DatabaseClock | None = None, database: Connects | None = None, inline: bool = False
    ) -> None:
        self.clock = clock or DatabaseClock()
        self.database: Connects = database or Database()
        self.registration = Registration(self.clock)
        self.leases = Leases(database=self.database, clock=self.clock, process=self.registration)
        self.registration.on_lapse = self.leases.release_all
        self.buffer = Buffer(flush_calls=settings.METERING["FLUSH_CALLS"], limit=settings.METERING["BUFFER_CALLS"])
        self.backlog = Backlog()
        self._inline = inline
        self._flush_lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._stopping = threading.Event()
        self._renewed_at = self._tidied_at = float("-inf")
        self._failing_since: float | None = None
        self._failure: type[Exception] | None = None

    # -- what requests use ---------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether PostgreSQL has been away for so long that nothing more may be admitted."""
        return self.buffer.is_full or self.backlog.is_full

    def admit(self, tenant_id: UUID, *, project_id: int = 0, key_id: int = 0, cost: int = 1) -> Ticket:
        """`cost` units of the tenant's limits are taken; raises holdings.Refused, NoAllowance or LimitUnknown."""
        self._run()
        return self.leases.admit(tenant_id, project_id=project_id, key_id=key_id, cost=cost)

    def give_back(self, ticket: Ticket) -> None:
        if not self.leases.give_back(ticket):
            self.buffer.wake.set()  # somebody may be refused for want of these units

    def holding(self, tenant_id: UUID) -> Holding:
        return self.leases.holding(tenant_id)

    def record(self, entry: Entry) -> None:
        """The call will be in the ledger with the next flush."""
        self.buffer.append(entry)
        if self._inline:
            self.flush()

    def record_durably(self, entry: Entry) -> None:
        """The call is in the ledger; while PostgreSQL is away, on disk in the spool, and in the ledger as soon as it is back."""
        batch, is_sent = Batch((entry,), {}), False
        try:
            is_sent = self._send(batch)
        finally:
            if not is_sent:
                with self._flush_lock:
                    self.backlog.keep(batch)

    # -- flushing ------------------------------------------------------------------------------------------------------

    def flush(self, *, everything: bool = False) -> bool:
        """What was recorded until now is committed, unused units are returned; False while that cannot be done.

        With `everything` all leases go back, not only idle ones. What cannot be committed, whatever the reason, waits in the
        backlog: on disk, in batches whose ids make it harmless to send one twice.
        """
        with self._flush_lock:
            is_back = self.backlog.drain(self._send)
            returns = self.leases.take_returns(everything=everything, is_reachable=is_back)
            entries = self.buffer.take()
            if not entries and not returns:
                return is_back
            batch, is_sent = Batch(entries, returns), False
            try:
                is_sent = is_back and self._send(batch)
            finally:  # also when this thread is told to end in the middle of it
                if not is_sent:
                    self.backlog.keep(batch)
            return is_sent

    def adopt(self) -> None:
        """Calls that processes of this machine left on disk when they ended are in the ledger."""
        self.backlog.adopt(self._send_foreign)

    def _send(self, batch: Batch) -> bool:
        """The batch is in the ledger, what it cannot take set aside; False when it must be sent again."""
        settled = self._commit(batch)
        if settled is None:
            return False
        for quota in settled:
            self.leases.settle(
                quota.tenant_id,
                period_start=quota.period_start,
                used=quota.used,
                recorded=quota.recorded,
                held=quota.held,
            )
        return True

    def _send_foreign(self, batch: Batch) -> bool:
        """As `_send`, for calls that another process admitted."""
        return self._commit(batch) is not None

    def _commit(self, batch: Batch) -> list[Settled] | None:
        try:
            with self.database.connection() as connection:
                try:
                    settled = commit(connection, batch)
                except AWAY:
                    raise
                except psycopg.Error:
                    settled = []
                    self._send_apart(connection, batch)
        except Exception as error:  # noqa: BLE001 -- PostgreSQL is away, or nobody thought of it: it may be in the ledger or not
            self._note_failure(error)
            return None
        self._note_success()
        return settled

    def _send_apart(self, connection: Connection, batch: Batch) -> None:
        """One bad record stops nobody: each tenant's records commit alone, and what cannot is halved until it is found."""
        for part in batch.by_tenant():
            self._send_part(connection, part)

    def _send_part(self, connection: Connection, part: Batch) -> None:
        try:
            commit(connection, part)
        except AWAY:
            raise
        except psycopg.Error as error:
            if len(part.entries) < 2:  # noqa: PLR2004 -- nothing to halve
                set_aside(connection, part, error)
                return
            for half in part.halves():
                self._send_part(connection, half)

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        if type(error) is not self._failure:
            self._failure = type(error)
            logger.warning(
                "Flush failed, records are kept and sent again: %s", str(error).strip() or type(error).__name__,
                exc_info=None if isinstance(error, Unreachable) else error,
            )  # fmt: skip

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.warning("Flushing again after %.1f s.", time.monotonic() - self._failing_since)
            self._failing_since = self._failure = None

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._is_running:
            return
        with self._start_lock:
            if self._is_running:
                return
            self._stopping.clear()
            self._tend()
            if not self._inline:
                self._thread = threading.Thread(target=self._loop, name="metering-flush", daemon=True)
                self._thread.start()
            self._is_running = True

    def _loop(self) -> None:
        interval = settings.METERING["FLUSH_SECONDS"]
        self._outlive(self._warm_up)
        due = time.monotonic()
        while not self._stopping.is_set():
            self.buffer.wake.wait(max(0.0, due - time.monotonic()))
            self.buffer.wake.clear()
            due = time.monotonic() + interval  # from begin to begin: a slow flush does not add to what a kill may lose
            self._outlive(self._work)

    def _work(self) -> None:
        if not self.flush():
            self._stopping.wait(settings.METERING["FLUSH_SECONDS"])
        self._tend()

    def _outlive(self, act: Callable[[], None]) -> None:
        """Done, or its error is logged: without the thread nothing is counted."""
        try:
            act()
        except Exception:
            logger.exception("The flush thread met an error and goes on.")
            self._stopping.wait(RENEW_SECONDS)

    def _warm_up(self) -> None:
        """The first flush of a connection plans its statements, ten times as long as later ones: better one of nothing."""
        self._send(Batch((), {}))

    def _tend(self) -> None:
        """Renew the registration every second; tidy up now and then."""
        now = time.monotonic()
        if now - self._renewed_at < RENEW_SECONDS:
            return
        try:
            with self.database.connection() as connection:
                self.registration.renew(connection, counted_to=self.counted_to())
                self._renewed_at = now
                self.leases.release(tenant_id for (tenant_id,) in connection.execute(CHANGED).fetchall())
                is_time = now - self._tidied_at > TIDY_SECONDS
                if is_time:
                    self._tidied_at = now
                    connection.execute(BURY)
            if is_time or self.leases.tenants_known > settings.METERING["TENANTS_KEPT"]:
                self.leases.forget_idle()
            if is_time and not self._inline:  # a test's transaction must not swallow calls of real processes
                self.adopt()
        except Unreachable:
            self._renewed_at = now - RENEW_SECONDS * 0.75  # again in a quarter of a second

    def counted_to(self) -> float | None:
        """Database time up to which every answered call of this process is in the ledger; None before the first call."""
        if not self.clock.is_set:
            return None
        now = self.clock.now()
        waiting = [at for at in (self.backlog.oldest, self.buffer.oldest()) if at is not None]
        return min([now, *waiting])

    def stop(self) -> None:
        """Everything is flushed and returned, the thread has ended. Starts again with the next call."""
        with self._start_lock:
            if not self._is_running:
                self.database.close()  # what was asked without a call, as for events, left connections, too
                return
            self._is_running = False
            thread, self._thread = self._thread, None
        self._stopping.set()
        self.buffer.wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)
        self._last_flush()
        self._renewed_at = float("-inf")  # a start right after this stop must register again
        self.backlog.close()
        self.database.close()

    def _last_flush(self) -> None:
        deadline = time.monotonic() + settings.METERING["STATEMENT_TIMEOUT_MS"] / 1000
        while not self.flush(everything=True):
            if time.monotonic() > deadline:
                return  # the backlog says what waits, and where
            time.sleep(0.1)
        try:
            with self.database.connection() as connection:
                self.registration.resign(connection)
        except Unreachable:
            logger.warning("The registration of this process stays until it expires.")


_engine: Engine | None = None
_engine_lock = threading.Lock()


def engine() -> Engine:
    """The engine of this process."""
    global _engine  # noqa: PLW0603 -- one for each process, made after the fork
    if _engine is None:
        with _engine_lock:
            if _engine is None:
                _engine = Engine()
    return _engine


@contextmanager
def replaced(by: Engine) -> Iterator[Engine]:
    """Inside, `engine()` is this engine; it is not stopped afterwards."""
    global _engine  # noqa: PLW0603
    before, _engine = _engine, by
    try:
        yield by
    finally:
        _engine = before


def stop() -> None:
    """What this process counted is in the database and its leases are returned; harmless when there is no engine."""
    if _engine is not None:
        _engine.stop()


def wake() -> None:
    """The flush thread flushes now. Safe in a signal handler: it only sets an event."""
    if _engine is not None:
        _engine.buffer.wake.set()


def _forget() -> None:
    """A forked child shares no connection, thread, lease or file with its parent."""
    global _engine, _engine_lock
    if _engine is not None:
        _engine.backlog.abandon()
    _engine, _engine_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
atexit.register(stop)
