"""Limits that customers set below their allowance: a daily cap, and what one project or one key may use in a period.

They are enforced by the same leases as the quota (`leases.py`), everywhere within a second after they were set.
"""

from dataclasses import dataclass
from datetime import datetime

from django.db import connection, transaction
from django.db.models.functions import Now

from tenants import audit
from tenants.models import ApiKey, Project, Tenant

from . import periods
from .models import MAX_CALLS, Allowance, LimitKind, SubLimit


class UnusableLimit(Exception):
    """The limit names nothing of this tenant, or is no number of calls."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A limit and what is used of it in its running day or period."""

    limit: SubLimit
    used: int


USED = """
SELECT coalesce(sum(units), 0)::bigint FROM metering_usage_hour
WHERE tenant_id = %(tenant)s AND hour >= %(hour)s AND CASE %(kind)s
    WHEN 'day' THEN true
    WHEN 'project' THEN period_start = %(period)s AND project_id = %(subject)s
    ELSE period_start = %(period)s AND api_key_id = %(subject)s END
"""


def standings(*, tenant: Tenant, period: periods.Period, now: datetime) -> list[Standing]:
    """The tenant's limits with what is used of each, as recorded until now."""
    found = []
    for limit in SubLimit.objects.filter(tenant=tenant):
        hour = periods.day_of(now) if limit.kind == LimitKind.DAY else periods.hour_of(period.start)
        with connection.cursor() as cursor:
            cursor.execute(
                USED,
                {
                    "tenant": tenant.id, "hour": hour, "kind": limit.kind, "period": period.start, "subject": limit.subject_id,
                },
            )  # fmt: skip
            found.append(Standing(limit, cursor.fetchone()[0]))
    return found


def put(*, tenant: Tenant, kind: LimitKind, calls: int, actor: str, subject_id: int = 0) -> SubLimit:
    """The tenant's daily cap, or the limit of this project or key of its own, is `calls` units; raises UnusableLimit.

    A limit below what is used already admits nothing more in the running day or period; nothing recorded changes.
    """
    if not 0 <= calls <= MAX_CALLS:
        raise UnusableLimit(f"A limit is a number of calls from 0 to {MAX_CALLS:,}.")
    _check_subject(tenant, kind, subject_id)
    with transaction.atomic():
        before = _calls(tenant, kind, subject_id)
        limit, _ = SubLimit.objects.update_or_create(
            tenant=tenant, kind=kind, subject_id=subject_id, defaults={"calls": calls, "set_at": Now()}
        )
        _announce(tenant)
        audit.record(
            tenant=tenant, actor=actor, action="limit.set", subject=_name(kind, subject_id), calls=calls, before=before
        )
    return limit


def remove(*, tenant: Tenant, kind: LimitKind, actor: str, subject_id: int = 0) -> bool:
    """There is no such limit; False when there was none."""
    with transaction.atomic():
        before = _calls(tenant, kind, subject_id)
        removed, _ = SubLimit.objects.filter(tenant=tenant, kind=kind, subject_id=subject_id).delete()
        if removed:
            _announce(tenant)
            audit.record(
                tenant=tenant, actor=actor, action="limit.removed", subject=_name(kind, subject_id), before=before
            )
    return bool(removed)


def _check_subject(tenant: Tenant, kind: LimitKind, subject_id: int) -> None:
    owned = {
        LimitKind.DAY: lambda: subject_id == 0,
        LimitKind.PROJECT: lambda: Project.objects.filter(tenant=tenant, id=subject_id).exists(),
        LimitKind.KEY: lambda: ApiKey.objects.filter(tenant=tenant, id=subject_id).exists(),
    }
    if not owned[kind]():
        raise UnusableLimit(f"{tenant} has no such {kind.value}.")


def _calls(tenant: Tenant, kind: LimitKind, subject_id: int) -> int | None:
    found = SubLimit.objects.select_for_update().filter(tenant=tenant, kind=kind, subject_id=subject_id)
    return found.values_list("calls", flat=True).first()


def _announce(tenant: Tenant) -> None:
    """Processes that hold leases ask again within a second. By database time, which is what they compare it with."""
    Allowance.objects.filter(tenant=tenant).update(changed_at=Now())


def _name(kind: LimitKind, subject_id: int) -> str:
    return kind.value if kind == LimitKind.DAY else f"{kind.value} {subject_id}"
