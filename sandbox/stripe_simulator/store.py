"""The state in one SQLite file: objects as JSON, settings, and the transactions around every change."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import Json

MEMORY = ":memory:"
SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    customer TEXT, parent TEXT, body TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS objects_kind ON objects (kind, seq);
CREATE INDEX IF NOT EXISTS objects_customer ON objects (customer, kind, seq) WHERE customer IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_parent ON objects (parent, kind, seq) WHERE parent IS NOT NULL;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS timers (
    action TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, rank INTEGER NOT NULL, PRIMARY KEY (action, id));
CREATE INDEX IF NOT EXISTS timers_due ON timers (at, rank);
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, at INTEGER NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL,
    request_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, endpoint TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL, answer TEXT);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (state, due);
CREATE INDEX IF NOT EXISTS deliveries_event ON deliveries (event);
CREATE TABLE IF NOT EXISTS meter_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, identifier TEXT NOT NULL, event_name TEXT NOT NULL, customer TEXT NOT NULL,
    value INTEGER NOT NULL, at INTEGER NOT NULL, arrived REAL NOT NULL, visible REAL NOT NULL,
    is_cancelled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS meter_events_identifier ON meter_events (identifier);
CREATE INDEX IF NOT EXISTS meter_events_usage ON meter_events (event_name, customer, at);
CREATE TABLE IF NOT EXISTS oracle_events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, identifier TEXT NOT NULL, event_name TEXT NOT NULL, customer TEXT NOT NULL,
    value TEXT NOT NULL, at INTEGER NOT NULL, fate TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS oracle_events_usage ON oracle_events (customer, event_name, at);
"""


class Store:
    """One connection; whoever uses it holds the world's lock."""

    def __init__(self, path: str) -> None:
        if path != MEMORY:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).touch(mode=0o600)  # it holds secrets
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing. Inside another one it is part of that."""
        if self.db.in_transaction:
            yield
            return
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def close(self) -> None:
        self.db.close()

    def put(self, thing: Json, *, kind: str, parent: str | None = None) -> None:
        """The object is stored under its id; a new one is the newest of its kind."""
        customer = thing.get("customer")
        row = (thing["id"], kind, customer if isinstance(customer, str) else None, parent, json.dumps(thing))
        self.db.execute(
            "INSERT INTO objects (id, kind, customer, parent, body) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, customer = excluded.customer,"
            " parent = excluded.parent, body = excluded.body",
            row,
        )

    def get(self, identifier: str) -> str | None:
        """The object as JSON."""
        row = self.db.execute("SELECT body FROM objects WHERE id = ?", (identifier,)).fetchone()
        return str(row[0]) if row else None

    def seq(self, identifier: str) -> int | None:
        row = self.db.execute("SELECT seq FROM objects WHERE id = ?", (identifier,)).fetchone()
        return int(row[0]) if row else None

    def delete(self, identifier: str) -> None:
        self.db.execute("DELETE FROM objects WHERE id = ?", (identifier,))

    def walk(  # noqa: PLR0917
        self,
        kind: str,
        customer: str | None = None,
        parent: str | None = None,
        below: int | None = None,
        above: int | None = None,
        is_ascending: bool = False,
    ) -> Iterator[tuple[str, str]]:
        """Id and JSON of the objects of a kind, newest first unless ascending; bounds of `seq` are exclusive."""
        clauses, values = ["kind = ?"], [kind]
        bounds = (("customer =", customer), ("parent =", parent), ("seq <", below), ("seq >", above))
        for clause, value in bounds:
            if value is not None:
                clauses.append(f"{clause} ?")
                values.append(value)  # type: ignore[arg-type]
        order = "ASC" if is_ascending else "DESC"
        sql = f"SELECT id, body FROM objects WHERE {' AND '.join(clauses)} ORDER BY seq {order}"
        yield from self.db.execute(sql, values)

    def setting(self, name: str) -> str | None:
        row = self.db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def set(self, name: str, value: str) -> None:
        self.db.execute(
            "INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
        )
