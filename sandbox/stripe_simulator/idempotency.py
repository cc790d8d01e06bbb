"""Idempotency keys: the first answer is kept for a day and repeated, errors of Stripe's own included."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

from .errors import Json, StripeError
from .world import World

KEPT_SECONDS = 24 * 3_600
MAX_KEY = 255


@dataclass(frozen=True, slots=True)
class Saved:
    status: int
    body: str
    request_id: str


class InFlight:
    """Names that are being worked on right now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    @contextmanager
    def only_one(self, name: str | None, refusal: StripeError) -> Iterator[None]:
        """Raises the refusal while another thread is inside with the same name."""
        if name is None:
            yield
            return
        with self._lock:
            if name in self._names:
                raise refusal
            self._names.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._names.discard(name)


def in_use(key: str | None) -> StripeError:
    message = f"There is currently another in-progress request using this Idempotent Key ({key})."
    return StripeError(
        message, status=HTTPStatus.CONFLICT, kind="idempotency_error", code="idempotency_key_in_use", is_saved=False
    )


def fingerprint(method: str, path: str, params: Json) -> str:
    content = json.dumps([method, path, params], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def saved(world: World, key: str, mark: str) -> Saved | None:
    """The answer this key had before; raises StripeError when it was another request."""
    if len(key) > MAX_KEY:
        raise StripeError(f"Idempotency keys have at most {MAX_KEY} characters.", is_saved=False)
    row = world.store.db.execute(
        "SELECT fingerprint, status, body, request_id FROM idempotency WHERE key = ? AND at > ?",
        (key, world.now - KEPT_SECONDS),
    ).fetchone()
    if row is None:
        return None
    if row[0] != mark:
        message = "Keys for idempotent requests can only be used with the same parameters they were first used with."
        message += f" Try using a key other than '{key}' if you meant to execute a different request."
        raise StripeError(message, kind="idempotency_error", is_saved=False)
    return Saved(row[1], row[2], row[3])


def save(world: World, key: str, mark: str, answer: Saved) -> None:
    world.store.db.execute(
        "INSERT INTO idempotency (key, fingerprint, at, status, body, request_id) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, at = excluded.at,"
        " status = excluded.status, body = excluded.body, request_id = excluded.request_id",
        (key, mark, world.now, answer.status, answer.body, answer.request_id),
    )
