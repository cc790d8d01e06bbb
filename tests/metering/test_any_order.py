"""Admit, record, flush, crash, expire, roll over, change and correct in any order: the invariants hold after every step.

Two engines stand for two processes. Their database is one that others use as well, so time is moved by moving the rows of the
processes and the periods, never the server's clock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.onboarding import Onboarded
from metering import adjustments, allowances, boundaries, engine, invariants, limits
from metering.database import Database
from metering.holdings import Refused, Ticket
from metering.models import Adjustment, Allowance, Call, LimitKind, Policy
from metering.periods import Period
from metering.reclaim import reclaim_everywhere
from metering.recorder import Entry, call_id
from tests.conftest import MakeTenant
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")
LEASE_SECONDS = 1.0
SLOW = settings(
    deadline=None, stateful_step_count=30, suppress_health_check=list(HealthCheck), derandomize=False, print_blob=True
)


class Ledger(RuleBasedStateMachine):
    """What happens to one tenant."""

    make_tenant: MakeTenant

    @initialize(limit=st.integers(0, 60), narrow=st.none() | st.integers(0, 40))
    def begin(self, limit: int, narrow: int | None) -> None:
        self.tenant: Onboarded = self.make_tenant(included=limit, burst_per_second=10**6)
        self.highest_limit, self.allowed_to_pass = limit, 0
        if narrow is not None:
            limits.put(
                tenant=self.tenant.tenant, kind=LimitKind.KEY, subject_id=self.tenant.key.id, calls=narrow, actor="test"
            )
        self.engines = [engine.Engine(), engine.Engine()]
        for each in self.engines:
            each._tend()
        self.open_calls: list[tuple[int, Ticket]] = []
        self.expected = 0  # units that were answered and not lost
        self.unflushed = [0, 0]
        self.restarts = 0

    # -- what processes do ---------------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), cost=st.sampled_from([1, 1, 1, 2, 7]), count=st.integers(1, 40))
    def admit(self, which: int, cost: int, count: int) -> None:
        key = self.tenant.key
        for _ in range(count):
            try:
                ticket = self.engines[which].leases.admit(
                    self.tenant.tenant.id, project_id=key.project_id, key_id=key.id, cost=cost
                )
            except Refused:
                return
            self.open_calls.append((which, ticket))

    @precondition(lambda self: self.open_calls)
    @rule(place=st.integers(0, 10**6), count=st.integers(1, 40), is_billable=st.sampled_from([True, True, False]))
    def answer(self, place: int, count: int, is_billable: bool) -> None:
        for _ in range(min(count, len(self.open_calls))):
            which, ticket = self.open_calls.pop(place % len(self.open_calls))
            self.record(which, ticket, is_billable=is_billable)

    def record(self, which: int, ticket: Ticket, *, is_billable: bool) -> None:
        meter = self.engines[which]
        if not is_billable:
            meter.leases.give_back(ticket)
        units = ticket.cost if is_billable else 0
        key, lease = self.tenant.key, ticket.lease
        meter.buffer.append(
            Entry(
                call_id(ticket.occurred_at), self.tenant.tenant.id, key.project_id, key.id, "storage",
                "billable" if is_billable else "failed", "", 200 if is_billable else 500, units, 900, ticket.occurred_at,
                ticket.bounds.start, ticket.bounds.end, lease.id if lease and is_billable else None,
            )
        )  # fmt: skip
        self.unflushed[which] += units

    @rule(which=st.integers(0, 1), everything=st.booleans())
    def flush(self, which: int, everything: bool) -> None:
        assert self.engines[which].flush(everything=everything)
        self.expected += self.unflushed[which]
        self.unflushed[which] = 0

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        """The process is killed: what it did not flush is lost, and its units come back only when it has expired."""
        self.expire(which)
        self.restart(which)

    @rule(which=st.integers(0, 1))
    def freeze(self, which: int) -> None:
        """The process is silent for longer than its leases live, its units are reclaimed, then it goes on."""
        in_flight = sum(ticket.cost for owner, ticket in self.open_calls if owner == which)
        self.allowed_to_pass += in_flight + self.unflushed[which]  # the one overshoot that is promised to be possible
        self.expire(which)
        self.reclaim()
        meter = self.engines[which]
        meter.registration._good_until = float("-inf")
        meter._renewed_at = float("-inf")
        meter._tend()

    def expire(self, which: int) -> None:
        long_ago = timezone.now() - timedelta(minutes=1)
        process = self.engines[which].registration.id
        with connection.cursor() as cursor:
            cursor.execute("UPDATE metering_process SET expires_at = %s WHERE id = %s", [long_ago, process])
            cursor.execute("UPDATE metering_lease SET granted_at = %s WHERE process_id = %s", [long_ago, process])

    def restart(self, which: int) -> None:
        self.engines[which].database.close()
        self.open_calls = [(owner, ticket) for owner, ticket in self.open_calls if owner != which]
        self.unflushed[which] = 0
        self.engines[which] = engine.Engine()
        self.engines[which]._tend()

    @rule()
    def reclaim(self) -> None:
        database = Database()
        with database.connection() as connected:
            reclaim_everywhere(connected)
        database.close()

    # -- what people and time do ---------------------------------------------------------------------------------------

    @rule(limit=st.integers(0, 80))
    def change_allowance(self, limit: int) -> None:
        allowance = Allowance.objects.get(pk=self.tenant.tenant.id)
        terms = allowances.Terms("Free", limit, None, Policy.BLOCK, 10**6, allowance.anchor)
        allowances.push(tenant_id=self.tenant.tenant.id, terms=terms, now=timezone.now())
        self.highest_limit = max(self.highest_limit, limit)
        for each in self.engines:  # as within a second
            each._renewed_at = float("-inf")
            each._tend()

    @rule(seconds=st.integers(0, 3))
    def roll_over(self, seconds: int) -> None:
        """A period begins at this moment, or began some seconds ago and is learned only now."""
        start = timezone.now() - timedelta(seconds=seconds)
        boundaries.learn(
            tenant_id=self.tenant.tenant.id, period=Period(start, start + timedelta(days=30)), now=timezone.now()
        )
        self.allowed_to_pass = 10**9  # several periods have a limit each: their sum says nothing any more
        for each in self.engines:
            each._renewed_at = float("-inf")
            each._tend()

    @rule(units=st.integers(0, 9))
    def correct(self, units: int) -> None:
        calls = Call.objects.filter(tenant=self.tenant.tenant, outcome="billable").values_list("id", flat=True)
        corrected = Adjustment.objects.filter(tenant=self.tenant.tenant).values_list("call_id", flat=True)
        call = next(iter(set(calls) - set(corrected)), None)
        if call is None:
            return
        try:
            change = (
                adjustments.planned_amend(tenant=self.tenant.tenant, call_id=call, units=units)
                if units
                else adjustments.planned_void(tenant=self.tenant.tenant, call_id=call)
            )
        except adjustments.CannotAdjust:
            return
        adjustments.apply(change, actor="test", reason="any order")
        self.expected += change.units
        self.allowed_to_pass += max(0, change.units)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        if not hasattr(self, "tenant"):
            return
        assert invariants.broken(tenant_id=self.tenant.tenant.id) == {}
        kept = books(self.tenant.tenant.id)
        assert kept.used == self.expected
        assert kept.reserved >= 0
        assert kept.used <= self.highest_limit + self.allowed_to_pass
        with connection.cursor() as cursor:
            cursor.execute("SELECT min(reserved) FROM metering_quota WHERE tenant_id = %s", [self.tenant.tenant.id])
            assert (cursor.fetchone()[0] or 0) >= 0

    def teardown(self) -> None:
        if not hasattr(self, "tenant"):
            return
        for which, each in enumerate(self.engines):
            self.flush(which, everything=True)
            with each.database.connection() as connected:
                each.registration.resign(connected)
            each.database.close()
        held = sum(ticket.cost for _, ticket in self.open_calls)
        kept = books(self.tenant.tenant.id)
        assert kept.used == self.expected
        assert kept.reserved <= held + self.dead_units()

    def dead_units(self) -> int:
        """Units of processes that crashed, until they are reclaimed."""
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT coalesce(sum(units), 0)::int FROM metering_lease WHERE tenant_id = %s "
                "AND granted_at < clock_timestamp() - interval '30 seconds'",
                [self.tenant.tenant.id],
            )
            return int(cursor.fetchone()[0])


@contextmanager
def short_leases(configured: Any) -> Iterator[None]:
    configured.METERING = {**configured.METERING, "LEASE_SECONDS": LEASE_SECONDS}
    yield


def test_the_invariants_hold_in_any_order(
    make_tenant: MakeTenant, settings: Any, request: pytest.FixtureRequest
) -> None:
    count = 300 if request.config.getoption("--long") else 5
    with short_leases(settings):
        Ledger.make_tenant = staticmethod(make_tenant)
        run_state_machine_as_test(Ledger, settings=type(SLOW)(SLOW, max_examples=count))
