"""What the database says about a tenant, read past the product's own code: the checks an accountant would make."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection


@dataclass(frozen=True)
class Books:
    """Sums over all periods of a tenant."""

    used: int
    reserved: int
    leased: int
    quota_failed: int
    quota_refused: int
    logged: dict[str, int]
    logged_units: int
    rolled_up: dict[str, int]
    rolled_up_units: int

    def assert_balanced(self) -> None:
        """Ledger = rollup = quota, and reserved = leases."""
        assert self.logged == self.rolled_up
        assert self.logged_units == self.rolled_up_units == self.used
        assert self.quota_failed == self.rolled_up["failed"]
        assert self.quota_refused == self.rolled_up["refused"]
        assert self.reserved == self.leased


def _row(sql: str, tenant_id: UUID) -> tuple[Any, ...]:
    with connection.cursor() as cursor:
        cursor.execute(sql, [tenant_id])
        row: tuple[Any, ...] = cursor.fetchone()
    return row


def books(tenant_id: UUID) -> Books:
    used, reserved, failed, refused = _row(
        "SELECT coalesce(sum(used),0), coalesce(sum(reserved),0), coalesce(sum(failed),0), coalesce(sum(refused),0) "
        "FROM metering_quota WHERE tenant_id = %s",
        tenant_id,
    )
    (leased,) = _row("SELECT coalesce(sum(units), 0) FROM metering_lease WHERE tenant_id = %s", tenant_id)
    *logged, logged_units = _row(
        "SELECT coalesce(sum(calls) FILTER (WHERE outcome = 'billable'), 0), "
        "coalesce(sum(calls) FILTER (WHERE outcome = 'failed'), 0), "
        "coalesce(sum(calls) FILTER (WHERE outcome = 'refused'), 0), coalesce(sum(units), 0) "
        "FROM metering_call WHERE tenant_id = %s",
        tenant_id,
    )
    *rolled, rolled_units = _row(
        "SELECT coalesce(sum(billable),0), coalesce(sum(failed),0), coalesce(sum(refused),0), coalesce(sum(units),0) "
        "FROM metering_usage_hour WHERE tenant_id = %s",
        tenant_id,
    )
    names = ("billable", "failed", "refused")
    return Books(
        int(used), int(reserved), int(leased), int(failed), int(refused),
        dict(zip(names, map(int, logged), strict=True)), int(logged_units),
        dict(zip(names, map(int, rolled), strict=True)), int(rolled_units),
    )  # fmt: skip
