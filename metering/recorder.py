"""The recorder: answered calls wait in memory, at most 50 ms while PostgreSQL answers, and leave in batches.

A batch is frozen with its id before it is sent. Fails towards keeping: what cannot be committed now stays and is sent
again, in order; when too much waits, nothing more is admitted.
"""

import random
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

HELD = "held"  # the outcome is told later (`pending.py`)


class Entry(NamedTuple):
    """One answered call, or one whose outcome is told later. Instants are seconds since the epoch by database time."""

    id: str  # see call_id
    tenant_id: UUID
    project_id: int
    key_id: int
    capability: str
    outcome: str  # models.Outcome, or HELD
    reason: str
    status: int
    units: int  # billed; 0 when failed or refused
    latency_us: int | None  # None: not known
    occurred_at: float
    period_start: float
    period_end: float
    lease_id: UUID | None  # the lease that this call's unit leaves, if it leaves one
    calls: int = 1


Returns = dict[tuple[UUID, UUID], int | None]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction writes. Frozen: a retry sends exactly the same."""

    entries: tuple[Entry, ...]
    returns: Returns
    id: UUID = field(default_factory=uuid.uuid4)

    def by_tenant(self) -> Iterator["Batch"]:
        """The same records, a batch for each tenant; ids follow from this batch's, so that a retry repeats them."""
        tenants = {entry.tenant_id for entry in self.entries} | {tenant_id for tenant_id, _ in self.returns}
        for tenant_id in sorted(tenants):
            yield Batch(
                tuple(entry for entry in self.entries if entry.tenant_id == tenant_id),
                {key: units for key, units in self.returns.items() if key[0] == tenant_id},
                uuid.uuid5(self.id, str(tenant_id)),
            )

    def halves(self) -> "tuple[Batch, Batch]":
        """The same records in two batches; their ids follow from this one's, so that a retry repeats them."""
        middle = len(self.entries) // 2
        first = Batch(self.entries[:middle], self.returns, uuid.uuid5(self.id, "first half"))
        return first, Batch(self.entries[middle:], {}, uuid.uuid5(self.id, "second half"))


@dataclass(frozen=True, slots=True)
class Settled:
    """A quota row after a flush."""

    tenant_id: UUID
    period_start: float
    used: int
    recorded: int  # units that this flush added
    held: int | None = None  # units of calls that await their outcome; None: not asked


def call_id(occurred_at: float) -> str:
    """A version 7 UUID (RFC 9562): it begins with the call's time, so a call is found by its id without an index of its own."""
    head = f"{int(occurred_at * 1000):012x}"
    chance = random.getrandbits(80)  # an id is unique, not secret; a forked child is seeded anew by Python
    tail = f"{chance >> 68:03x}{0x8000_0000_0000_0000 | chance & (2**62 - 1):016x}"
    return f"{head[:8]}-{head[8:]}-7{tail[:3]}-{tail[3:7]}-{tail[7:]}"


class Buffer:
    """Records that wait for their flush. Safe for threads."""

    def __init__(self, *, flush_calls: int, limit: int) -> None:
        self._entries: deque[Entry] = deque()
        self._flush_calls = flush_calls
        self._limit = limit
        self.wake = threading.Event()

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)
        if len(self._entries) >= self._flush_calls and not self.wake.is_set():
            self.wake.set()

    @property
    def is_full(self) -> bool:
        """Whether PostgreSQL has been away for so long that nothing more may be admitted."""
        return len(self._entries) >= self._limit

    def take(self) -> tuple[Entry, ...]:
        taken = []
        for _ in range(len(self._entries)):
            taken.append(self._entries.popleft())
        return tuple(taken)

    def oldest(self) -> float | None:
        try:
            return self._entries[0].occurred_at
        except IndexError:
            return None
