"""What a difference is called: each unit has one class, and the side that stands alone is named."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.drifts import Difference, Ledger, OwnLine, Pool, Report, Sides, compare
from billing.models import Drift, UsageReport
from metering.periods import Period

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PERIOD = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
LONG_AGO, JUST_NOW = NOW - timedelta(hours=5), NOW - timedelta(minutes=5)
HOUR = timedelta(hours=1)
Kind, State = Drift.Kind, UsageReport.State


def confirmed(quantity: int) -> Report:
    return Report(quantity, State.CONFIRMED, LONG_AGO)


def found(
    ledger: int, reports: list[Report], stripe: int, *, pools: dict[str, Any] | None = None, **more: Any
) -> list[Difference]:
    sides = Sides(PERIOD, Ledger(ledger, **(pools or {})), tuple(reports), stripe, **more)
    return compare(sides, now=NOW, settling=HOUR)


def named(differences: list[Difference]) -> list[tuple[str, int, str]]:
    return [(one.kind.value, one.units, one.side) for one in differences]


def test_three_sides_that_agree_differ_in_nothing() -> None:
    assert found(12, [confirmed(7), confirmed(5)], 12) == []
    assert found(12, [confirmed(12)], 12, invoiced=12) == []


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("invoiced", [None, 12])
def test_one_unit_too_much_or_too_little_names_its_side(by: int, invoiced: int | None) -> None:
    more: dict[str, Any] = {"invoiced": invoiced}
    (ledger,) = found(12 + by, [confirmed(12)], 12, pools={"unlogged": by}, **more)
    (reports,) = found(12, [confirmed(12 + by)], 12, **more)
    (stripe,) = found(12, [confirmed(12)], 12 + by, **more)
    assert named([ledger]) == [("unexplained", by, "ledger")]
    assert named([reports]) == [("unexplained", by, "reports")]
    assert named([stripe]) == [("duplicated" if by > 0 else "unexplained", by, "stripe")]
    assert [one.stops for one in (ledger, reports, stripe)] == [True, True, True]
    assert all(one.mend for one in (ledger, reports, stripe))


def test_units_that_an_invoice_charges_twice_are_one_difference() -> None:
    (one,) = found(12, [confirmed(12)], 13, invoiced=13)
    assert (named([one]), "The final invoice charges them" in one.detail) == ([("duplicated", 1, "stripe")], True)


def test_an_invoice_that_charges_otherwise_is_named() -> None:
    assert named(found(12, [confirmed(12)], 12, invoiced=11)) == [("unexplained", -1, "invoice")]


@pytest.mark.parametrize(
    ("charged", "expected"),
    [((150,), []), ((), [("unexplained", -3, "invoice")]), ((151,), [("unexplained", -3, "invoice")]),
     ((150, 150), [("duplicated", 3, "invoice")])],
)  # fmt: skip
def test_each_charge_of_ours_is_on_its_invoice_once(charged: tuple[int, ...], expected: list[Any]) -> None:
    line = OwnLine("Three calls", 3, 150, "usd", charged)
    assert named(found(12, [confirmed(12)], 12, own_lines=(line,))) == expected


@pytest.mark.parametrize("state", [State.PENDING, State.SENDING, State.DELIVERED])
@pytest.mark.parametrize("is_shown", [True, False])
def test_what_is_on_its_way_may_be_shown_or_not(state: str, is_shown: bool) -> None:
    if state == State.PENDING and is_shown:
        pytest.skip("not sent yet")
    reports = [confirmed(7), Report(5, state, JUST_NOW)]
    expected = [] if is_shown else [("in_flight", 5, "")]
    assert named(found(12, reports, 12 if is_shown else 7)) == expected


def test_of_several_on_their_way_any_may_have_arrived_and_nothing_else() -> None:
    reports = [confirmed(7), *(Report(quantity, State.SENDING, JUST_NOW) for quantity in (5, 20, -3))]
    assert named(found(29, reports, 24)) == [("in_flight", 5, "")]  # 7 + 20 - 3
    assert named(found(29, reports, 25))[0] == ("unexplained", -4, "stripe")  # none of them make 25


def test_what_was_taken_long_ago_must_be_shown() -> None:
    assert named(found(12, [confirmed(7), Report(5, State.DELIVERED, LONG_AGO)], 7)) == [("unexplained", -5, "stripe")]


def test_a_report_whose_answer_is_lost_is_on_its_way_however_long() -> None:
    assert named(found(12, [confirmed(7), Report(5, State.SENDING, LONG_AGO)], 7)) == [("in_flight", 5, "")]
    assert named(found(12, [confirmed(7), Report(5, State.PENDING, None)], 7)) == [("in_flight", 5, "")]


def test_calls_that_are_young_or_held_back_are_in_flight() -> None:
    pools = {"young": Pool(2), "held": Pool(3)}
    assert named(found(12, [confirmed(7)], 7, pools=pools)) == [("in_flight", 3, ""), ("in_flight", 2, "")]


def test_what_nothing_explains_is_unexplained_and_being_sent_is_its_mend() -> None:
    (one, young) = found(12, [confirmed(7)], 7, pools={"young": Pool(4)})
    assert named([one, young]) == [("unexplained", 1, "reports"), ("in_flight", 4, "")]
    assert not one.stops


def test_a_correction_that_is_not_sent_is_told_from_reporting_too_much() -> None:
    assert named(found(10, [confirmed(12)], 12, pools={"young": Pool(90, removed=2)})) == [("in_flight", -2, "")]
    (waits,) = found(10, [confirmed(12)], 12, pools={"corrected": 2})
    (too_much,) = found(10, [confirmed(12)], 12, pools={"corrected": 1})
    assert named([waits, too_much]) == [("unexplained", -2, "reports"), ("unexplained", -2, "reports")]
    assert (waits.stops, too_much.stops) == (False, True)


def test_rejected_units_are_rejected_until_another_revision_carries_them() -> None:
    rejected = Report(5, State.REJECTED, LONG_AGO)
    assert named(found(12, [confirmed(7), rejected], 7, rejected=5)) == [("rejected", 5, "")]
    assert found(12, [confirmed(7), rejected, confirmed(5)], 12) == []


def test_late_usage_is_late_before_and_after_it_is_written_off() -> None:
    late: dict[str, Any] = {"pools": {"late": Pool(2)}, "invoiced": 10}
    (before,) = found(12, [confirmed(10)], 10, **late)
    (after,) = found(12, [confirmed(10)], 10, **late, written_off=2)
    assert named([before, after]) == [("late", 2, ""), ("late", 2, "")]
    assert before.mend != after.mend
    taken_back: dict[str, Any] = {"pools": {"late": Pool(2, removed=3)}, "invoiced": 10}
    both = found(9, [confirmed(10)], 10, **taken_back, written_off=2)
    assert [units for _, units, _ in named(both)] == [-3, 2]


def test_a_neighbours_report_in_the_same_minute_is_not_counted_twice() -> None:
    assert found(12, [confirmed(12)], 15, foreign=(confirmed(3),)) == []
    assert named(found(12, [confirmed(12)], 16, foreign=(confirmed(3),))) == [("duplicated", 1, "stripe")]


@given(
    reports=st.lists(st.tuples(st.integers(-9, 30), st.sampled_from(list(State)), st.booleans()), max_size=6),
    arrived=st.lists(st.booleans(), min_size=6, max_size=6),
    young=st.integers(0, 20),
)
def test_whatever_is_on_its_way_is_never_unexplained(
    reports: list[tuple[int, str, bool]], arrived: list[bool], young: int
) -> None:
    """Whatever subset of what is open has arrived, and whatever calls are young."""
    rows = [Report(quantity, state, JUST_NOW if is_new else LONG_AGO) for quantity, state, is_new in reports]
    taken = {State.SENDING, State.DELIVERED, State.CONFIRMED}
    stripe = sum(
        row.quantity
        for row, is_there in zip(rows, arrived, strict=False)
        if row.state in taken and (is_there or (row.state != State.SENDING and row.touched_at == LONG_AGO))
    )
    carried = sum(row.quantity for row in rows if row.state in taken | {State.PENDING})
    differences = found(carried + young, rows, stripe, pools={"young": Pool(young)})
    assert {one.kind for one in differences} <= {Kind.IN_FLIGHT}
    assert sum(one.units for one in differences) == carried + young - stripe
