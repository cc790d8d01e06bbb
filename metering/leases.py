"""Leases: units of a tenant's limits that this process took from PostgreSQL ahead of use.

With a limit of N exactly N units are admitted, over any number of processes, because a unit is admitted only out of a lease,
and a grant moves units from "free" to `reserved` under the lock of the tenant's quota row. One lease holds its units of all
limits that apply at once (the period's quota and hard limit, the daily cap, the project's and the key's limit), so a call that
one of them refuses takes nothing from the others. Grants are a share of what remains, so they shrink to one call near a limit.

Fails closed: without a lease and without PostgreSQL a call is refused, unless the allowance says `on_outage = open`.
"""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from django.conf import settings

from . import periods
from .clock import DatabaseClock
from .database import Connects, Unreachable
from .holdings import Bounds, Holding, Lease, LimitUnknown, NoAllowance, Refusal, Refused, Slot, Ticket
from .models import OnOutage, Recording

FORGET_SECONDS = 60.0
PROVISIONAL_SHARE = 0.2  # units that are in flight may come back at any moment: ask sooner than in an exhausted period
SHORT_SECONDS, LONG_SECONDS = 0.5, 2.0
GRANT = "SELECT * FROM metering_grant(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"  # migration 0003 says what it does
SHARE_FOR_EACH_PROCESS = 4  # with P processes a grant takes at most one part in 4 P of what remains


class HoldsLeases(Protocol):
    """The part of a process's registration that leases depend on."""

    id: UUID
    live: int  # processes that are registered, this one included

    def is_lapsed(self) -> bool: ...


class Leases:
    """The leases of this process. Safe for threads; one grant at a time per tenant."""

    def __init__(self, *, database: Connects, clock: DatabaseClock, process: HoldsLeases) -> None:
        self._database = database
        self._clock = clock
        self._process = process
        self._holdings: dict[UUID, Holding] = {}
        self._leased: dict[Slot, Holding] = {}
        self._returns: dict[
            tuple[UUID, UUID], int | None
        ] = {}  # (tenant, lease) -> units to give back; None: all of it
        self._returns_lock = threading.Lock()

    def admit(self, tenant_id: UUID, *, project_id: int = 0, key_id: int = 0, cost: int = 1) -> Ticket:
        """`cost` units of every limit of this call are taken; raises Refused, NoAllowance or LimitUnknown."""
        holding = self.holding(tenant_id)
        with holding.lock:
            now = self._clock.now()
            slot = holding.slot(project_id, key_id)
            lease = slot.lease
            if lease is None or lease.left < cost or now >= lease.until or self._process.is_lapsed():
                try:
                    slot, lease = self._new_lease(holding, slot, now, (project_id, key_id, cost))
                except Unreachable:
                    return self._admit_openly(holding, slot, now, cost)
            slot.touched_at = now
            lease.left -= cost
            holding.pending += cost
            bounds = lease.bounds
            return Ticket(holding, slot, lease, bounds, max(now, bounds.start), cost)

    def give_back(self, ticket: Ticket) -> bool:
        """The units of a call that is not billed are free again; False: only with the next flush, its lease is used up."""
        holding, lease = ticket.holding, ticket.lease
        with holding.lock:
            holding.pending = max(0, holding.pending - ticket.cost)
            if lease is None:
                return True
            if ticket.slot.lease is lease:
                lease.left += ticket.cost
                return True
        self._return(holding.tenant_id, lease.id, ticket.cost)
        return False

    def holding(self, tenant_id: UUID) -> Holding:
        return self._holdings.get(tenant_id) or self._holdings.setdefault(tenant_id, Holding(tenant_id))

    def settle(
        self,
        tenant_id: UUID,
        *,
        period_start: float,
        used: int,
        recorded: int,
        held: int | None = None,
        let_go: int = 0,
    ) -> None:
        """A flush committed `recorded` units of the tenant; `used` is the period's total now.

        `held`: units of calls that await their outcome, where the flush says it; `let_go`: those that do so no longer.
        """
        holding = self._holdings.get(tenant_id)
        if holding is None:
            return
        with holding.lock:
            if holding.bounds is not None and holding.bounds.start == period_start:
                holding.used = used
                holding.pending = max(0, holding.pending - recorded)
                if held is not None:
                    holding.held, holding.held_at = held, self._clock.now()
                holding.held = max(0, holding.held - let_go)

    def take_returns(
        self, *, everything: bool = False, is_reachable: bool = True
    ) -> dict[tuple[UUID, UUID], int | None]:
        """Units that go back with the next flush: those of idle and of old leases, and all unused ones where little remains.

        Old: granted more than LEASE_SECONDS ago, so that a change that `release` missed is noticed within that time. While
        PostgreSQL is away nothing changes, and they serve on.
        """
        now = self._clock.now()
        idle_since = now - settings.METERING["IDLE_SECONDS"]
        old_since = now - settings.METERING["LEASE_SECONDS"] if is_reachable else float("-inf")
        everything = everything or self._process.is_lapsed()
        for slot, holding in list(self._leased.items()):
            with holding.lock:
                is_done = slot.touched_at < idle_since or slot.granted_at < old_since
                if everything or is_done or slot.is_scarce or self._is_scarce(holding):
                    self._drop(holding, slot)
        with self._returns_lock:
            returns, self._returns = self._returns, {}
        return returns

    def release(self, tenant_ids: Iterable[UUID]) -> None:
        """These tenants' next call asks PostgreSQL again: their allowance or limits have changed."""
        for tenant_id in tenant_ids:
            holding = self._holdings.get(tenant_id)
            if holding is not None:
                with holding.lock:
                    for slot in holding.slots():
                        self._drop(holding, slot)
                        slot.refusal = None
                    holding.narrow = None

    def release_all(self) -> None:
        """No lease from before this moment is used again; what is left of them goes back, if it is still ours."""
        for slot, holding in list(self._leased.items()):
            with holding.lock:
                self._drop(holding, slot)

    def forget_idle(self) -> None:
        """Tenants that have not called for a minute take no memory, and above TENANTS_KEPT none but the busy ones do."""
        is_crowded = len(self._holdings) > settings.METERING["TENANTS_KEPT"]
        before = self._clock.now() - (settings.METERING["IDLE_SECONDS"] if is_crowded else FORGET_SECONDS)
        for holding in list(self._holdings.values()):
            with holding.lock:
                if holding.pending == 0 and all(s.lease is None and s.touched_at < before for s in holding.slots()):
                    self._holdings.pop(holding.tenant_id, None)

    @property
    def tenants_known(self) -> int:
        return len(self._holdings)

    def _share(self) -> int:
        return max(int(settings.METERING["LEASE_SHARE"]), SHARE_FOR_EACH_PROCESS * self._process.live)

    def _is_scarce(self, holding: Holding) -> bool:
        remaining = holding.remaining
        return remaining is not None and remaining <= self._share()

    # -- inside the holding's lock -------------------------------------------------------------------------------------

    def _new_lease(self, holding: Holding, slot: Slot, now: float, call: tuple[int, int, int]) -> tuple[Slot, Lease]:
        """A lease with enough units and its place. Raises Unreachable and, as `admit` does, Refused and NoAllowance."""
        project_id, key_id, cost = call
        refusal = slot.refusal
        if refusal is not None and now < slot.refused_until and cost >= refusal.cost:
            raise Refused(refusal)
        self._drop(holding, slot)
        self._adapt(slot, now)
        row = self._ask(holding, slot, now, call)
        if row is None:
            self._open_period(holding.tenant_id, now)
            row = self._ask(holding, slot, now, call)
            if row is None:
                raise NoAllowance
        self._see(holding, _bounds(holding, row), used=row.used)
        bounds: Any = holding.bounds
        want, slot = slot.want, holding.slot(project_id, key_id)  # only now it is known which limits apply
        if row.refused_by:
            slot.refusal = Refusal(
                bounds, row.refused_by, row.refused_limit, row.refused_used, row.refused_end,
                row.refused_used + cost > row.refused_limit, cost,
            )  # fmt: skip
            memory = settings.METERING["REFUSAL_MEMORY_SECONDS"]
            slot.refused_until = now + memory * (1 if slot.refusal.final else PROVISIONAL_SHARE)
            raise Refused(slot.refusal)
        slot.lease = Lease(row.lease_id, bounds, row.units, row.lease_until)
        slot.want, slot.granted_at, slot.refusal = want, now, None
        slot.is_scarce = row.spare is not None and row.spare <= self._share()
        self._leased[slot] = holding
        return slot, slot.lease

    def _admit_openly(self, holding: Holding, slot: Slot, now: float, cost: int) -> Ticket:
        bounds = holding.bounds
        if bounds is None or bounds.on_outage != OnOutage.OPEN:
            raise LimitUnknown from None
        if now >= bounds.end:
            period = periods.containing(bounds.anchor, datetime.fromtimestamp(now, UTC))
            bounds = replace(bounds, start=period.start.timestamp(), end=period.end.timestamp(), policy_text="")
            self._see(holding, bounds, used=0)
        slot.touched_at = now
        holding.pending += cost
        return Ticket(holding, slot, None, bounds, now, cost)

    @staticmethod
    def _adapt(slot: Slot, now: float) -> None:
        """Ask for twice as much when the last grant was used up fast, for half when it lasted long."""
        lasted = now - slot.granted_at
        if lasted < SHORT_SECONDS:
            slot.want = min(slot.want * 2, settings.METERING["LEASE_MAX_UNITS"])
        elif lasted > LONG_SECONDS:
            slot.want = max(1, slot.want // 2)

    def _ask(self, holding: Holding, slot: Slot, now: float, call: tuple[int, int, int]) -> "Granted | None":
        project_id, key_id, cost = call
        lease_id = uuid.uuid4()
        parameters = (
            holding.tenant_id, project_id, key_id, datetime.fromtimestamp(now, UTC), slot.want * cost, cost, self._share(),
            lease_id, self._process.id, settings.METERING["LEASE_SECONDS"],
        )  # fmt: skip
        asked = self._clock.monotonic()
        try:
            with self._database.connection() as connection:
                row: Any = connection.execute(GRANT, parameters).fetchone()
        except Unreachable:
            self._return(holding.tenant_id, lease_id, None)  # the grant may have happened
            raise
        granted = Granted(lease_id, *row)
        if granted.units is None:
            return None
        self._clock.set(database_epoch=granted.database_now, asked=asked)
        return granted

    def _open_period(self, tenant_id: UUID, now: float) -> None:
        instant = datetime.fromtimestamp(now, UTC)
        with self._database.connection() as connection:
            row: Any = connection.execute(
                "SELECT anchor FROM metering_allowance WHERE tenant_id = %s", (tenant_id,)
            ).fetchone()
            if row is None:
                raise NoAllowance
            period = periods.containing(row[0], instant)
            connection.execute(
                "SELECT metering_open_period(%s, %s, %s, %s)", (tenant_id, period.start, period.end, instant)
            )

    @staticmethod
    def _see(holding: Holding, bounds: Bounds, *, used: int) -> None:
        if holding.bounds is None or holding.bounds.start != bounds.start:
            holding.pending = holding.held = 0
        holding.bounds, holding.used = bounds, used

    def _drop(self, holding: Holding, slot: Slot) -> None:
        lease, slot.lease = slot.lease, None
        self._leased.pop(slot, None)
        if lease is not None and lease.left:
            self._return(holding.tenant_id, lease.id, lease.left)
            lease.left = 0

    def _return(self, tenant_id: UUID, lease_id: UUID, units: int | None) -> None:
        with self._returns_lock:
            known = self._returns.get((tenant_id, lease_id), 0)
            self._returns[tenant_id, lease_id] = None if units is None or known is None else known + units


class Granted(NamedTuple):
    """One row of `metering_grant`. Without a period or an allowance, `units` and all that follows are None."""

    lease_id: UUID
    units: int
    spare: int | None  # units that are still free, after this grant
    lease_until: float
    refused_by: str | None
    refused_limit: int
    refused_used: int
    refused_end: float
    used: int
    included: int | None
    admits: int | None
    period_start: float
    period_end: float
    anchor: datetime
    label: str
    policy: str
    on_outage: str
    recording: str
    burst_per_second: int
    daily_cap: int | None
    limited_projects: list[int] | None
    limited_keys: list[int] | None
    database_now: float


def _bounds(holding: Holding, row: Granted) -> Bounds:
    """The bounds that a grant was made under: those that are known already, unless something changed."""
    new = Bounds(
        row.period_start, row.period_end, row.anchor, row.included, row.admits, row.label, row.policy, row.on_outage,
        row.burst_per_second, row.recording == Recording.DURABLE, row.daily_cap, frozenset(row.limited_projects or ()),
        frozenset(row.limited_keys or ()),
    )  # fmt: skip
    known = holding.bounds
    return known if known is not None and known == new else new
