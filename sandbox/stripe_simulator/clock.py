"""Simulated time: the machine's clock plus an offset, or a clock that only moves when told. It never goes backwards."""

import time

from .store import Store


class TimeGoesForward(ValueError):
    """Asked for a moment that has already passed."""


class Clock:
    """Seconds since 1970. While something is being done the time stands still (`pin`), so its effects share one moment."""

    def __init__(self, store: Store, *, start: float | None, is_frozen: bool) -> None:
        self._store = store
        self.is_frozen = is_frozen
        self._pinned: float | None = None
        last, offset = store.setting("clock_now"), store.setting("clock_offset")
        self._latest = float(last) if last else (time.time() if start is None else float(start))
        if offset is None:
            offset = str(self._latest - time.time())
        self._offset = float(offset)
        self.keep()

    def now(self) -> float:
        """The simulated time."""
        if self._pinned is not None:
            return self._pinned
        if not self.is_frozen:
            self._latest = max(self._latest, time.time() + self._offset)
        return self._latest

    def pin(self, at: float | None = None) -> None:
        """Time stands still at this moment (now, if left out) until `unpin`; never earlier than it already was."""
        self._pinned = None
        self._pinned = max(self.now() if at is None else at, self._latest if at is None else at)

    def unpin(self) -> None:
        self._pinned = None

    def move_to(self, moment: float) -> None:
        """It is this moment now; raises TimeGoesForward."""
        now = self.now()
        if moment < now:
            raise TimeGoesForward(f"It is {now:.0f} already; {moment:.0f} has passed.")
        self._latest = moment
        self._offset = moment - time.time()

    def keep(self) -> None:
        """Written to the state; part of the caller's transaction."""
        self._store.set("clock_now", repr(self._latest))
        self._store.set("clock_offset", repr(self._offset))
