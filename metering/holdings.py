"""What a process knows and holds of its tenants, and what an admission says: the values that leases work with.

A `Holding` is one tenant: the bounds of its running period, and a `Slot` for the calls that meet the same limits. A slot holds a
`Lease`, or for a moment the `Refusal` that was the answer to asking for one. `Ticket` and the exceptions are what a call gets.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


@dataclass(slots=True)
class Bounds:
    """A tenant's running period and what is enforced in it. Instants are seconds since the epoch. Never changed, only replaced."""

    start: float
    end: float
    anchor: datetime
    included: int | None
    admits: int | None  # units admitted in the period; None: no bound
    label: str
    policy: str
    on_outage: str
    burst_per_second: int
    is_durable: bool = False
    daily_cap: int | None = None
    limited_projects: frozenset[int] = frozenset()
    limited_keys: frozenset[int] = frozenset()
    policy_text: str = field(default="", compare=False)  # the RateLimit-Policy field, made once


class Refusal(NamedTuple):
    """Which limit has too few units left, and when it has some again. `final`: its window is used up, else units are in flight."""

    bounds: Bounds
    by: str  # quota, hard_limit, daily_cap, project_limit, key_limit
    limit: int
    used: int
    ends_at: float
    final: bool
    cost: int


class Refused(Exception):
    """Too few units are left to admit the call."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.by)
        self.refusal = refusal

    @property
    def final(self) -> bool:
        return self.refusal.final


class NoAllowance(Exception):
    """Billing has pushed no allowance for this tenant."""


class LimitUnknown(Exception):
    """The limit cannot be asked and the allowance says to refuse then."""


@dataclass(slots=True, eq=False)
class Lease:
    id: UUID
    bounds: Bounds
    left: int
    until: float


@dataclass(slots=True, eq=False)
class Slot:
    """What this process holds of one tenant for the calls that meet the same limits."""

    lease: Lease | None = None
    want: int = 1
    granted_at: float = 0.0
    touched_at: float = 0.0
    is_scarce: bool = False
    refusal: Refusal | None = None
    refused_until: float = 0.0


@dataclass(slots=True, eq=False)
class Holding:
    """What this process knows and holds of one tenant. Guarded by `lock`."""

    tenant_id: UUID
    lock: threading.Lock = field(default_factory=threading.Lock)
    bounds: Bounds | None = None
    whole: Slot = field(default_factory=Slot)  # of calls that no project's or key's limit applies to
    narrow: dict[tuple[int, int], Slot] | None = None  # by limited project and key, 0 where there is no such limit
    used: int = 0  # of the period, as of the last round trip or flush
    pending: int = 0  # admitted here and not yet part of `used` or `held`
    held: int = 0  # of calls that await their outcome, as of `held_at`
    held_at: float = float("-inf")

    @property
    def remaining(self) -> int | None:
        """Units of the quota that may still be admitted, as far as this process knows; None without a bound."""
        if self.bounds is None or self.bounds.admits is None:
            return None
        return max(0, self.bounds.admits - self.used - self.pending)

    def slot(self, project_id: int, key_id: int) -> Slot:
        """Where the lease for this project's and key's calls is kept."""
        bounds = self.bounds
        if bounds is None or not (bounds.limited_projects or bounds.limited_keys):
            return self.whole
        scope = (
            project_id if project_id in bounds.limited_projects else 0,
            key_id if key_id in bounds.limited_keys else 0,
        )
        if scope == (0, 0):
            return self.whole
        if self.narrow is None:
            self.narrow = {}
        return self.narrow.get(scope) or self.narrow.setdefault(scope, Slot())

    def slots(self) -> Iterator[Slot]:
        yield self.whole
        if self.narrow:
            yield from self.narrow.values()


class Ticket(NamedTuple):
    """Units that were admitted: out of which lease (None: admitted openly during an outage), when, in which period."""

    holding: Holding
    slot: Slot
    lease: Lease | None
    bounds: Bounds
    occurred_at: float
    cost: int
