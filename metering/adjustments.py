"""Corrections of the ledger: void, amend and backfill. Each is a new row with actor, reason and source; no row is ever changed.

An adjustment moves with the usage hour, month, quota and windows in one transaction, so ledger = rollup = quota holds at every
commit. `planned_*` says what would be added and `effects` what that does; both write nothing. `apply` does it, once for each id.
A closed period is corrected like a running one; what that means for an invoice is billing's to say, from the same rows.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.db.models import QuerySet

from tenants import audit
from tenants.models import ApiKey, Tenant

from . import allowances, periods, rebuild, usage
from .calls import CAPABILITY
from .models import MAX_CALLS, Adjustment, AdjustmentKind, Allowance, Call, Outcome, SetAside

CLOCK_LEEWAY = timedelta(minutes=1)
FURTHEST_BACK = timedelta(days=400)  # what pages and API look back on; an older time is a slip of the pen
ID_TIME_MARGIN = timedelta(milliseconds=5)


class CannotAdjust(Exception):
    """The correction makes no sense; the message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a correction adds to the ledger. `calls` and `units` are signed; `cost` is the units of its call before it."""

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
    cost: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """A period's billable calls and billed units before corrections, and what these add."""

    period: periods.Period
    is_closed: bool
    calls_before: int
    before: int
    calls: int
    units: int

    @property
    def calls_after(self) -> int:
        return self.calls_before + self.calls

    @property
    def after(self) -> int:
        return self.before + self.units


def planned_void(*, tenant: Tenant, call_id: UUID) -> Change:
    """The call is not billed after all; raises CannotAdjust."""
    call, units = _billable(tenant, call_id)
    return _of_call(AdjustmentKind.VOID, call, calls=-1, units=-units, cost=units)


def planned_amend(*, tenant: Tenant, call_id: UUID, units: int) -> Change:
    """The call costs this many units; raises CannotAdjust."""
    call, present = _billable(tenant, call_id)
    if not 0 <= units <= MAX_CALLS:
        raise CannotAdjust(f"A call costs 0 to {MAX_CALLS:,} units, not {units:,}.")
    if units == present:
        raise CannotAdjust(f"The call costs {present:,} units already.")
    return _of_call(AdjustmentKind.AMEND, call, calls=0, units=units - present, cost=present)


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
    if occurred_at < now - FURTHEST_BACK:
        raise CannotAdjust(f"A backfill reaches back {FURTHEST_BACK.days} days at most.")
    if not CAPABILITY.fullmatch(capability):
        raise CannotAdjust(f"A capability is at most 60 characters a-z, 0-9, '_', '.', '-'; got {capability!r}.")
    if key.tenant_id != tenant.id:
        raise CannotAdjust(f"The key does not belong to {tenant}.")
    period = _period(tenant.id, occurred_at)
    return Change(
        AdjustmentKind.BACKFILL, tenant.id, None, occurred_at, period.start, key.project_id, key.id, capability, calls, units,
    )  # fmt: skip


def planned_from_set_aside(*, tenant: Tenant, set_aside: SetAside, now: datetime) -> list[Change]:
    """The billable calls that the ledger could not take are billed after all, in their order; raises CannotAdjust."""
    return [
        planned_backfill(
            tenant=tenant, key=_key(tenant, record), capability=record["capability"], calls=int(record["calls"]),
            units=int(record["units"]), occurred_at=datetime.fromtimestamp(float(record["occurred_at"]), UTC), now=now,
        )
        for record in set_aside.records if record["outcome"] == Outcome.BILLABLE
    ]  # fmt: skip


def effect(change: Change, *, now: datetime) -> Effect:
    """The dry run of one correction in calls and units. Its price is billing's to say."""
    return effects([change], now=now)[0]


def effects(changes: Iterable[Change], *, now: datetime) -> list[Effect]:
    """The dry run of corrections of one tenant in calls and units: what they do to each period, the oldest first."""
    found: dict[periods.Period, Effect] = {}
    for change in changes:
        period = _period(change.tenant_id, change.occurred_at)
        known = found.get(period) or _untouched(change.tenant_id, period, now)
        found[period] = replace(known, calls=known.calls + change.calls, units=known.units + change.units)
    return [found[period] for period in sorted(found)]


def _untouched(tenant_id: UUID, period: periods.Period, now: datetime) -> Effect:
    used = sum(usage.by_period(tenant_id=tenant_id, wanted=[period])[period].values(), usage.Counts())
    return Effect(period, period.end <= now, used.billable, used.units, calls=0, units=0)


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
    _check_reason(reason)
    adjustment_id = adjustment_id or uuid.uuid4()
    with transaction.atomic():
        tenant = Tenant.objects.get(pk=change.tenant_id)
        allowances.open_period(allowance=_allowance(tenant.id), instant=change.occurred_at)
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
    """The change as it is true now, under the lock: its period's boundary may have moved. Raises CannotAdjust."""
    if change.call_id is not None:
        _, present = _billable(tenant, change.call_id)
        if present != change.cost:
            raise CannotAdjust(f"The call was corrected meanwhile: it costs {present:,} units now. Look again.")
    return replace(change, period_start=_period(tenant.id, change.occurred_at).start)


def from_set_aside(changes: Sequence[Change], *, set_aside: SetAside, actor: str, reason: str) -> list[Adjustment]:
    """The planned changes are in the ledger and the batch is not set aside any more, all or nothing; raises CannotAdjust."""
    with transaction.atomic():
        _remove(set_aside, actor, reason, backfilled=len(changes))
        return [
            apply(
                change, actor=actor, reason=reason, source=f"set aside {set_aside.id}",
                adjustment_id=uuid.uuid5(set_aside.id, str(number)),
            )
            for number, change in enumerate(changes)
        ]  # fmt: skip


def dismiss(*, set_aside: SetAside, actor: str, reason: str) -> None:
    """The batch is not billed and not set aside any more; its records stay in the audit log. Raises CannotAdjust."""
    with transaction.atomic():
        _remove(set_aside, actor, reason, backfilled=0)


def _remove(set_aside: SetAside, actor: str, reason: str, *, backfilled: int) -> None:
    """Nothing is set aside under this id, and what was is on record. Whoever comes second raises CannotAdjust."""
    _check_reason(reason)
    removed, _ = SetAside.objects.filter(pk=set_aside.pk).delete()
    if not removed:
        raise CannotAdjust(f"Nothing is set aside under {set_aside.pk} any more.")
    audit.record(
        tenant=Tenant.objects.filter(pk=set_aside.tenant_id).first(), actor=actor, action="ledger.set_aside_settled",
        subject=set_aside.pk, calls=set_aside.calls, backfilled=backfilled, error=set_aside.error,
        records=set_aside.records, reason=reason,
    )  # fmt: skip


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise CannotAdjust("Say why: a correction needs a reason.")


def of_period(*, tenant_id: UUID, period_start: datetime) -> Iterable[Adjustment]:
    """The corrections of a period, oldest first."""
    return Adjustment.objects.filter(tenant_id=tenant_id, period_start=period_start).order_by("created_at", "id")


def call_of(*, tenant: Tenant, call_id: UUID) -> Call | None:
    """The recorded call of this tenant."""
    return by_call_id(Call.objects.filter(tenant=tenant), call_id).first()


def by_call_id(calls: QuerySet[Call], call_id: UUID) -> QuerySet[Call]:
    """The call with this id: a version 7 UUID begins with the call's time, so one partition is read."""
    if call_id.version == 7:  # noqa: PLR2004
        at = datetime.fromtimestamp((call_id.int >> 80) / 1000, UTC)
        calls = calls.filter(occurred_at__gte=at - ID_TIME_MARGIN, occurred_at__lte=at + ID_TIME_MARGIN)
    return calls.filter(id=call_id)


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


def _of_call(kind: AdjustmentKind, call: Call, *, calls: int, units: int, cost: int) -> Change:
    return Change(
        kind, call.tenant_id, call.id, call.occurred_at, _period(call.tenant_id, call.occurred_at).start, call.project_id,
        call.api_key_id, call.capability, calls, units, cost,
    )  # fmt: skip


def _key(tenant: Tenant, record: dict[str, Any]) -> ApiKey:
    key = ApiKey.objects.filter(tenant=tenant, id=int(record["key_id"])).first()
    if key is None:
        raise CannotAdjust(f"{tenant} has no key {record['key_id']}.")
    return key


def _allowance(tenant_id: UUID) -> Allowance:
    allowance = Allowance.objects.filter(pk=tenant_id).first()
    if allowance is None:
        raise CannotAdjust("The tenant has no plan, so no period.")
    return allowance


def _period(tenant_id: UUID, instant: datetime) -> periods.Period:
    """The tenant's period that holds the instant; as the anchor predicts where none is known."""
    return usage.current_period(allowance=_allowance(tenant_id), now=instant)
