"""Partitions of the call log (by day) and of the usage hours (by month): made ahead, dropped after retention."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import OperationalError, connection, transaction

from . import periods

logger = logging.getLogger(__name__)
DAYS_AHEAD = 3
MONTHS_AHEAD = 2
DROP_WAIT_MS = 300


@dataclass(frozen=True, slots=True)
class Partition:
    parent: str
    column: str
    start: datetime
    end: datetime

    @property
    def name(self) -> str:
        by_day = (self.end - self.start) <= timedelta(days=1)
        return f"{self.parent}_{self.start:{'%Y%m%d' if by_day else '%Y%m'}}"


def of_days(start: datetime, end: datetime) -> Iterator[Partition]:
    """The call log's partitions for the days that [start, end) touches."""
    for day in periods.days(periods.Period(periods.day_of(start), end)):
        yield Partition("metering_call", "occurred_at", day, day + timedelta(days=1))


def of_months(start: datetime, end: datetime) -> Iterator[Partition]:
    """The rollup's partitions for the months that [start, end) touches."""
    month = periods.month_of(start)
    while month < end:
        following = periods.months_after(month, 1)
        yield Partition("metering_usage_hour", "hour", month, following)
        month = following


def ensure(*, calls_from: datetime, hours_from: datetime, now: datetime) -> list[str]:
    """Every partition from these instants to a few days and months ahead exists; returns the names of new ones."""
    wanted = [
        *of_days(calls_from, now + timedelta(days=DAYS_AHEAD)),
        *of_months(hours_from, periods.months_after(periods.month_of(now), MONTHS_AHEAD + 1)),
    ]
    existing = set(names("metering_call")) | set(names("metering_usage_hour"))
    made = [partition for partition in wanted if partition.name not in existing]
    for partition in made:
        _make(partition)
    return [partition.name for partition in made]


def _make(partition: Partition) -> None:
    """The partition exists and holds its rows, those that had landed in the default partition included."""
    bounds = {"start": partition.start, "end": partition.end}
    inside = f"{partition.column} >= %(start)s AND {partition.column} < %(end)s"
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('metering partitions'))")
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [partition.name])
        if cursor.fetchone() == (True,):
            return
        cursor.execute("SET LOCAL meterhouse.moving_rows = 'on'")
        cursor.execute(f"CREATE TABLE {partition.name} (LIKE {partition.parent} INCLUDING DEFAULTS)")
        cursor.execute(
            f"WITH moved AS (DELETE FROM {partition.parent}_default WHERE {inside} RETURNING *) "
            f"INSERT INTO {partition.name} SELECT * FROM moved",
            bounds,
        )
        cursor.execute(
            f"ALTER TABLE {partition.parent} ATTACH PARTITION {partition.name} FOR VALUES "
            f"FROM ('{partition.start.isoformat()}') TO ('{partition.end.isoformat()}')"
        )


def drop_old_days(*, keep_from: datetime) -> list[str]:
    """No partition of the call log ends at or before `keep_from`, but for those in use; returns the names of the dropped ones.

    Dropping waits for whoever uses that day, and the whole log waits behind it: so it gives up soon, until the next time.
    """
    dropped = []
    for name in names("metering_call"):
        suffix = name.rpartition("_")[2]
        if suffix.isdigit() and suffix < f"{keep_from:%Y%m%d}" and _is_dropped(name):
            dropped.append(name)
    return dropped


def _is_dropped(name: str) -> bool:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = {DROP_WAIT_MS}")
            cursor.execute(f"DROP TABLE {name}")
    except OperationalError as error:
        logger.warning("Partition %s is not dropped yet: %s", name, str(error).splitlines()[0])
        return False
    return True


def names(parent: str) -> list[str]:
    """Names of the partitions of a table, the default one included; none where the table does not exist."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(%s) ORDER BY 1", [parent]
        )
        return [name for (name,) in cursor.fetchall()]
