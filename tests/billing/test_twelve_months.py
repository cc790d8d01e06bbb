"""A year of one customer: every month all sides agree to the unit, and one unit planted anywhere in it is found and named."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from django.db import transaction

from billing import accounts, changes, reconcile, subscriptions
from billing.models import BilledPeriod, Charge, PlanVersion
from metering import adjustments, partitions, periods, usage
from metering.models import Call
from sandbox.stripe_simulator import Settings, StripeSimulator
from sandbox.stripe_simulator import periods as stripe_periods
from tests.billing.beats import add_to_reports, add_to_usage_hours, beat, kinds, reconciled
from tests.billing.plan_story import KEY, METER, QUICK, Story, subscribed
from tests.conftest import MakeTenant

MONTHS = 12
BEGAN = timedelta(days=380)
MICROSECOND, MINUTE, HOUR = timedelta(microseconds=1), timedelta(minutes=1), timedelta(hours=1)
FAULTS = ("drop_before", "drop_after", "error_500_before", "error_500_after", "rate_limit_429", "garbage")


@pytest.fixture
def begun(settings: Any, db: None) -> Iterator[StripeSimulator]:
    """A Stripe of more than a year ago; the call log reaches back as far."""
    settings.BILLING = {**settings.BILLING, "REPORT_SENDERS": 1}
    now = datetime.now(UTC)
    start = now - BEGAN
    partitions.ensure(calls_from=now, hours_from=start - timedelta(days=40), now=now)
    partitions._make(next(partitions.of_days(start, start + HOUR)))  # the days between are in the default partition
    kept = Settings(api_keys=(KEY,), summary_delay_seconds=1.0)
    with StripeSimulator(start=int(start.timestamp()), is_frozen=True, seed=1, settings=kept) as simulator:
        settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = simulator.url, False
        settings.STRIPE_LIVE_MODE, settings.STRIPE_TEST_SECRET_KEY = False, KEY
        settings.PASSWORD_HASHERS = [QUICK]
        yield simulator


class Year:
    """What happens in the months of one customer, chosen by a seed."""

    def __init__(self, story: Story, seed: int) -> None:
        self.story, self.random = story, Random(seed)
        self.launch = story.account.plan_version

    @property
    def period(self) -> periods.Period:
        account = self.story.account
        assert account.period_start is not None
        assert account.period_end is not None
        return periods.Period(account.period_start, account.period_end)

    def move_to(self, instant: datetime) -> None:
        self.story.simulator.clock.to(int(instant.timestamp()))

    def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            beat(self.story.now)
            self.story.move(6 * MINUTE)

    def use(self, *, at: datetime | None = None) -> None:
        self.story.record(self.random.randint(1, 9), at=at)

    def break_stripe(self) -> None:
        """The next requests go wrong, before or after their effect."""
        for path in ("/v1/billing/meter_events", "/v1/billing"):
            self.story.simulator.faults.add(self.random.choice(FAULTS), path=path, count=self.random.randint(1, 3))

    def correct(self, *, period_start: datetime) -> None:
        """One call of the period is not billed after all."""
        tenant = self.story.acme.tenant
        done = [
            one.call_id for one in adjustments.of_period(tenant_id=tenant.id, period_start=period_start) if one.call_id
        ]
        period = usage.current_period(allowance=tenant.allowance, now=period_start)
        found = Call.objects.filter(tenant=tenant, occurred_at__gte=period.start, occurred_at__lt=period.end)
        call = found.exclude(id__in=done).order_by("id").first()
        if call is not None:
            change = adjustments.planned_void(tenant=tenant, call_id=call.id)
            adjustments.apply(change, actor="test", reason="served wrongly")

    def change_to(self, version: PlanVersion) -> None:
        """The customer asks for another plan; an upgrade is made at once."""
        changes.request(account=self.story.account, version=version, actor="owner", now=self.story.now)
        assert self.story.advance(8).state == "applied"

    def refund(self) -> None:
        """Money given back at Stripe: no side of the usage moves."""
        paid = self.story.simulator.charges.all(customer=self.story.customer_id, status="succeeded")
        self.story.simulator.refund(paid[-1]["id"], amount=100)

    def month(self, number: int) -> None:
        """Calls, faults, corrections and what else this month brings, then its end and what comes after the invoice."""
        for day in (2, 9, 20) if number == 3 else (2, 20):
            self.move_to(self.period.start + timedelta(days=day, minutes=self.random.randint(0, 999)))
            self.use()
            if self.random.random() < 0.5:
                self.break_stripe()
            if day == 9 and number == 3:
                self.change_to(accounts.public_version(plan_code="scale"))
                self.use()
            self.move_to(self.story.now + 2 * HOUR)
            self.rounds(2)
        if number == 6:
            self.change_to(self.launch)  # at the period's end
        if number == 8:
            self.refund()
        if number % 2:
            self.correct(period_start=self.period.start)
        self.end(number)

    def end(self, number: int) -> None:
        ended = self.period
        self.use(at=ended.end - MICROSECOND)
        self.move_to(ended.end + MINUTE)
        subscriptions.sync(account_id=self.story.account.pk, now=self.story.now)
        self.use()  # already of the next period
        self.break_stripe()
        self.rounds(4)  # while the invoice is a draft
        self.move_to(ended.end + 3 * HOUR)
        self.story.simulator.faults.clear()
        self.rounds(1)
        if number % 3 == 0:
            self.use(at=ended.end - HOUR)  # late: the invoice is final
        if number % 4 == 0:
            self.correct(period_start=ended.start)
        self.rounds(2)
        self.move_to(ended.end + timedelta(days=1))
        self.rounds(1)


@pytest.fixture
def year(begun: StripeSimulator, make_tenant: MakeTenant) -> Year:
    return Year(subscribed(begun, make_tenant, since=timedelta(minutes=1)), seed=0)


def at_stripe(story: Story, period: periods.Period) -> int:
    return story.simulator.accepted(
        story.customer_id, METER, start=int(period.start.timestamp()), end=int(period.end.timestamp())
    )


def assert_agreed(story: Story, *, back: timedelta = reconcile.YEAR) -> None:
    """Nothing but what was written off by name; and the oracle says the same."""
    result = reconciled(story, back=back)
    open_ones = [one for one in kinds(result) if one[0] != "late"]
    assert (open_ones, result.unread) == ([], [])
    for row in BilledPeriod.objects.filter(account=story.account, state="final"):
        ledger = usage.units_between(tenant_id=row.account_id, period_start=row.start, start=row.start, end=row.end)
        settled = Charge.objects.filter(period=row, kind__in=("late", "correction"))
        known = sum(settled.values_list("units", flat=True))
        assert ledger - known == at_stripe(story, periods.Period(row.start, row.end)) == row.billed_units


def test_a_year_without_drift_in_which_one_planted_unit_is_found(year: Year, request: pytest.FixtureRequest) -> None:
    """The planted unit is looked for in a month in the middle, in each side and both ways."""
    live(year)
    rows = list(BilledPeriod.objects.filter(account=year.story.account, state="final").order_by("start"))
    assert len(rows) == MONTHS + 1  # one was cut in two
    chosen = rows if request.config.getoption("--long") else [rows[5]]
    for row in chosen:
        for side in PLANTED:
            for units in (1, -1):
                found = planted(year.story, row, side, units)
                expected = "duplicated" if (side, units) == ("stripe", 1) else "unexplained"
                assert found == [(expected, units, side)]


def live(year: Year) -> None:
    for number in range(1, MONTHS + 1):
        year.month(number)
        assert_agreed(year.story, back=reconcile.RECENT)
    assert_agreed(year.story)
    kinds_of = set(Charge.objects.filter(account=year.story.account).values_list("kind", flat=True))
    assert {"late", "correction"} <= kinds_of


@pytest.mark.parametrize("seed", range(1, 6))
def test_other_years(
    begun: StripeSimulator, make_tenant: MakeTenant, request: pytest.FixtureRequest, seed: int
) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("--long lives five more years")
    live(Year(subscribed(begun, make_tenant, since=timedelta(minutes=1)), seed))


def planted(story: Story, row: BilledPeriod, side: str, units: int) -> list[tuple[str, int, str]]:
    """What one reconciliation finds with these units planted, besides what was written off; afterwards all is as before."""
    with transaction.atomic():
        PLANTED[side](story, row, units)
        found = reconciled(story).found
        transaction.set_rollback(True)
    if side == "stripe":
        add_within_stripe(story, row, -units)
    assert {one.place.period.start for one in found if one.difference.kind != "late"} == {row.start}
    return [
        (one.difference.kind.value, one.difference.units, one.difference.side)
        for one in found
        if one.difference.kind != "late"
    ]


def add_within_stripe(story: Story, row: BilledPeriod, units: int) -> None:
    """Stripe itself miscounts: an event of so long ago would be refused."""
    world = story.simulator.world
    with world.lock, world.transaction():
        changed = world.store.db.execute(
            "UPDATE meter_events SET value = value + ? WHERE seq = (SELECT seq FROM meter_events WHERE customer = ? "
            "AND at >= ? AND at < ? AND is_cancelled = 0 LIMIT 1)",
            (units, story.customer_id, row.start.timestamp(), row.end.timestamp()),
        )
        assert changed.rowcount == 1


Plant = Callable[[Story, BilledPeriod, int], None]
PLANTED: dict[str, Plant] = {
    "ledger": lambda story, row, units: add_to_usage_hours(story, units, period_start=row.start),
    "reports": lambda story, row, units: add_to_reports(story, units, period_start=row.start),
    "stripe": add_within_stripe,
}  # fmt: skip


# -- Periods -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("day", range(1, 32))
def test_periods_of_a_hundred_years_tile_and_are_stripes(day: int) -> None:
    """Anchored on each day of a month, against the simulated Stripe's own arithmetic."""
    anchor = datetime(2024, 1, day, 23, 59, 59, tzinfo=UTC)
    found = [periods.containing(anchor, anchor)]
    for _ in range(100 * 12):
        found.append(periods.containing(anchor, found[-1].end))
    assert all(one.end == following.start for one, following in pairwise(found))
    for number, period in enumerate(found):
        assert int(period.start.timestamp()) == stripe_periods.moved(int(anchor.timestamp()), "month", number)
        for instant in (period.start, period.end - MICROSECOND):
            start, end = stripe_periods.around(int(anchor.timestamp()), "month", 1, int(instant.timestamp()))
            assert (start, end) == (int(period.start.timestamp()), int(period.end.timestamp()))
            assert periods.containing(anchor, instant) == period
    assert max(period.start.day for period in found) == day  # never drifts to the 28th for ever
    assert found[1200].start == anchor.replace(year=2124)


def test_the_31st_is_followed_by_the_28th_and_the_31st() -> None:
    anchor = datetime(2026, 1, 31, 12, tzinfo=UTC)
    starts = [periods.months_after(anchor, months) for months in range(4)]
    assert [f"{start:%d %b}" for start in starts] == ["31 Jan", "28 Feb", "31 Mar", "30 Apr"]
