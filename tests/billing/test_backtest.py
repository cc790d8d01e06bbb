"""The back-test knows at each cut only what was known then, and says how far both methods were off."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from billing import backtest
from billing.onboarding import Onboarded
from metering import partitions, periods
from metering.periods import Period
from tests.conftest import MakeTenant

DAY = timedelta(days=1)
MAY = Period(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
JUNE = Period(MAY.end, datetime(2026, 7, 1, tzinfo=UTC))


def flat(units: int, *, days: int = 61) -> dict[datetime, int]:
    return {MAY.start + number * DAY: units for number in range(days)}


def test_of_days_that_are_all_alike_both_are_right() -> None:
    score = backtest.score(backtest.History.of_days(units=flat(100), periods=[MAY, JUNE], since=MAY.start))
    assert score.cut_points == 27 + 27  # every midnight after the first tenth
    assert [score.error, score.line_error, score.inside] == [0, 0, score.cut_points]


def test_what_came_later_is_not_known_at_the_cut() -> None:
    units = flat(100) | {JUNE.start + number * DAY: 500 for number in range(20, 30)}
    score = backtest.score(backtest.History.of_days(units=units, periods=[JUNE], since=MAY.start))
    assert score.error_percent > 15  # until the 21st nothing hints at it
    assert score.inside_percent < 50


def test_a_period_that_refused_is_compared_under_its_limit() -> None:
    units = flat(100, days=31)
    past = backtest.Past(MAY, {day: count for day, count in units.items() if day < MAY.start + 10 * DAY}, admits=1_000)
    refused = frozenset(MAY.start + number * DAY for number in range(10, 31))
    score = backtest.score(backtest.History(past.units, refused, MAY.start, (past,)))
    assert [score.error, score.line_error] == [0, 0]


def test_a_tenant_without_enough_calls_says_nothing() -> None:
    score = backtest.score(backtest.History.of_days(units=flat(1, days=3), periods=[MAY], since=MAY.start))
    assert score == backtest.Score()
    assert [score.error_percent, score.inside_percent] == [0, 0]


HOURS = """
INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units)
SELECT %(tenant)s, day + interval '9 hours', %(start)s, %(project)s, %(key)s, 'auth', 100, 100
FROM generate_series(%(start)s::timestamptz, %(end)s::timestamptz - interval '1 day', interval '1 day') AS day
"""


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant, now: datetime) -> Onboarded:
    """Acme with 100 calls on each day of its last two whole periods."""
    anchor = periods.months_after(periods.day_of(now).replace(day=1), -3)
    made = make_tenant("Acme", anchor=anchor)
    partitions.ensure(calls_from=now, hours_from=anchor, now=now)
    with connection.cursor() as cursor:
        for back in (2, 1):
            period = periods.previous(anchor, periods.containing(anchor, now), back)
            cursor.execute(
                "SELECT metering_open_period(%s, %s, %s, %s)", [made.tenant.pk, period.start, period.end, period.start]
            )
            whose: dict[str, Any] = {"tenant": made.tenant.pk, "project": made.key.project_id, "key": made.key.pk}
            cursor.execute(HOURS, whose | {"start": period.start, "end": period.end})
    return made


def test_the_command_prints_both_errors(acme: Onboarded) -> None:
    out = StringIO()
    call_command("backtest", tenant=acme.tenant.slug, json=True, stdout=out)
    said = json.loads(out.getvalue())
    assert said["tenants"][0]["tenant"] == acme.tenant.slug
    assert said["all"]["cut_points"] >= 50
    assert (said["all"]["error_percent"], said["all"]["straight_line_error_percent"]) == ("0.00", "0.00")
    call_command("backtest", tenant=acme.tenant.slug, stdout=out)
    assert "straight line" in out.getvalue()


def test_the_command_names_a_tenant_that_there_is_not(db: None) -> None:
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        call_command("backtest", tenant="nobody")
