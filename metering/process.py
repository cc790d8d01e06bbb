"""This process's registration: leases belong to it and die with it."""

import os
import socket
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from django.conf import settings

from .clock import DatabaseClock
from .database import Connection
from .pending import HOLDER

RENEW = """
INSERT INTO metering_process (id, host, pid, started_at, renewed_at, expires_at, counted_to)
VALUES (%(id)s, %(host)s, %(pid)s, clock_timestamp(), clock_timestamp(),
        clock_timestamp() + make_interval(secs => %(lease_seconds)s), coalesce(%(counted_to)s, clock_timestamp()))
ON CONFLICT (id) DO UPDATE SET renewed_at = EXCLUDED.renewed_at, expires_at = EXCLUDED.expires_at, counted_to = EXCLUDED.counted_to
RETURNING extract(epoch FROM clock_timestamp())::float8,
          (SELECT count(*) FROM metering_process WHERE expires_at > clock_timestamp() AND id <> %(holder)s)
"""
# Expired rows stay until their leases were reclaimed or are long gone: the row is what says that they are dead.
BURY = "DELETE FROM metering_process WHERE expires_at < clock_timestamp() - interval '1 hour'"
CHANGED = "SELECT tenant_id FROM metering_allowance WHERE changed_at > clock_timestamp() - interval '5 seconds'"
MARGIN = 0.2


class Registration:
    """The process row and how long it is good for, by the monotonic clock."""

    def __init__(self, clock: DatabaseClock) -> None:
        self.id = uuid.uuid4()
        self.on_lapse: Callable[[], None] = _nothing  # the engine sets it: leases need the registration first
        self.live = 1  # processes that are registered: grants are shared among them
        self._clock = clock
        self._good_until = float("-inf")

    def is_lapsed(self) -> bool:
        """Whether others may have declared this process dead: then it admits nothing on its leases."""
        return self._clock.monotonic() >= self._good_until

    def renew(self, connection: Connection, *, counted_to: float | None) -> None:
        """The process is alive for another lease time, counted from before the question."""
        lease_seconds = settings.METERING["LEASE_SECONDS"]
        asked = self._clock.monotonic()
        row = connection.execute(
            RENEW,
            {
                "id": self.id,
                "holder": HOLDER,
                "host": socket.gethostname()[:120],
                "pid": os.getpid(),
                "lease_seconds": lease_seconds,
                "counted_to": None if counted_to is None else datetime.fromtimestamp(counted_to, UTC),
            },
        ).fetchone()
        assert row is not None
        if self.is_lapsed():  # others may have reclaimed our leases before this renewal arrived
            self.on_lapse()
        database_epoch, live = row
        self.live = max(1, live)
        self._clock.set(database_epoch=database_epoch, asked=asked)
        self._good_until = asked + lease_seconds * (1 - MARGIN)

    def resign(self, connection: Connection) -> None:
        """The process holds nothing any more."""
        connection.execute("DELETE FROM metering_process WHERE id = %s", (self.id,))
        self._good_until = float("-inf")


def _nothing() -> None:
    pass
