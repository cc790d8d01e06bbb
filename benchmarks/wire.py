"""What a stretch of code sends to PostgreSQL and Valkey, counted: every statement is one round trip."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis

OTHERS = "other threads"
VALKEY = "Valkey"


class Wire:
    """`sent` counts by who sends (`by`, as set by the thread that counts) and the statement's beginning."""

    def __init__(self) -> None:
        self.by = ""
        self.sent: Counter[tuple[str, str]] = Counter()
        self._thread = threading.get_ident()

    def note(self, what: str) -> None:
        self.sent[self.by if threading.get_ident() == self._thread else OTHERS, what] += 1


@contextmanager
def counted() -> Iterator[Wire]:
    """Inside, statements of this process are counted, of Django's connections and the engine's alike."""
    wire = Wire()
    execute: Any = psycopg.Cursor.execute
    send: Any = redis.Connection.send_packed_command

    def counting_execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        wire.note(" ".join(str(query).split()[:4])[:40])
        return execute(self, query, *arguments, **options)

    def counting_send(self: Any, *arguments: Any, **options: Any) -> Any:
        wire.note(VALKEY)
        return send(self, *arguments, **options)

    psycopg.Cursor.execute, redis.Connection.send_packed_command = counting_execute, counting_send  # type: ignore[method-assign]
    try:
        yield wire
    finally:
        psycopg.Cursor.execute, redis.Connection.send_packed_command = execute, send  # type: ignore[method-assign]
