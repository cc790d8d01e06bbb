"""Work on many accounts: each on its own, in any order, several at once; one that fails holds up nobody."""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import Error, connection, connections

from .errors import StripeNotConfigured, StripeUnavailable

logger = logging.getLogger(__name__)
RUN_SECONDS = 50.0
CLOCKS_DIFFER = timedelta(minutes=5)
OUTAGES_IN_A_ROW = 5  # then a run ends: the rest waits for the next one instead of for its own timeout


@contextmanager
def only_one(account_id: UUID) -> Iterator[bool]:
    """Whether this process alone speaks to Stripe of the account's usage meanwhile; PostgreSQL lets go of a killed one."""
    name = f"usage of {account_id}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name])
        row: Any = cursor.fetchone()
    try:
        yield row[0]
    finally:
        if row[0]:
            _let_go(name)


def _let_go(name: str) -> None:
    with contextlib.suppress(Error), connection.cursor() as cursor:  # a lost connection holds nothing any more
        cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])


class Turns:
    """One run over some ids: how many worked, and whether to go on."""

    def __init__(self, ids: Iterable[UUID], act: Callable[[UUID], object], what: str) -> None:
        self.waiting = list(ids)
        random.shuffle(self.waiting)  # those that fail every time must not keep the others from their turn
        self.act, self.what = act, what
        self.started, self.done, self.outages = time.monotonic(), 0, 0
        self.lock = threading.Lock()

    def take(self) -> UUID | None:
        with self.lock:
            is_over = self.outages >= OUTAGES_IN_A_ROW or time.monotonic() - self.started > RUN_SECONDS
            return None if is_over or not self.waiting else self.waiting.pop()

    def run(self) -> None:
        while (one := self.take()) is not None:
            self._act(one)

    def run_in_thread(self) -> None:
        try:
            self.run()
        finally:
            connections.close_all()

    def _act(self, one: UUID) -> None:
        try:
            self.act(one)
        except (StripeUnavailable, StripeNotConfigured) as error:
            with self.lock:
                self.outages += 1
            logger.warning("%s of %s waits for Stripe: %s", self.what, one, error)
        except Exception:
            logger.exception("%s of %s", self.what, one)
        else:
            with self.lock:
                self.outages, self.done = 0, self.done + 1


def each(ids: Iterable[UUID], act: Callable[[UUID], object], *, what: str, at_once: int = 1) -> int:
    """Everyone had a turn, as far as a run's time goes; how many worked."""
    turns = Turns(ids, act, what)
    if at_once == 1 or len(turns.waiting) <= 1:
        turns.run()
        return turns.done
    with ThreadPoolExecutor(at_once) as pool:
        for future in [pool.submit(turns.run_in_thread) for _ in range(at_once)]:
            future.result()
    return turns.done
