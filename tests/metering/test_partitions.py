"""Days of the call log are dropped after retention, never while somebody uses them, and nobody waits long for that."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from django.db import connection, transaction

from metering import invariants, partitions, periods, rebuild
from metering.database import conninfo
from metering.ledger import commit
from metering.recorder import Batch
from tests.conftest import MakeTenant
from tests.metering.ledger import books
from tests.metering.test_recovery import entry

pytestmark = pytest.mark.usefixtures("committed")
OLD = datetime(2024, 2, 28, tzinfo=UTC)
LEAP_DAY = "metering_call_20240229"


@pytest.fixture(autouse=True)
def _old_days(committed: None) -> Iterator[None]:
    """Three days of long ago have partitions."""
    for partition in partitions.of_days(OLD, OLD + timedelta(days=3)):
        partitions._make(partition)
    yield
    partitions.drop_old_days(keep_from=OLD + timedelta(days=3))


@pytest.fixture
def database(committed: None) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    with psycopg.connect(conninfo(), autocommit=True) as opened:
        yield opened


def test_days_before_retention_are_dropped_and_no_others() -> None:
    assert partitions.drop_old_days(keep_from=OLD + timedelta(days=2, hours=7)) == ["metering_call_20240228", LEAP_DAY]
    assert "metering_call_20240301" in partitions.names("metering_call")
    assert invariants.kept_since() == datetime(2024, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize("use", ["INSERT", "SELECT"])
def test_a_day_in_use_stays_until_the_next_time(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]], use: str
) -> None:
    acme = make_tenant(now=OLD, anchor=OLD)
    late = entry(
        acme, occurred_at=(OLD + timedelta(days=1)).timestamp(), period_start=OLD.timestamp(),
        period_end=periods.months_after(OLD, 1).timestamp(),
    )  # fmt: skip
    with database.transaction():
        if use == "INSERT":
            commit(database, Batch((late,), {}))
        else:
            database.execute(f"SELECT FROM {LEAP_DAY}")
        assert LEAP_DAY not in partitions.drop_old_days(keep_from=OLD + timedelta(days=2))
    assert books(acme.tenant.id).used == (1 if use == "INSERT" else 0)
    assert partitions.drop_old_days(keep_from=OLD + timedelta(days=2))[-1:] == [LEAP_DAY]


def test_no_day_is_dropped_between_the_look_at_the_log_and_what_is_made_of_it(
    database: psycopg.Connection[tuple[object, ...]],
) -> None:
    database.execute("SET lock_timeout = 100")
    with transaction.atomic():
        rebuild._check_log(OLD)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            database.execute("DROP TABLE metering_call_20240228")


def test_hours_whose_day_was_dropped_are_never_made_anew(
    make_tenant: MakeTenant, database: psycopg.Connection[tuple[object, ...]]
) -> None:
    acme = make_tenant(anchor=OLD)
    commit(database, Batch((entry(acme, occurred_at=(OLD + timedelta(days=1)).timestamp()),), {}))
    partitions.drop_old_days(keep_from=OLD + timedelta(days=2))
    with pytest.raises(rebuild.LogTooShort):
        rebuild.rebuild(tenant_id=acme.tenant.id, start=OLD, end=OLD + timedelta(days=3), apply=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(units)::int FROM metering_usage_hour WHERE tenant_id = %s", [acme.tenant.id])
        assert cursor.fetchone() == (1,)
