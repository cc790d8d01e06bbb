"""Units of dead processes come back: when a call needs them, and for all tenants once a minute.

A process is dead when its registration has expired or is gone. A database that has just come back gives everybody one
lease time to renew first. Reclaiming subtracts from `reserved` only what its own DELETE removed.
"""

from datetime import datetime
from uuid import UUID

from django.conf import settings

from .database import Connection

IS_DEAD = """
    l.granted_at < clock_timestamp() - make_interval(secs => %(lease_seconds)s)
    AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => %(lease_seconds)s)
    AND NOT EXISTS (SELECT FROM metering_process p WHERE p.id = l.process_id AND p.expires_at > clock_timestamp())
"""
LOCK = "SELECT 1 FROM metering_quota WHERE tenant_id = %(tenant)s AND period_start = %(start)s FOR UPDATE"
RECLAIM = f"""
WITH dead AS (
    DELETE FROM metering_lease l WHERE l.tenant_id = %(tenant)s AND l.period_start = %(start)s AND {IS_DEAD}
    RETURNING units
)
UPDATE metering_quota SET reserved = reserved - (SELECT sum(units) FROM dead)
WHERE tenant_id = %(tenant)s AND period_start = %(start)s AND EXISTS (SELECT FROM dead)
"""
DEAD = f"SELECT DISTINCT l.tenant_id, l.period_start FROM metering_lease l WHERE {IS_DEAD} ORDER BY 1, 2"


def reclaim(connection: Connection, *, tenant_id: UUID, period_start: datetime) -> bool:
    """No dead process holds units of this quota; False if none did."""
    parameters = {"tenant": tenant_id, "start": period_start, "lease_seconds": settings.METERING["LEASE_SECONDS"]}
    with connection.transaction():
        connection.execute(LOCK, parameters)  # before the leases: the order in which flushes lock
        reclaimed: int = connection.execute(RECLAIM, parameters).rowcount
    return reclaimed > 0


def reclaim_everywhere(connection: Connection) -> int:
    """No dead process holds units of any quota, closed periods included; returns how many quotas got units back."""
    rows = connection.execute(DEAD, {"lease_seconds": settings.METERING["LEASE_SECONDS"]}).fetchall()
    return sum(reclaim(connection, tenant_id=tenant_id, period_start=start) for tenant_id, start in rows)
