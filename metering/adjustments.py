"""Corrections of the ledger: void, amend and backfill. Each is a new row with actor, reason and source; no row is ever changed.

An adjustment moves with the usage hour, month, quota and windows in one transaction, so ledger = rollup = quota holds at every
commit. `planned_*` says what would happen and writes nothing; `apply` does it, once for each id.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction

from tenants import audit
from tenants.models import ApiKey, Tenant

from . import periods, rebuild
from .models import MAX_CALLS, Adjustment, AdjustmentKind, Allowance, Call, Outcome, SetAside

CLOCK_LEEWAY = timedelta(minutes=1)
ID_TIME_MARGIN = timedelta(milliseconds=5)


class CannotAdjust(Exception):
    """The correction makes no sense; the message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a correction adds to the ledger. `calls` and `units` are signed."""

    kind: AdjustmentKind
    tenant_id: UUID
    call_id: UUID | None
    occurred_at: datetime
    period_start: datetime
    project_id: int
    key_id: int
    capability: str
    calls: int
    units: int


@dataclass(frozen=True, slots=True)
class Effect:
    """A period's billed units before and after a correction."""

    change: Change
    period: periods.Period
    is_closed: bool
    before: int
    after: int


def planned_void(*, tenant: Tenant, call_id: UUID) -> Change:
    """The call is not billed after all; raises CannotAdjust."""
    call, units = _billable(tenant, call_id)
    return _of_call(AdjustmentKind.VOID, call, calls=-1, units=-units)


def planned_amend(*, tenant: Tenant, call_id: UUID, units: int) -> Change:
    """The call costs this many units; raises CannotAdjust."""
    call, present = _billable(tenant, call_id)
    if not 0 <= units <= MAX_CALLS:
        raise CannotAdjust(f"A call costs 0 to {MAX_CALLS:,} units, not {units:,}.")
    if units == present:
        raise CannotAdjust(f"The call costs {present:,} units already.")
    return _of_call(AdjustmentKind.AMEND, call, calls=0, units=units - present)


def planned_backfill(
    *, tenant: Tenant, key: ApiKey, capability: str, occurred_at: datetime, calls: int, now: datetime,
    units: int | None = None,
) -> Change:  # fmt: skip
    """Calls that were served and not recorded are billed, at one unit each unless `units` says otherwise; raises CannotAdjust."""
    units = calls if units is None else units
    if not 1 <= calls <= MAX_CALLS or not 0 <= units <= MAX_CALLS:
        raise CannotAdjust(f"A backfill adds 1 to {MAX_CALLS:,} calls and 0 to {MAX_CALLS:,} units.")
    if occurred_at > now + CLOCK_LEEWAY:
        raise CannotAdjust("Calls of the future cannot be backfilled.")
    if key.tenant_id != tenant.id:
        raise CannotAdjust(f"The key does not belong to {tenant}.")
    period = _period(tenant, occurred_at)
    return Change(
        AdjustmentKind.BACKFILL, tenant.id, None, occurred_at, period.start, key.project_id, key.id, capability, calls, units,
    )  # fmt: skip


def effect(change: Change, *, now: datetime) -> Effect:
    """The dry run in units: what the change does to its period. Its price is billing's to say."""
    start, end, used = _quota(change.tenant_id, change.occurred_at)
    return Effect(change, periods.Period(start, end), end <= now, used, used + change.units)


INSERT = """
INSERT INTO metering_adjustment (tenant_id, id, kind, call_id, occurred_at, period_start, project_id, api_key_id, capability, calls,
                                 units, actor, reason, source)
VALUES (%(tenant)s, %(id)s, %(kind)s, %(call)s, %(at)s, %(period)s, %(project)s, %(key)s, %(capability)s, %(calls)s, %(units)s,
        %(actor)s, %(reason)s, %(source)s)
ON CONFLICT (tenant_id, id) DO NOTHING
"""
HOUR = """
INSERT INTO metering_usage_hour AS h (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units)
VALUES (%(tenant)s, date_trunc('hour', %(at)s::timestamptz, 'UTC'), %(period)s, %(project)s, %(key)s, %(capability)s, %(calls)s,
        %(units)s)
ON CONFLICT (tenant_id, hour, period_start, project_id, api_key_id, capability) DO UPDATE SET
    billable = h.billable + EXCLUDED.billable, units = h.units + EXCLUDED.units
"""


def apply(
    change: Change, *, actor: str, reason: str, source: str = "", adjustment_id: UUID | None = None
) -> Adjustment:
    """The change is in the ledger, its rollups and the quota, and on record; the same id again changes nothing."""
    if not reason.strip():
        raise CannotAdjust("Say why: a correction needs a reason.")
    adjustment_id = adjustment_id or uuid.uuid4()
    with transaction.atomic():
        tenant = Tenant.objects.get(pk=change.tenant_id)
        rebuild.lock(tenant.id)
        if not Adjustment.objects.filter(tenant_id=tenant.id, id=adjustment_id).exists():
            _insert(_rechecked(tenant, change), adjustment_id, tenant, (actor, reason.strip(), source))
    return Adjustment.objects.get(tenant_id=tenant.id, id=adjustment_id)


def _insert(change: Change, adjustment_id: UUID, tenant: Tenant, why: tuple[str, str, str]) -> None:
    actor, reason, source = why
    parameters: dict[str, Any] = {
        "tenant": tenant.id, "id": adjustment_id, "kind": change.kind, "call": change.call_id, "at": change.occurred_at,
        "period": change.period_start, "project": change.project_id, "key": change.key_id, "capability": change.capability,
        "calls": change.calls, "units": change.units, "actor": actor[:254], "reason": reason, "source": source[:200],
    }  # fmt: skip
    with connection.cursor() as cursor:
        try:
            with transaction.atomic():
                cursor.execute(INSERT, parameters)
        except IntegrityError as error:
            raise CannotAdjust(str(error).splitlines()[0]) from error
        cursor.execute(HOUR, parameters)
        rebuild.add_to_totals(
            cursor, tenant_id=tenant.id, hour=periods.hour_of(change.occurred_at.astimezone(UTC)),
            period_start=change.period_start, project_id=change.project_id, key_id=change.key_id,
            billable=change.calls, units=change.units,
        )  # fmt: skip
    audit.record(
        tenant=tenant, actor=actor, action=f"ledger.{change.kind}", subject=change.call_id or adjustment_id,
        calls=change.calls, units=change.units, reason=reason, source=source,
    )  # fmt: skip


def _rechecked(tenant: Tenant, change: Change) -> Change:
    """The change as it is true now, under the lock: the call may have been corrected, or its period's boundary moved."""
    if change.call_id is None:
        return replace(change, period_start=_period(tenant, change.occurred_at).start)
    call, present = _billable(tenant, change.call_id)
    change = replace(change, period_start=call.period_start)
    if change.kind == AdjustmentKind.VOID:
        return replace(change, units=-present)
    if present + change.units < 0:
        raise CannotAdjust(f"The call costs {present:,} units now; {-change.units:,} cannot be taken away.")
    return change


def from_set_aside(*, set_aside: SetAside, actor: str, reason: str, now: datetime) -> list[Adjustment]:
    """The billable calls that the ledger could not take are backfilled, and nothing is set aside any more; raises CannotAdjust."""
    with transaction.atomic():
        tenant = Tenant.objects.get(pk=set_aside.tenant_id)
        made = [
            apply(
                planned_backfill(
                    tenant=tenant, key=_key(tenant, record), capability=record["capability"], calls=int(record["calls"]),
                    units=int(record["units"]), occurred_at=datetime.fromtimestamp(float(record["occurred_at"]), UTC), now=now,
                ),
                actor=actor, reason=reason, source=f"set aside {set_aside.id}",
                adjustment_id=uuid.uuid5(set_aside.id, str(number)),
            )
            for number, record in enumerate(set_aside.records) if record["outcome"] == Outcome.BILLABLE
        ]  # fmt: skip
        SetAside.objects.filter(pk=set_aside.pk).delete()
    return made


def of_period(*, tenant_id: UUID, period_start: datetime) -> Iterable[Adjustment]:
    """The corrections of a period, oldest first."""
    return Adjustment.objects.filter(tenant_id=tenant_id, period_start=period_start).order_by("created_at", "id")


def call_of(*, tenant: Tenant, call_id: UUID) -> Call | None:
    """The recorded call of this tenant; its id begins with its time, so one day of the log is read."""
    calls = Call.objects.filter(tenant=tenant, id=call_id)
    if call_id.version == 7:  # noqa: PLR2004
        at = datetime.fromtimestamp((call_id.int >> 80) / 1000, UTC)
        calls = calls.filter(occurred_at__gte=at - ID_TIME_MARGIN, occurred_at__lte=at + ID_TIME_MARGIN)
    return calls.first()


def _billable(tenant: Tenant, call_id: UUID) -> tuple[Call, int]:
    """The call and what it costs after the corrections it has; raises CannotAdjust unless it is billed."""
    call = call_of(tenant=tenant, call_id=call_id)
    if call is None:
        raise CannotAdjust(f"{tenant} has no call {call_id} in the call log.")
    if call.outcome != Outcome.BILLABLE:
        raise CannotAdjust(f"The call was {call.get_outcome_display().lower()}: there is nothing to correct.")
    earlier = list(Adjustment.objects.filter(tenant=tenant, call_id=call_id))
    if any(adjustment.kind == AdjustmentKind.VOID for adjustment in earlier):
        raise CannotAdjust("The call is voided already.")
    return call, call.units + sum(adjustment.units for adjustment in earlier)


def _of_call(kind: AdjustmentKind, call: Call, *, calls: int, units: int) -> Change:
    return Change(
        kind, call.tenant_id, call.id, call.occurred_at, call.period_start, call.project_id, call.api_key_id, call.capability,
        calls, units,
    )  # fmt: skip


def _key(tenant: Tenant, record: dict[str, Any]) -> ApiKey:
    key = ApiKey.objects.filter(tenant=tenant, id=int(record["key_id"])).first()
    if key is None:
        raise CannotAdjust(f"{tenant} has no key {record['key_id']}.")
    return key


def _period(tenant: Tenant, instant: datetime) -> periods.Period:
    """The tenant's period that holds the instant; opened when it was not yet."""
    start, end, _ = _quota(tenant.id, instant)
    return periods.Period(start, end)


QUOTA = """
SELECT period_start, period_end, used FROM metering_quota WHERE tenant_id = %s AND period_start <= %s AND period_end > %s
"""


def _quota(tenant_id: UUID, instant: datetime) -> tuple[datetime, datetime, int]:
    with connection.cursor() as cursor:
        cursor.execute(QUOTA, [tenant_id, instant, instant])
        row: Any = cursor.fetchone()
        if row is None:
            allowance = Allowance.objects.filter(pk=tenant_id).first()
            if allowance is None:
                raise CannotAdjust("The tenant has no plan, so no period.")
            predicted = periods.containing(allowance.anchor, instant)
            cursor.execute(
                "SELECT metering_open_period(%s, %s, %s, %s)", [tenant_id, predicted.start, predicted.end, instant]
            )
            cursor.execute(QUOTA, [tenant_id, instant, instant])
            row = cursor.fetchone()
    return row  # type: ignore[no-any-return]
