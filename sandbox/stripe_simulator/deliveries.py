"""Webhooks on their way: queued with the event, sent by background threads, tried again, held back for tests."""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any, Literal
from urllib.parse import urlsplit

from . import endpoints, events
from .errors import Json
from .faults import Faults
from .thin_events import notification
from .world import World, public

TIMEOUT_SECONDS = 20.0
IDLE_SECONDS = 0.5
Order = Literal["oldest", "newest", "shuffled"]


@dataclass(frozen=True)
class Delivery:
    """One webhook as it goes over the wire."""

    id: int
    event: str
    type: str
    url: str
    headers: dict[str, str]
    body: bytes

    def send(self) -> int:
        """Post it now, whatever else is queued; the status, 0 for no answer."""
        return post(self.url, self.headers, self.body)


@dataclass
class Queue:
    """The deliveries and the threads that send them. Nothing is sent while the world's lock is held."""

    world: World
    faults: Faults
    workers: int = 2
    random: Random = field(default_factory=Random)
    _threads: list[threading.Thread] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _sending: set[int] = field(default_factory=set)
    _news: int = 0  # how often `wake` was called
    _is_held: bool = False
    _is_stopped: bool = False

    def add(self, event: Json) -> None:
        """The event is on its way to every endpoint that wants it; part of the transaction that caused it."""
        for endpoint in endpoints.interested(self.world, event):
            fault = self.faults.webhook(event["type"])
            kind = fault.kind if fault else None
            delay = fault.seconds if fault and kind in {"delay", "reorder"} else 0.0
            if kind == "reorder":
                delay *= self.random.random()
            state = "lost" if kind == "lose" else "pending"
            for _ in range(2 if kind == "duplicate" else 1):
                self.world.store.db.execute(
                    "INSERT INTO deliveries (event, endpoint, state, due) VALUES (?, ?, ?, ?)",
                    (event["id"], endpoint["id"], state, time.time() + delay),
                )

    def start(self) -> None:
        for number in range(self.workers):
            thread = threading.Thread(target=self._work, name=f"webhooks-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._is_stopped = True
        self.wake()
        for thread in self._threads:
            thread.join(timeout=2.0)

    def wake(self) -> None:
        """Something may be due."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._is_stopped:
            news = self._news
            delivery = self._claim()
            if delivery is not None:
                self._note(delivery.id, delivery.send())
                continue
            pause = self._pause()  # takes the world's lock, so never while holding the condition's
            with self._changed:
                if self._news == news and not self._is_stopped:
                    self._changed.wait(timeout=pause)

    def _pause(self) -> float:
        with self.world.lock:
            if self._is_stopped or self._is_held:
                return IDLE_SECONDS
            row = self.world.store.db.execute("SELECT MIN(due) FROM deliveries WHERE state = 'pending'").fetchone()
        until_due = (row[0] or time.time() + IDLE_SECONDS) - time.time()
        return float(min(IDLE_SECONDS, max(0.01, until_due)))

    def _claim(self) -> Delivery | None:
        """The next that is due and that no other thread has."""
        with self.world.lock:
            if self._is_stopped or self._is_held:
                return None
            rows = self.world.store.db.execute(
                "SELECT id FROM deliveries WHERE state = 'pending' AND due <= ? ORDER BY due, id LIMIT ?",
                (time.time(), self.workers + 1),
            ).fetchall()
            for (identifier,) in rows:
                if identifier not in self._sending:
                    self._sending.add(identifier)
                    return self._made(identifier)
        return None

    def _made(self, identifier: int) -> Delivery | None:
        """The delivery with its signature of this second; hold the lock."""
        world = self.world
        row = world.store.db.execute("SELECT event, endpoint FROM deliveries WHERE id = ?", (identifier,)).fetchone()
        with world.transaction():
            event, endpoint = world.any(row[0]), world.any(row[1])
            if event is None or endpoint is None:
                world.store.db.execute("UPDATE deliveries SET state = 'failed' WHERE id = ?", (identifier,))
                self._sending.discard(identifier)
                return None
            is_thin = event["object"] == "v2.core.event"
            content = notification(event) if is_thin else events.shown(world, event)
        body = json.dumps(public(content), indent=2).encode()
        at = int(time.time())  # the machine's time: the receiver compares it with its own clock
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": endpoints.signature(body, endpoint["_secrets"], at=at),
        }
        return Delivery(identifier, event["id"], event["type"], endpoint["url"], headers, body)

    def _note(self, identifier: int, status: int) -> None:
        """Delivered, or to be tried again, or given up."""
        world = self.world
        pauses = world.settings.delivery_retry_seconds
        with world.lock, world.transaction():
            row = world.store.db.execute("SELECT attempts FROM deliveries WHERE id = ?", (identifier,)).fetchone()
            attempts = row[0] + 1
            is_good = HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
            state = "delivered" if is_good else "failed" if attempts > len(pauses) else "pending"
            due = time.time() + (pauses[attempts - 1] if state == "pending" else 0)
            world.store.db.execute(
                "UPDATE deliveries SET state = ?, attempts = ?, due = ?, answer = ? WHERE id = ?",
                (state, attempts, due, str(status), identifier),
            )
            self._sending.discard(identifier)
        self.wake()

    def hold(self) -> None:
        """Nothing is sent until `release`."""
        with self.world.lock:
            self._is_held = True

    def held(self) -> list[Delivery]:
        """What waits, in the order it arose, signed now."""
        with self.world.lock:
            rows = self.world.store.db.execute(
                "SELECT id FROM deliveries WHERE state = 'pending' ORDER BY id"
            ).fetchall()
            found = [self._made(identifier) for (identifier,) in rows if identifier not in self._sending]
        return [one for one in found if one is not None]

    def release(self, order: Order | Sequence[int] = "oldest") -> list[tuple[Delivery, int]]:
        """Everything that is held is sent now, one after the other, in this order; then sending goes on by itself."""
        waiting = self.held()
        sent = [(one, one.send()) for one in self._ordered(waiting, order)]
        for one, status in sent:
            self._note(one.id, status)
        with self.world.lock:
            self._is_held = False
        self.wake()
        return sent

    def _ordered(self, waiting: list[Delivery], order: Order | Sequence[int]) -> list[Delivery]:
        if order == "newest":
            return waiting[::-1]
        if order == "shuffled":
            return self.random.sample(waiting, len(waiting))
        if isinstance(order, str):
            return waiting
        by_id = {one.id: one for one in waiting}
        return [by_id[identifier] for identifier in order]

    def drop(self) -> int:
        """What is held will never be sent; how many."""
        with self.world.lock, self.world.transaction():
            done = self.world.store.db.execute("UPDATE deliveries SET state = 'lost' WHERE state = 'pending'")
            return done.rowcount

    def settle(self, seconds: float = 10.0) -> bool:
        """Wait until nothing is on its way; False if that takes longer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.world.lock:
                (count,) = self.world.store.db.execute(
                    "SELECT COUNT(*) FROM deliveries WHERE state = 'pending'"
                ).fetchone()
                if count == 0 and not self._sending:
                    return True
            with self._changed:
                self._changed.wait(timeout=0.05)
        return False

    def report(self, limit: int = 100) -> list[dict[str, Any]]:
        """The latest deliveries."""
        names = ("id", "event", "endpoint", "state", "attempts", "answer")
        with self.world.lock:
            rows = self.world.store.db.execute(
                f"SELECT {', '.join(names)} FROM deliveries ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [dict(zip(names, row, strict=True)) for row in rows]


def post(url: str, headers: dict[str, str], body: bytes) -> int:
    """Post to this machine; the status, 0 for no answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", parts.path or "/", body=body, headers=headers)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return 0
    else:
        return response.status
    finally:
        connection.close()
