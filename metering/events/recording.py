"""What both ways of sending events share: which are valid, and the one transaction in which they and their names are kept."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

import psycopg
from django.conf import settings

from metering import calls, ledger
from metering.database import Connection, Unreachable
from metering.models import Outcome
from metering.recorder import Batch, Entry, Settled, call_id
from tenants.keys import Caller
from tenants.problems import Problem

from .shapes import Event, Fault

AHEAD_SECONDS = 300.0  # clocks differ: an event from so far ahead counts now, one from further is refused
KNOWN = """
SELECT kept.tenant_id, kept.digest, kept.call_id
FROM unnest(%s::uuid[], %s::bytea[]) AS name (tenant_id, digest) JOIN metering_event kept USING (tenant_id, digest)
"""
REMEMBER = """
INSERT INTO metering_event (tenant_id, digest, call_id) SELECT * FROM unnest(%s::uuid[], %s::bytea[], %s::uuid[])
ON CONFLICT DO NOTHING RETURNING tenant_id, digest
"""
Name = tuple[UUID, bytes]  # tenant, digest
T = TypeVar("T")


class State(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # recorded before, by this request or an earlier one
    REFUSED = "refused"  # by a limit, which the event asked for
    REJECTED = "rejected"  # it is not valid, or of a time that is not taken


@dataclass(slots=True)
class Result:
    """What became of one event."""

    id: str | None
    state: State = State.REJECTED
    call_id: str | None = None
    why: str = ""
    problem: Problem | None = None  # of a refused one
    call: calls.MeteredCall | None = field(default=None, repr=False)  # of one that asked to be admitted


@dataclass(slots=True)
class Item:
    """A valid event on its way into the ledger: whose it is, when it counts, and where its result stands."""

    event: Event
    result: Result
    caller: Caller
    digest: bytes
    at: float
    call: calls.MeteredCall | None = None  # admitted

    @property
    def name(self) -> Name:
        return self.caller.tenant_id, self.digest


def digest(source: str, event_id: str) -> bytes:
    """What is kept of an event's name: 128 bits of SHA-256, so that two names never meet."""
    return hashlib.sha256(f"{source}\x00{event_id}".encode()).digest()[:16]


def oldest_taken(now: float) -> float:
    """Events from before this instant are refused: the call log does not keep their day any more."""
    return now - timedelta(days=min(settings.EVENTS_MAX_AGE_DAYS, settings.CALL_LOG_DAYS - 1)).total_seconds()


def valid(events: Iterable[tuple[Caller, Event | Fault, Result]], now: float) -> Iterator[Item]:
    """The events that may be recorded, in their order; of two with one name the first. The other results say why not."""
    seen: set[Name] = set()
    for caller, event, result in events:
        if isinstance(event, Fault):
            result.why = event.why
            continue
        at = now if event.occurred_at is None or event.admit else event.occurred_at.timestamp()
        result.why = _bad_time(at, now)
        if result.why:
            continue
        item = Item(event, result, caller, digest(event.source, event.id), min(at, now))
        result.state = State.DUPLICATE if item.name in seen else State.ACCEPTED
        if item.name not in seen:
            seen.add(item.name)
            yield item


def _bad_time(at: float, now: float) -> str:
    if at > now + AHEAD_SECONDS:
        return f"The time is more than {AHEAD_SECONDS:.0f} seconds ahead of ours."
    if at < oldest_taken(now):
        return f"The time is before {datetime.fromtimestamp(oldest_taken(now), UTC):%Y-%m-%dT%H:%M:%SZ}, too old to be counted."
    return ""


def in_transaction(connection: Connection, work: Callable[[], T]) -> T:
    """`work` in a transaction, again when a boundary of a period moved meanwhile; raises psycopg's errors and Unreachable."""
    for _ in range(ledger.PLACINGS + 1):
        try:
            with connection.transaction():
                return work()
        except psycopg.Error as error:
            if error.sqlstate != ledger.BOUNDARY_MOVED:
                raise
    raise Unreachable("Boundaries of periods moved all the while.")


def recorded(connection: Connection, items: Sequence[Item], batch_id: UUID) -> list[Settled]:
    """Inside a transaction: the items are in the ledger, those whose names were kept before are marked and are not."""
    new = _remembered(connection, items)
    entries = tuple(_entry(item) for item in items if item.name in new)
    if not entries:
        return []
    return ledger.commit_once(connection, ledger.placed(connection, Batch(entries, {}, batch_id)))


def known(connection: Connection, items: Sequence[Item]) -> dict[Name, str]:
    """The call ids of those that were recorded before."""
    if not items:
        return {}
    names = [item.name[0] for item in items], [item.digest for item in items]
    found = connection.execute(KNOWN, names).fetchall()
    return {(tenant_id, bytes(name)): str(call) for tenant_id, name, call in found}


def _remembered(connection: Connection, items: Sequence[Item]) -> set[Name]:
    """The names that are new, kept from now on; the other items are marked. In key order: no two senders wait for each other."""
    ordered = sorted(items, key=lambda item: item.name)
    for item in ordered:
        item.result.state = State.ACCEPTED
        item.result.call_id = item.call.id if item.call else call_id(item.at)
    columns = (
        [item.caller.tenant_id for item in ordered],
        [item.digest for item in ordered],
        [item.result.call_id for item in ordered],
    )
    new = {(tenant_id, bytes(name)) for tenant_id, name in connection.execute(REMEMBER, columns).fetchall()}
    lost = [item for item in ordered if item.name not in new]
    before = known(connection, lost)
    for item in lost:
        item.result.state, item.result.call_id = State.DUPLICATE, before.get(item.name)
    return new


def _entry(item: Item) -> Entry:
    """The ledger's row. The period of one that nothing admitted is found when it is committed."""
    event, caller = item.event, item.caller
    ticket = item.call.ticket if item.call else None
    outcome, units = (Outcome.BILLABLE, event.units) if calls.is_billable(event.status) else (Outcome.FAILED, 0)
    bounds = ticket.bounds if ticket else None
    return Entry(
        str(item.result.call_id), caller.tenant_id, caller.project_id, caller.key_id, event.capability, outcome.value, "",
        event.status, units, event.latency_us, ticket.occurred_at if ticket else item.at,
        bounds.start if bounds else 0.0, bounds.end if bounds else 0.0,
        ticket.lease.id if ticket and ticket.lease else None,
    )  # fmt: skip
