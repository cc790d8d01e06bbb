"""Time as the database tells it: one clock for all processes, read without a round trip."""

import time
from collections.abc import Callable


class DatabaseClock:
    """Seconds since the epoch by PostgreSQL's clock: the local monotonic clock plus an offset from the last round trip.

    The offset is off by at most half that round trip. Steps of the local wall clock have no effect.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.monotonic = monotonic
        self._offset: float | None = None

    @property
    def is_set(self) -> bool:
        return self._offset is not None

    def set(self, *, database_epoch: float, asked: float) -> None:
        """Calibrate: the database said `database_epoch` to a question that was asked at monotonic time `asked`."""
        self._offset = database_epoch - (asked + self.monotonic()) / 2

    def now(self) -> float:
        """Database time, in seconds since the epoch; the local wall clock before the first round trip."""
        if self._offset is None:
            return time.time()
        return self.monotonic() + self._offset
