"""Units of dead processes come back: when a grant finds too few (`metering_grant` reclaims by itself), and for all tenants once
a minute.

A process is dead when its registration has expired or is gone. Reclaiming subtracts from `reserved` only what its own DELETE
removed (`metering_reclaim`, migration 0003).
"""

from datetime import datetime
from uuid import UUID

from django.conf import settings

from .database import Connection

DEAD = """
SELECT DISTINCT l.tenant_id, l.period_start FROM metering_lease l
WHERE l.granted_at < clock_timestamp() - make_interval(secs => %(lease_seconds)s)
  AND NOT EXISTS (SELECT FROM metering_process p WHERE p.id = l.process_id AND p.expires_at > clock_timestamp())
ORDER BY 1, 2
"""


def reclaim(connection: Connection, *, tenant_id: UUID, period_start: datetime) -> bool:
    """No dead process holds units of this quota; False if none did."""
    parameters = (tenant_id, period_start, settings.METERING["LEASE_SECONDS"])
    row = connection.execute("SELECT metering_reclaim(%s, %s, %s)", parameters).fetchone()
    return bool(row and row[0])


def reclaim_everywhere(connection: Connection) -> int:
    """No dead process holds units of any quota, closed periods included; returns how many quotas got units back."""
    rows = connection.execute(DEAD, {"lease_seconds": settings.METERING["LEASE_SECONDS"]}).fetchall()
    return sum(reclaim(connection, tenant_id=tenant_id, period_start=start) for tenant_id, start in rows)
