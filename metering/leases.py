"""Leases: units of a tenant's quota that this process took from PostgreSQL ahead of use.

With a bound of N exactly N calls are admitted, over any number of processes, because a unit is admitted only out of a
lease, and a grant moves units from "free" to `reserved` in the quota row under that row's lock. The grant and its lease
row commit together or not at all. Grants are a share of what remains, so they shrink to 1 near the bound.

Fails closed: without a lease and without PostgreSQL a call is refused, unless the allowance says `on_outage = open`.
"""

import logging
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from django.conf import settings

from . import periods
from .clock import DatabaseClock
from .database import Database, Unreachable
from .models import OnOutage
from .reclaim import reclaim

logger = logging.getLogger(__name__)
FORGET_SECONDS = 60.0
PROVISIONAL_SHARE = 0.2  # units that are in flight may come back at any moment: ask sooner than in an exhausted period
SHORT_SECONDS, LONG_SECONDS = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """A tenant's running period and what is enforced in it. Instants are seconds since the epoch."""

    start: float
    end: float
    anchor: datetime
    included: int | None
    admits: int | None  # units admitted in the period; None: no bound
    label: str
    policy: str
    on_outage: str
    burst_per_second: int

    @property
    def period(self) -> periods.Period:
        return periods.Period(datetime.fromtimestamp(self.start, UTC), datetime.fromtimestamp(self.end, UTC))


class Refused(Exception):
    """No unit is left to admit. `final`: the period is used up; otherwise units may still come back from other processes."""

    def __init__(self, bounds: Bounds, *, used: int, final: bool) -> None:
        super().__init__("quota")
        self.bounds = bounds
        self.used = used
        self.final = final


class NoAllowance(Exception):
    """Billing has pushed no allowance for this tenant."""


class LimitUnknown(Exception):
    """The limit cannot be asked and the allowance says to refuse then."""


class HoldsLeases(Protocol):
    """The part of a process's registration that leases depend on."""

    id: UUID

    def is_lapsed(self) -> bool: ...


@dataclass(slots=True, eq=False)
class Lease:
    id: UUID
    bounds: Bounds
    left: int


@dataclass(slots=True, eq=False)
class Holding:
    """What this process knows and holds of one tenant. Guarded by `lock`."""

    tenant_id: UUID
    lock: threading.Lock = field(default_factory=threading.Lock)
    bounds: Bounds | None = None
    lease: Lease | None = None
    want: int = 1
    granted_at: float = 0.0
    touched_at: float = 0.0
    used: int = 0  # of the period, as of the last round trip or flush
    pending: int = 0  # admitted here and not yet part of `used`
    refusal: Refused | None = None
    refused_until: float = 0.0

    @property
    def remaining(self) -> int | None:
        """Units that may still be admitted, as far as this process knows; None without a bound."""
        if self.bounds is None or self.bounds.admits is None:
            return None
        return max(0, self.bounds.admits - self.used - self.pending)


class Ticket(NamedTuple):
    """A unit that was admitted: out of which lease (None: admitted openly during an outage), when, in which period."""

    holding: Holding
    lease: Lease | None
    bounds: Bounds
    occurred_at: float


# Inputs: tenant, now (database time), want, share, lease, process. One row: the tenant's running period and the units
# granted (0: refused). No row: the period has not been opened. The UPDATE is plain, its expression is evaluated on the row
# version it locks, so concurrent grants queue up and each sees what the one before left.
GRANT = """
WITH granted AS (
    UPDATE metering_quota SET
        last_grant = least(%(want)s, greatest(1, coalesce((admits - used - reserved) / %(share)s, %(want)s))),
        reserved = reserved + least(%(want)s, greatest(1, coalesce((admits - used - reserved) / %(share)s, %(want)s)))
    WHERE tenant_id = %(tenant)s AND period_start <= %(now)s AND period_end > %(now)s
      AND (admits IS NULL OR used + reserved < admits)
    RETURNING tenant_id, period_start, period_end, included, admits, used, last_grant AS units
), leased AS (
    INSERT INTO metering_lease (tenant_id, id, process_id, period_start, units, granted_at)
    SELECT tenant_id, %(lease)s, %(process)s, period_start, units, %(now)s FROM granted
), refused AS (
    SELECT tenant_id, period_start, period_end, included, admits, used, 0::bigint AS units FROM metering_quota
    WHERE tenant_id = %(tenant)s AND period_start <= %(now)s AND period_end > %(now)s AND NOT EXISTS (SELECT FROM granted)
)
SELECT q.units, q.used, q.included, q.admits, extract(epoch FROM q.period_start)::float8, extract(epoch FROM q.period_end)::float8,
       a.anchor, a.label, a.policy, a.on_outage, a.burst_per_second, extract(epoch FROM clock_timestamp())::float8
FROM (SELECT * FROM granted UNION ALL SELECT * FROM refused) q JOIN metering_allowance a USING (tenant_id)
"""

OPEN_PERIOD = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, included, admits)
SELECT tenant_id, %(start)s, %(end)s, included,
       least(hard_limit, CASE WHEN policy = 'rate' THEN NULL ELSE included END)
FROM metering_allowance WHERE tenant_id = %(tenant)s
ON CONFLICT (tenant_id, period_start) DO NOTHING
"""


class Leases:
    """The leases of this process. Safe for threads; one grant at a time per tenant."""

    def __init__(self, *, database: Database, clock: DatabaseClock, process: HoldsLeases) -> None:
        self._database = database
        self._clock = clock
        self._process = process
        self._holdings: dict[UUID, Holding] = {}
        self._leased: set[Holding] = set()
        self._returns: dict[
            tuple[UUID, UUID], int | None
        ] = {}  # (tenant, lease) -> units to give back; None: all of it
        self._returns_lock = threading.Lock()

    def admit(self, tenant_id: UUID) -> Ticket:
        """One unit of the tenant's quota is taken; raises Refused, NoAllowance or LimitUnknown."""
        holding = self.holding(tenant_id)
        with holding.lock:
            now = self._clock.now()
            holding.touched_at = now
            lease = holding.lease
            if lease is None or lease.left < 1 or now >= lease.bounds.end or self._process.is_lapsed():
                lease = self._new_lease(holding, now)
                if lease is None:
                    return self._admit_openly(holding, now)
            lease.left -= 1
            holding.pending += 1
            return Ticket(holding, lease, lease.bounds, now)

    def give_back(self, ticket: Ticket) -> bool:
        """The unit of a call that is not billed is free again; False: only with the next flush, its lease is used up."""
        holding, lease = ticket.holding, ticket.lease
        with holding.lock:
            holding.pending = max(0, holding.pending - 1)
            if lease is None:
                return True
            if holding.lease is lease:
                lease.left += 1
                return True
        self._return(holding.tenant_id, lease.id, 1)
        return False

    def holding(self, tenant_id: UUID) -> Holding:
        return self._holdings.get(tenant_id) or self._holdings.setdefault(tenant_id, Holding(tenant_id))

    def settle(self, tenant_id: UUID, *, period_start: float, used: int, recorded: int) -> None:
        """A flush committed `recorded` units of the tenant; `used` is the period's total now."""
        holding = self._holdings.get(tenant_id)
        if holding is None:
            return
        with holding.lock:
            if holding.bounds is not None and holding.bounds.start == period_start:
                holding.used = used
                holding.pending = max(0, holding.pending - recorded)

    def take_returns(self, *, everything: bool = False) -> dict[tuple[UUID, UUID], int | None]:
        """Units that go back with the next flush: those of idle leases, and all unused ones where little remains."""
        now = self._clock.now()
        everything = everything or self._process.is_lapsed()
        for holding in list(self._leased):
            with holding.lock:
                if everything or self._is_idle(holding, now) or _is_scarce(holding):
                    self._drop(holding)
        with self._returns_lock:
            returns, self._returns = self._returns, {}
        return returns

    def release(self, tenant_ids: Iterable[UUID]) -> None:
        """These tenants' next call asks PostgreSQL again: their allowance has changed."""
        for tenant_id in tenant_ids:
            holding = self._holdings.get(tenant_id)
            if holding is not None:
                with holding.lock:
                    self._drop(holding)
                    holding.refusal = None

    def release_all(self) -> None:
        """No lease from before this moment is used again; what is left of them goes back, if it is still ours."""
        for holding in list(self._leased):
            with holding.lock:
                self._drop(holding)

    def forget_idle(self) -> None:
        """Tenants that have not called for a minute take no memory."""
        before = self._clock.now() - FORGET_SECONDS
        for holding in list(self._holdings.values()):
            if holding.touched_at < before:
                with holding.lock:
                    if holding.lease is None and holding.pending == 0:
                        self._holdings.pop(holding.tenant_id, None)

    @staticmethod
    def _is_idle(holding: Holding, now: float) -> bool:
        return bool(now - holding.touched_at > settings.METERING["IDLE_SECONDS"])

    # -- inside the holding's lock -------------------------------------------------------------------------------------

    def _new_lease(self, holding: Holding, now: float) -> Lease | None:
        """A lease with at least one unit; None when the call is to be admitted openly; raises as `admit` does."""
        if holding.refusal is not None and now < holding.refused_until:
            raise holding.refusal
        self._drop(holding)
        self._adapt(holding, now)
        try:
            lease = self._grant(holding, now)
        except Unreachable:
            bounds = holding.bounds
            if bounds is None or bounds.on_outage != OnOutage.OPEN:
                raise LimitUnknown from None
            return None
        holding.lease, holding.granted_at, holding.refusal = lease, now, None
        self._leased.add(holding)
        return lease

    def _admit_openly(self, holding: Holding, now: float) -> Ticket:
        bounds = holding.bounds
        assert bounds is not None
        if now >= bounds.end:
            period = periods.containing(bounds.anchor, datetime.fromtimestamp(now, UTC))
            bounds = replace(bounds, start=period.start.timestamp(), end=period.end.timestamp())
            self._see(holding, bounds, used=0)
        holding.pending += 1
        return Ticket(holding, None, bounds, now)

    def _adapt(self, holding: Holding, now: float) -> None:
        """Ask for twice as much when the last grant was used up fast, for half when it lasted long."""
        lasted = now - holding.granted_at
        if lasted < SHORT_SECONDS:
            holding.want = min(holding.want * 2, settings.METERING["LEASE_MAX_UNITS"])
        elif lasted > LONG_SECONDS:
            holding.want = max(1, holding.want // 2)

    def _grant(self, holding: Holding, now: float) -> Lease:
        row = self._ask(holding, now)
        if row is None:
            self._open_period(holding.tenant_id, now)
            row = self._ask(holding, now)
        if row is not None and row[1] == 0 and self._reclaim(holding.tenant_id, row[2]):
            row = self._ask(holding, now)
        if row is None:
            raise NoAllowance
        lease_id, units, bounds, used = row
        self._see(holding, bounds, used=used)
        if units:
            return Lease(lease_id, bounds, units)
        final = bounds.admits is not None and used >= bounds.admits
        holding.refusal = Refused(bounds, used=used, final=final)
        holding.refused_until = now + settings.METERING["REFUSAL_MEMORY_SECONDS"] * (1 if final else PROVISIONAL_SHARE)
        raise holding.refusal

    def _ask(self, holding: Holding, now: float) -> tuple[UUID, int, Bounds, int] | None:
        lease_id = uuid.uuid4()
        parameters = {
            "tenant": holding.tenant_id,
            "now": datetime.fromtimestamp(now, UTC),
            "want": holding.want,
            "share": settings.METERING["LEASE_SHARE"],
            "lease": lease_id,
            "process": self._process.id,
        }
        asked = self._clock.monotonic()
        try:
            with self._database.connection() as connection:
                row: Any = connection.execute(GRANT, parameters).fetchone()
        except Unreachable:
            self._return(holding.tenant_id, lease_id, None)  # the grant may have happened
            raise
        if row is None:
            return None
        units, used, included, admits, start, end, anchor, label, policy, on_outage, burst, database_epoch = row
        self._clock.set(database_epoch=database_epoch, asked=asked)
        return lease_id, units, Bounds(start, end, anchor, included, admits, label, policy, on_outage, burst), used

    def _open_period(self, tenant_id: UUID, now: float) -> None:
        with self._database.connection() as connection:
            row: Any = connection.execute(
                "SELECT anchor FROM metering_allowance WHERE tenant_id = %s", (tenant_id,)
            ).fetchone()
            if row is None:
                raise NoAllowance
            period = periods.containing(row[0], datetime.fromtimestamp(now, UTC))
            connection.execute(OPEN_PERIOD, {"tenant": tenant_id, "start": period.start, "end": period.end})

    def _reclaim(self, tenant_id: UUID, bounds: Bounds) -> bool:
        with self._database.connection() as connection:
            return reclaim(connection, tenant_id=tenant_id, period_start=bounds.period.start)

    def _see(self, holding: Holding, bounds: Bounds, *, used: int) -> None:
        if holding.bounds is None or holding.bounds.start != bounds.start:
            holding.pending = 0
        holding.bounds, holding.used = bounds, used

    def _drop(self, holding: Holding) -> None:
        lease, holding.lease = holding.lease, None
        self._leased.discard(holding)
        if lease is not None and lease.left:
            self._return(holding.tenant_id, lease.id, lease.left)
            lease.left = 0

    def _return(self, tenant_id: UUID, lease_id: UUID, units: int | None) -> None:
        with self._returns_lock:
            known = self._returns.get((tenant_id, lease_id), 0)
            self._returns[tenant_id, lease_id] = None if units is None or known is None else known + units


def _is_scarce(holding: Holding) -> bool:
    remaining = holding.remaining
    return remaining is not None and remaining <= settings.METERING["LEASE_SHARE"]
