"""Batches that wait for PostgreSQL to come back: on disk, or in memory where the disk refuses them."""

import hashlib
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.db import connections

from . import spool
from .recorder import Batch

logger = logging.getLogger(__name__)
Send = Callable[[Batch], bool]


class Backlog:
    """What one process could not commit, in the order in which it was recorded. Used under the engine's flush lock.

    Fails towards keeping: when the spool is full or its disk refuses, batches stay in memory, and when BUFFER_CALLS calls wait
    there, nothing more is admitted.
    """

    def __init__(self) -> None:
        self._folder = folder()
        self._spool = spool.Spool(self._folder, max_bytes=settings.METERING["SPOOL_MAX_BYTES"])
        self._in_memory: deque[Batch] = deque()
        self._calls_in_memory = 0
        self._has_complained = False

    @property
    def is_full(self) -> bool:
        return bool(self._calls_in_memory >= settings.METERING["BUFFER_CALLS"])

    @property
    def oldest(self) -> float | None:
        """When the first waiting call occurred; None when none waits."""
        in_memory = (batch.entries[0].occurred_at for batch in self._in_memory if batch.entries)
        return min((at for at in (self._spool.oldest, next(in_memory, None)) if at is not None), default=None)

    def keep(self, batch: Batch) -> None:
        """The batch waits, on disk if the disk takes it."""
        try:
            self._spool.append(batch)
        except (spool.SpoolFull, OSError) as error:
            self._complain(error)
            self._in_memory.append(batch)
            self._calls_in_memory += len(batch.entries)

    def drain(self, send: Send) -> bool:
        """Nothing waits any more; False when `send` failed, and what was not sent still waits."""
        while self._in_memory:
            if not send(self._in_memory[0]):
                return False
            self._calls_in_memory -= len(self._in_memory.popleft().entries)
        return self._spool.drain(send)

    def adopt(self, send: Send) -> None:
        """Calls that processes of this machine left on disk when they ended are sent."""
        calls = spool.adopt(self._folder, send)
        if calls:
            logger.warning("%d calls of processes that are gone were counted from %s.", calls, self._folder)

    def close(self) -> None:
        """What waits on disk is for others to adopt; what waits in memory is lost, and said so."""
        if self._spool.calls:
            logger.warning("%d calls wait in %s and are counted by the next process.", self._spool.calls, self._folder)
        if self._calls_in_memory:
            logger.error("%d calls are not counted: PostgreSQL and the disk refused them.", self._calls_in_memory)
        self._spool.close()

    def abandon(self) -> None:
        """In a forked child: the file is the parent's."""
        self._spool.close()
        self._in_memory.clear()

    def _complain(self, error: Exception) -> None:
        if not self._has_complained:
            self._has_complained = True
            limit = settings.METERING["SPOOL_MAX_BYTES"]
            reason = str(error) or f"it holds {limit:,} bytes, METERING_SPOOL_MAX_BYTES"
            logger.error(
                "Records cannot wait in %s (%s) and wait in memory. Make room there, or set METERING_SPOOL_DIR.",
                self._folder,
                reason,
            )


def folder() -> Path:
    """Where batches of this deployment wait: what another one left must never be counted into this database."""
    identity = f"{settings.API_KEY_SECRET} {connections['default'].settings_dict['NAME']}"
    return Path(settings.METERING["SPOOL_DIR"]) / hashlib.sha256(identity.encode()).hexdigest()[:16]
