"""A stream that never waits: events that services put on a Redis Stream, drained into the ledger exactly once.

A service adds an entry to its tenant's shard (`shard_of`) and goes on. Entries are read in order; how far is kept in PostgreSQL
and moves in the transaction that records them, so a worker that is killed anywhere has either done both or nothing. Any number of
workers may run: a shard's row is locked by whoever drains it. What cannot be recorded is set aside with its reason and blocks
nobody. Entries are trimmed from the stream only after that commit.

The writers of the stream are trusted as those of a database are: an entry names its key by prefix, not by secret.
"""

import logging
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import redis
from django.conf import settings
from psycopg.types.json import Jsonb
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from metering.database import Connection, Connects, Unreachable
from metering.engine import engine
from metering.recorder import Settled
from tenants.keys import Caller
from tenants.problems import Problem

from . import ingest, recording, shapes
from .recording import Item, Result, State
from .shapes import Event, Fault

logger = logging.getLogger(__name__)
ENTRIES_A_TIME = 1000
PATIENCE_SECONDS = 2.0
SCOPE = "events:write"
NOBODY = UUID(int=0)  # whose an entry is that names no key
NAMESPACE = UUID("b6f3a2f4-5d0e-5c5b-9a53-3f0b3a7c2d11")
BEGIN = "INSERT INTO metering_stream (shard) VALUES (%s) ON CONFLICT DO NOTHING"
TAKE = "SELECT position FROM metering_stream WHERE shard = %s FOR UPDATE SKIP LOCKED"
MOVE = "UPDATE metering_stream SET position = %s WHERE shard = %s"
NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"
KEYS = """
SELECT k.public_id, k.tenant_id, k.project_id, k.id, k.scopes, least(k.revoked_at, k.expires_at), a.tenant_id IS NOT NULL, t.slug
FROM tenants_apikey k JOIN tenants_tenant t ON t.id = k.tenant_id LEFT JOIN metering_allowance a ON a.tenant_id = k.tenant_id
WHERE k.public_id = ANY(%s)
"""
SET_ASIDE = """
INSERT INTO metering_setaside (id, tenant_id, at, calls, error, records) VALUES (%s, %s, clock_timestamp(), 1, %s, %s)
ON CONFLICT (id) DO NOTHING
"""


class Entry(NamedTuple):
    """One entry of a stream: its id, and its fields as bytes."""

    id: str
    fields: dict[bytes, bytes]

    @property
    def added_at(self) -> datetime:
        """When it was put there: ids begin with milliseconds since the epoch."""
        return datetime.fromtimestamp(int(self.id.partition("-")[0]) / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Drained:
    """What one turn at a shard did. `entries` were read; none: there was nothing, or another worker has the shard."""

    entries: int = 0
    recorded: int = 0
    duplicates: int = 0
    set_aside: int = 0
    refused: int = 0


def shard_of(tenant_id: UUID, shards: int | None = None) -> str:
    """The stream that takes this tenant's events: one tenant, one stream, so its events stay in order."""
    place = zlib.crc32(tenant_id.bytes) % (shards or settings.EVENTS_STREAM_SHARDS)
    return shard(place)


def shard(place: int) -> str:
    """The name of a shard; on Redis Cluster the braces spread the shards over its servers."""
    return f"meterhouse:events:{{{place}}}"


def fields(*, key_prefix: str, event: str) -> dict[str, str]:
    """The fields of an entry: the prefix of an API key (`mh_live_` and its public id) and the event as JSON (docs/events.md)."""
    return {"key": key_prefix, "event": event}


def client(url: str) -> Any:
    """The Redis that carries the stream; an address that ends with `?cluster=true` is one server of a Redis Cluster."""
    limits = {"socket_timeout": PATIENCE_SECONDS, "socket_connect_timeout": PATIENCE_SECONDS}
    address, _, query = url.partition("?")
    if query == "cluster=true":
        return RedisCluster.from_url(address, **limits)
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **limits)


def drain(*, shard: str, source: Any, database: Connects, limit: int = ENTRIES_A_TIME) -> Drained:
    """At most `limit` entries of the shard are in the ledger or set aside, and gone from the stream.

    Raises database.Unreachable and redis.RedisError: then nothing has changed, or all of it and only the stream was not trimmed.
    """
    if not source.xlen(shard):
        return Drained()
    turn = _Turn(shard, source, limit)
    try:
        with database.connection() as connection:
            connection.execute(BEGIN, (shard,))
            recording.in_transaction(connection, lambda: turn.take(connection))
    except psycopg.Error as error:  # one entry that the ledger cannot take: halve until it is alone
        turn.forget()
        if limit > 1:
            return drain(shard=shard, source=source, database=database, limit=limit // 2)
        return _pass_over(shard, source, database, error)
    except Unreachable:
        turn.leave_in_doubt()
        raise
    turn.close()
    return turn.drained


class _Turn:
    """The next entries of a shard on their way into the ledger, and what their admission took and asked for."""

    def __init__(self, shard: str, source: Any, limit: int) -> None:
        self.shard, self.source, self.limit = shard, source, limit
        self.drained, self.position, self.batch_id = Drained(), "", uuid.uuid4()
        self.items: list[Item] = []
        self.refused: list[Item] = []
        self.settled: list[Settled] = []

    def take(self, connection: Connection) -> None:
        """Inside a transaction: the entries are recorded, refused or set aside, and the position stands after them."""
        self.forget()  # what an earlier try admitted
        entries, position = _next(connection, self.shard, self.source, self.limit)
        if not entries:
            self.position = position  # what a killed worker committed and did not take off the stream
            return
        row: Any = connection.execute(NOW).fetchone()
        told = _told(connection, entries)
        items = list(recording.valid(((caller, event, result) for _, caller, event, result in told), row[0]))
        self._admit(connection, items)
        self.settled = recording.recorded(connection, self.items, self.batch_id)
        for entry, caller, _, result in told:
            if result.state is State.REJECTED:
                _set_aside(connection, self.shard, entry, caller.tenant_id, result.why)
        self.position = entries[-1].id
        connection.execute(MOVE, (self.position, self.shard))
        states = [result.state for _, _, _, result in told]
        counted = (states.count(state) for state in (State.ACCEPTED, State.DUPLICATE, State.REJECTED, State.REFUSED))
        self.drained = Drained(len(entries), *counted)

    def _admit(self, connection: Connection, items: list[Item]) -> None:
        if not any(item.event.admit for item in items):
            self.items = items
            return
        ingest.settle_doubts(engine())
        ingest.mark_known(connection, items)
        try:
            new = [item for item in items if item.result.state is not State.DUPLICATE]
            self.items, self.refused = ingest.admitted(new)
        except Problem as error:  # no limit can be asked now: the entries wait
            raise Unreachable(str(error.detail)) from None

    def forget(self) -> None:
        """Nothing was recorded: what was admitted is free again."""
        ingest.give_back(self.items)
        self.items, self.refused = [], []

    def leave_in_doubt(self) -> None:
        """Nobody saw whether it was committed."""
        if any(item.call for item in self.items):
            ingest.doubt(self.batch_id, self.items)

    def close(self) -> None:
        """It is committed: units are used, refusals counted, the entries gone from the stream."""
        if self.refused or any(item.call for item in self.items):
            ingest.settle(engine(), self.items, self.settled)
            ingest.count_refused(self.refused)
        if self.position:
            self.source.xtrim(self.shard, minid=self.position, approximate=False)
            self.source.xdel(self.shard, self.position)


def _next(connection: Connection, shard: str, source: Any, limit: int) -> tuple[list[Entry], str]:
    """The entries after the position, and the position; none while another worker has the shard."""
    row: Any = connection.execute(TAKE, (shard,)).fetchone()
    if row is None:
        return [], ""
    position: str = row[0]
    found = source.xrange(shard, min=f"({position}", max="+", count=limit)
    if not found and _is_new(shard, source, position):
        position = "0-0"  # its events have names, so nothing of it can count twice
        found = source.xrange(shard, min=position, max="+", count=limit)
    return [Entry(entry_id.decode(), entry or {}) for entry_id, entry in found], position


def _is_new(shard: str, source: Any, position: str) -> bool:
    """Whether the stream was lost and begun anew, with ids before those that were read."""
    last = source.xinfo_stream(shard)["last-generated-id"].decode()
    return _order(last) < _order(position)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


Told = tuple[Entry, Caller, Event | Fault, Result]


def _told(connection: Connection, entries: Sequence[Entry]) -> list[Told]:
    """Each entry with whose it is, its event and the result to be filled in. Who speaks for nobody gets a fault."""
    prefixes = [_text(entry, b"key").removeprefix("mh_live_") for entry in entries]
    known = {row[0]: row[1:] for row in connection.execute(KEYS, (list({*prefixes}),)).fetchall()}
    told = []
    for entry, prefix in zip(entries, prefixes, strict=True):
        caller, why = _caller(prefix, known.get(prefix), entry)
        event = Fault(None, why) if why else _event(entry, caller)
        told.append((entry, caller, event, Result(event.id)))
    return told


def _caller(prefix: str, row: Any, entry: Entry) -> tuple[Caller, str]:
    """Whom the key stands for, and why its events are not taken; what was added while the key was good is."""
    if row is None:
        return Caller(NOBODY, "", 0, 0, "", frozenset(), None), "key: there is no such API key."
    tenant_id, project_id, key_id, scopes, ended_at, has_allowance, slug = row
    caller = Caller(tenant_id, slug, project_id, key_id, f"mh_live_{prefix}", frozenset(scopes), None)
    if SCOPE not in caller.scopes:
        return caller, f"key: it lacks the scope '{SCOPE}'."
    if ended_at is not None and ended_at <= entry.added_at:
        return caller, "key: it was revoked or had expired when the event was added."
    return caller, "" if has_allowance else "The tenant has no plan."


def _event(entry: Entry, caller: Caller) -> Event | Fault:
    """The entry's event."""
    try:
        found, is_single = shapes.read(entry.fields.get(b"event", b""), content_type=shapes.PLAIN, source=caller.prefix)
    except shapes.Unreadable as error:
        return Fault(None, f"event: {error}")
    if not is_single:
        return Fault(None, "event: an entry is one event, not a list.")
    return found[0]


def _text(entry: Entry, name: bytes) -> str:
    return entry.fields.get(name, b"").decode("utf-8", "replace").replace("\x00", "")


def _set_aside(connection: Connection, shard: str, entry: Entry, tenant_id: UUID, why: str) -> None:
    """Kept with its reason, once, for operators to look at."""
    record = {"entry": entry.id, **{_printable(name): _printable(value) for name, value in entry.fields.items()}}
    logger.warning("Entry %s of %s set aside: %s", entry.id, shard, why)
    connection.execute(SET_ASIDE, (uuid.uuid5(NAMESPACE, f"aside {shard} {entry.id}"), tenant_id, why, Jsonb([record])))


def _printable(value: bytes) -> str:
    return value.decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")[:10_000]


def _pass_over(shard: str, source: Any, database: Connects, error: psycopg.Error) -> Drained:
    """The next entry, which the ledger cannot take, is set aside."""

    def turn(connection: Connection) -> int:
        entries, _ = _next(connection, shard, source, 1)
        for entry in entries:
            _set_aside(connection, shard, entry, NOBODY, f"The ledger cannot take it: {error}")
            connection.execute(MOVE, (entry.id, shard))
        return len(entries)

    with database.connection() as connection:
        passed = recording.in_transaction(connection, lambda: turn(connection))
    return Drained(passed, set_aside=passed)
