"""Alerts: they tell, and stop nothing. Those on calls and amounts are fired by the commit that crosses them (migration 0009).

What counts is the period, from its start, whenever the alert was set: one that is reached already fires at once. Each threshold
fires once in a period. Moved by a change of plan or price above what is used, it is armed again; lowered, it is not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction

from tenants import audit
from tenants.models import Tenant

from . import rebuild
from .models import MAX_CALLS, Alert, AlertKind, Crossing

DEFAULT_PERCENTS = (50, 75, 90, 100)
MOST_ALERTS = 30
CallsFor = Callable[[int, str], int | None]  # an amount in minor units and its currency -> calls


class UnusableAlert(Exception):
    """The alert cannot be set; the message says why."""


def key_of(alert: Alert) -> str:
    """What names the alert's threshold: two alerts with the same one would tell the same."""
    if alert.kind == AlertKind.SHARE:
        return f"{alert.kind}:{alert.percent}"
    return f"{alert.kind}:{alert.amount_minor}:{alert.currency}"


def put_defaults(*, tenant_id: UUID) -> None:
    """A new tenant is told at these shares of its included calls. Before its first period is opened."""
    alerts = [Alert(tenant_id=tenant_id, kind=AlertKind.SHARE, percent=percent) for percent in DEFAULT_PERCENTS]
    for alert in alerts:
        alert.key = key_of(alert)
    Alert.objects.bulk_create(alerts, ignore_conflicts=True)


def put(*, tenant: Tenant, alert: Alert, actor: str, now: datetime) -> bool:
    """The tenant has this alert, armed in its running period; False when it had it already. Raises UnusableAlert."""
    alert.tenant, alert.key = tenant, key_of(alert)
    alert.full_clean(validate_unique=False, validate_constraints=False)
    with transaction.atomic():
        rebuild.lock(tenant.pk)  # whoever flushes waits, and finds the threshold
        known = Alert.objects.filter(tenant=tenant)
        if known.filter(key=alert.key).exists():
            return False
        if known.count() >= MOST_ALERTS:
            raise UnusableAlert(f"A tenant has at most {MOST_ALERTS} alerts: remove one first.")
        alert.save(force_insert=True)
        audit.record(tenant=tenant, actor=actor, action="alert.set", subject=alert.key)
        arm(tenant_id=tenant.pk, now=now)
    return True


def remove(*, tenant: Tenant, alert_id: int, actor: str, now: datetime) -> bool:
    """The alert is gone; what it told stays in the history. False when there is none."""
    with transaction.atomic():
        rebuild.lock(tenant.pk)
        alert = Alert.objects.filter(tenant=tenant, pk=alert_id).first()
        if alert is None:
            return False
        alert.delete()
        audit.record(tenant=tenant, actor=actor, action="alert.removed", subject=alert.key)
        arm(tenant_id=tenant.pk, now=now)
    return True


def price(*, tenant_id: UUID, calls_for: CallsFor, now: datetime) -> None:
    """Each alert on an amount knows the calls that cost it, and the running and coming periods are armed with them.

    In the transaction of what changed plan, currency or price.
    """
    with transaction.atomic():
        rebuild.lock(tenant_id)
        changed = False
        for alert in Alert.objects.filter(tenant_id=tenant_id, kind=AlertKind.AMOUNT):
            calls = calls_for(alert.amount_minor or 0, alert.currency)
            calls = calls if calls is None or calls <= MAX_CALLS else None
            if calls != alert.calls:
                changed = True
                Alert.objects.filter(pk=alert.pk).update(calls=calls)
        if changed:
            arm(tenant_id=tenant_id, now=now)


ARM = """
SELECT metering_arm(tenant_id, period_start) FROM metering_quota WHERE tenant_id = %s AND period_end > %s ORDER BY period_start
"""


def arm(*, tenant_id: UUID, now: datetime) -> None:
    """The thresholds of the running and coming periods are those of the alerts; under the tenant's lock."""
    with connection.cursor() as cursor:
        cursor.execute(ARM, [tenant_id, now])


PROJECTED = """
INSERT INTO metering_crossing (tenant_id, period_start, period_end, key, kind, amount_minor, currency, units, used, included)
SELECT q.tenant_id, q.period_start, q.period_end, a.key, a.kind, a.amount_minor, a.currency, 0, q.used, q.included
FROM metering_quota q JOIN metering_alert a ON a.tenant_id = q.tenant_id AND a.key = %(key)s
WHERE q.tenant_id = %(tenant)s AND q.period_start = %(start)s
ON CONFLICT (tenant_id, period_start, key, units) DO NOTHING
"""


def fire_projected(*, alert: Alert, period_start: datetime) -> bool:
    """The alert on a projection has fired in this period; False when it had, or when it is gone."""
    with connection.cursor() as cursor:
        cursor.execute(PROJECTED, {"tenant": alert.tenant_id, "key": alert.key, "start": period_start})
        return bool(cursor.rowcount)


def recent(*, tenant_id: UUID, limit: int = 5) -> list[Crossing]:
    """What fired last, the newest first."""
    return list(Crossing.objects.filter(tenant_id=tenant_id)[:limit])


def fired_within(*, tenant_id: UUID, span: timedelta, now: datetime) -> int:
    """How many have fired so recently."""
    return Crossing.objects.filter(tenant_id=tenant_id, crossed_at__gt=now - span).count()


@dataclass(frozen=True, slots=True)
class Armed:
    """An alert of the running period: at how many calls it fires (None: at no number of them), and whether it has."""

    alert: Alert
    units: int | None
    has_fired: bool


ARMED = """
SELECT a.*, t.units AS threshold_units, coalesce(t.fired, false) AS threshold_fired
FROM metering_alert a
LEFT JOIN metering_quota q ON q.tenant_id = a.tenant_id AND q.period_start <= %(now)s AND q.period_end > %(now)s
LEFT JOIN metering_threshold t ON t.tenant_id = a.tenant_id AND t.period_start = q.period_start AND t.key = a.key
WHERE a.tenant_id = %(tenant)s ORDER BY a.kind, a.percent, a.amount_minor
"""


def armed(*, tenant_id: UUID, now: datetime) -> list[Armed]:
    """The tenant's alerts with the running period's thresholds."""
    found = Alert.objects.raw(ARMED, {"tenant": tenant_id, "now": now})
    return [Armed(one, vars(one)["threshold_units"], vars(one)["threshold_fired"]) for one in found]


def untold(*, limit: int) -> Iterable[Crossing]:
    """Crossings whose mail has not been written, the oldest first, each for one worker only. In a transaction."""
    found = Crossing.objects.filter(told_at=None).order_by("crossed_at")
    return found.select_for_update(skip_locked=True)[:limit]
