"""The engine of one process: its clock, registration, leases and recorder, and the thread that flushes them.

It starts with the first metered call (after a fork, never before), and `stop` leaves nothing behind: records flushed,
leases returned, registration removed. A forked child begins with an engine of its own.
"""

import atexit
import logging
import os
import threading
import time
from uuid import UUID

import psycopg
from django.conf import settings

from .clock import DatabaseClock
from .database import Database, Unreachable
from .leases import Holding, Leases, Ticket
from .ledger import commit, set_aside
from .process import BURY, CHANGED, Registration
from .recorder import Batch, Buffer, Entry

logger = logging.getLogger(__name__)
RENEW_SECONDS = 1.0
TIDY_SECONDS = 30.0


class Engine:
    def __init__(self, *, clock: DatabaseClock | None = None) -> None:
        self.clock = clock or DatabaseClock()
        self.database = Database()
        self.registration = Registration(self.clock)
        self.leases = Leases(database=self.database, clock=self.clock, process=self.registration)
        self.registration.on_lapse = self.leases.release_all
        self.buffer = Buffer(flush_calls=settings.METERING["FLUSH_CALLS"], limit=settings.METERING["BUFFER_CALLS"])
        self._unsent: Batch | None = None
        self._flush_lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._renewed_at = self._tidied_at = float("-inf")
        self._failing_since: float | None = None

    # -- what requests use ---------------------------------------------------------------------------------------------

    def admit(self, tenant_id: UUID) -> Ticket:
        """One unit of the tenant is taken; raises leases.Refused, leases.NoAllowance or leases.LimitUnknown."""
        self._run()
        return self.leases.admit(tenant_id)

    def give_back(self, ticket: Ticket) -> None:
        if not self.leases.give_back(ticket):
            self.buffer.wake.set()  # somebody may be refused for want of this unit

    def holding(self, tenant_id: UUID) -> Holding:
        return self.leases.holding(tenant_id)

    def record(self, entry: Entry) -> None:
        """The call will be in the ledger with the next flush."""
        self.buffer.append(entry)

    # -- flushing ------------------------------------------------------------------------------------------------------

    def flush(self, *, everything: bool = False) -> bool:
        """What was recorded until now is committed, unused units are returned; False while PostgreSQL is away.

        With `everything` all leases go back, not only idle ones.
        """
        with self._flush_lock:
            if self._unsent is not None and not self._send(self._unsent):
                return False
            self._unsent = None
            returns = self.leases.take_returns(everything=everything)
            entries = self.buffer.take()
            if not entries and not returns:
                return True
            self._unsent = Batch(entries, returns)
            if not self._send(self._unsent):
                return False
            self._unsent = None
            return True

    def _send(self, batch: Batch) -> bool:
        try:
            with self.database.connection() as connection:
                try:
                    settled = commit(connection, batch)
                except psycopg.OperationalError:
                    raise
                except psycopg.Error:
                    settled = []
                    self._send_apart(connection, batch)
        except Unreachable as error:
            self._note_failure(error)
            return False
        self._note_success()
        for quota in settled:
            self.leases.settle(
                quota.tenant_id, period_start=quota.period_start, used=quota.used, recorded=quota.recorded
            )
        return True

    def _send_apart(self, connection: psycopg.Connection[tuple[object, ...]], batch: Batch) -> None:
        """One tenant's bad record stops nobody: each tenant's records commit alone, or are set aside."""
        for part in batch.by_tenant():
            try:
                commit(connection, part)
            except psycopg.OperationalError:
                raise
            except psycopg.Error as error:
                set_aside(connection, part, error)

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            logger.warning(
                "Flush failed, records are kept and sent again: %s", str(error).strip() or type(error).__name__
            )

    def _note_success(self) -> None:
        if self._failing_since is not None:
            logger.warning("Flushing again after %.1f s.", time.monotonic() - self._failing_since)
            self._failing_since = None

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        if self._thread is not None:
            return
        with self._start_lock:
            if self._thread is not None:
                return
            self._stopping.clear()
            self._tend()
            self._thread = threading.Thread(target=self._loop, name="metering-flush", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        interval = settings.METERING["FLUSH_SECONDS"]
        while not self._stopping.is_set():
            self.buffer.wake.wait(interval)
            self.buffer.wake.clear()
            try:
                if not self.flush():
                    self._stopping.wait(interval)
                self._tend()
            except Exception:  # the thread must outlive whatever this is: without it nothing is counted
                logger.exception("The flush thread met an error and goes on.")
                self._stopping.wait(RENEW_SECONDS)

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
                if now - self._tidied_at > TIDY_SECONDS:
                    self._tidied_at = now
                    connection.execute(BURY)
                    self.leases.forget_idle()
        except Unreachable:
            self._renewed_at = now - RENEW_SECONDS * 0.75  # again in a quarter of a second

    def counted_to(self) -> float | None:
        """Database time up to which every answered call of this process is in the ledger; None before the first call."""
        if not self.clock.is_set:
            return None
        now = self.clock.now()
        unsent = self._unsent
        waiting = unsent.entries[0].occurred_at if unsent is not None and unsent.entries else self.buffer.oldest()
        return now if waiting is None else min(now, waiting)

    def stop(self) -> None:
        """Everything is flushed and returned, the thread has ended. Starts again with the next call."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        self.buffer.wake.set()
        if thread is not threading.current_thread():
            thread.join(timeout=5.0)
        self._last_flush()
        self._renewed_at = float("-inf")  # a start right after this stop must register again
        self.database.close()

    def _last_flush(self) -> None:
        deadline = time.monotonic() + settings.METERING["STATEMENT_TIMEOUT_MS"] / 1000
        while not self.flush(everything=True):
            if time.monotonic() > deadline:
                waiting = len(self._unsent.entries) if self._unsent else 0
                logger.error("PostgreSQL is away at the stop: %d calls or more are not counted.", waiting)
                return
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


def stop() -> None:
    """What this process counted is in the database and its leases are returned; harmless when there is no engine."""
    if _engine is not None:
        _engine.stop()


def wake() -> None:
    """The flush thread flushes now. Safe in a signal handler: it only sets an event."""
    if _engine is not None:
        _engine.buffer.wake.set()


def _forget() -> None:
    """A forked child shares no connection, thread or lease with its parent."""
    global _engine, _engine_lock
    _engine, _engine_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
atexit.register(stop)
