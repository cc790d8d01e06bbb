"""Why was I charged this: parts add up to lines, lines to the total, and a day's parts to its calls."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from billing import accounts, billed_periods, estimates, explain, pricing
from billing.explain import Cell
from billing.models import BilledPeriod, PlanChange, PlanVersion
from billing.onboarding import Onboarded
from metering import adjustments, engine, partitions, periods, usage
from tests.billing.conftest import public
from tests.billing.test_pricing import AGREED, FREE, LAUNCH, stepped
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import caller_of
from tests.metering.test_several_limits import try_one

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
START = datetime(2026, 11, 1, tzinfo=UTC)


def cell(day: int, units: int, *, hour: int = 9, capability: str = "auth", key: int = 7) -> Cell:
    return Cell(START + day * DAY + hour * HOUR, capability, 1, key, units)


def of_kind(found: explain.Explanation, kind: str) -> list[explain.Line]:
    return [line for line in found.lines if line.kind == kind]


def units_by_day(line: explain.Line) -> dict[int, int]:
    sums: dict[int, int] = {}
    for part in line.parts:
        day = (part.day - START).days + 1
        sums[day] = sums.get(day, 0) + part.units
    return sums


# -- the derivation ------------------------------------------------------------------------------------------------------


def test_the_first_calls_of_the_period_are_the_included_ones() -> None:
    found = explain.explained(terms=LAUNCH, cells=[cell(2, 30_019), cell(0, 60_000), cell(1, 50_000)])
    (included,), (overage,) = of_kind(found, "included"), of_kind(found, "overage")
    assert (included.first, included.last, units_by_day(included)) == (1, 100_000, {1: 60_000, 2: 40_000})
    assert (overage.first, overage.last, units_by_day(overage)) == (100_001, 140_019, {2: 10_000, 3: 30_019})
    assert (overage.exact_minor, overage.rounding_minor, overage.amount_minor) == (
        Decimal("1000.475"), Decimal("-0.475"), 10_00,
    )  # fmt: skip
    assert found.total_minor == 29_00


def test_an_hour_that_is_cut_goes_by_capability_then_key() -> None:
    cells = [cell(0, 80_000, capability="storage"), cell(0, 60_000, key=9), cell(0, 10_000, key=8)]
    (overage,) = of_kind(explain.explained(terms=LAUNCH, cells=cells), "overage")
    assert [(part.capability, part.key_id, part.units) for part in overage.parts] == [("storage", 7, 50_000)]


def test_each_step_names_its_calls_and_the_minimum_what_is_missing() -> None:
    found = explain.explained(terms=AGREED, cells=[cell(day, 500_000) for day in range(6)])
    assert [(line.kind, line.first, line.last, line.amount_minor) for line in found.lines] == [
        ("fee", None, None, 0), ("included", 1, 1_000_000, 0), ("overage", 1_000_001, 2_000_000, 200_00),
        ("overage", 2_000_001, 3_000_000, 100_00), ("minimum", None, None, 200_00),
    ]  # fmt: skip


def test_what_is_written_off_is_taken_from_the_last_calls() -> None:
    found = explain.explained(terms=LAUNCH, cells=[cell(0, 105_000), cell(1, 5_100)], cap_minor=2_50)
    (line,) = of_kind(found, "write_off")
    assert (line.first, line.last, line.amount_minor, units_by_day(line)) == (110_020, 110_100, -3, {2: 81})
    assert (line.exact_minor, line.rounding_minor) == (Decimal("-2.025"), Decimal("-0.975"))


def test_a_correction_takes_its_units_from_where_they_were() -> None:
    found = explain.explained(terms=LAUNCH, cells=[cell(0, 100_000), cell(1, 400), cell(1, -100, hour=11), cell(2, 0)])
    (overage,) = of_kind(found, "overage")
    assert (overage.quantity, units_by_day(overage)) == (300, {2: 300})


def test_calls_that_have_no_price_are_said() -> None:
    found = explain.explained(terms=FREE, cells=[cell(0, 5_000), cell(1, 7)])
    assert (found.not_priced, found.total_minor) == (7, 0)


cells = st.lists(
    st.builds(
        Cell,
        hour=st.integers(0, 29 * 24).map(lambda hour: START + hour * HOUR),
        capability=st.sampled_from(["auth", "database", "storage"]),
        project_id=st.integers(1, 2),
        key_id=st.integers(1, 3),
        units=st.one_of(st.integers(-50, 300), st.integers(-(10**6), 10**9)),
    ),
    max_size=30,
).filter(lambda found: sum(one.units for one in found) >= 0)


@given(terms=stepped(), found=cells, cap_minor=st.one_of(st.none(), st.integers(0, 10**6)))
def test_parts_add_up_to_their_line_and_lines_to_the_invoice(
    terms: pricing.Terms, found: list[Cell], cap_minor: int | None
) -> None:
    made = explain.explained(terms=terms, cells=found, cap_minor=cap_minor)
    invoice = pricing.invoice(terms=terms, quantity=sum(one.units for one in found), cap_minor=cap_minor)
    assert made.total_minor == invoice.total_minor
    assert [(line.kind, line.quantity, line.unit_price_minor, line.amount_minor) for line in made.lines] == [
        (line.kind, line.quantity, line.unit_price_minor, line.amount_minor) for line in invoice.lines
    ]
    with localcontext() as context:
        context.prec = 80
        for line in made.lines:
            assert line.exact_minor + line.rounding_minor == line.amount_minor
            if line.kind in {"fee", "minimum"}:
                continue
            assert sum(part.units for part in line.parts) == line.quantity
            assert sum((part.exact_minor for part in line.parts), Decimal(0)) == line.exact_minor
            if line.kind == "overage":
                assert line.exact_minor == line.quantity * line.unit_price_minor
                assert abs(line.rounding_minor) <= Decimal("0.5")
    numbered = [line for line in made.lines if line.kind in {"included", "overage"} and line.quantity]
    assert [line.first for line in numbered] == [1, *((line.last or 0) + 1 for line in numbered[:-1])][: len(numbered)]
    assert made.not_priced == 0


@given(terms=stepped(), found=cells)
def test_every_unit_of_every_day_and_key_is_in_some_line(terms: pricing.Terms, found: list[Cell]) -> None:
    made = explain.explained(terms=terms, cells=found)
    total: dict[Any, int] = {}
    for one in found:
        whose = (periods.day_of(one.hour), one.capability, one.project_id, one.key_id)
        total[whose] = total.get(whose, 0) + one.units
    in_lines: dict[Any, int] = {}
    for part in (part for line in made.lines if line.kind in {"included", "overage"} for part in line.parts):
        whose = (part.day, part.capability, part.project_id, part.key_id)
        in_lines[whose] = in_lines.get(whose, 0) + part.units
    below_zero = min([0, *_counts(found)]) < 0  # a correction that comes before what it corrects
    assert below_zero or {whose: units for whose, units in total.items() if units} == {
        whose: units for whose, units in in_lines.items() if units
    }


def _counts(found: list[Cell]) -> Iterator[int]:
    count, end = 0, sum(one.units for one in found)
    for one in sorted(found):
        count += one.units
        yield min(count, end - count)


# -- of a tenant ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def acme(committed: None, make_tenant: MakeTenant) -> Onboarded:
    """Acme on terms that include 3 calls: 5 calls of 2 units each were made, one of them voided."""
    made = make_tenant("Acme", plan="scale", included=3, burst_per_second=10**6)
    for _ in range(5):
        try_one(caller_of(made.api_key), cost=2)
    engine.stop()
    change = adjustments.planned_void(tenant=made.tenant, call_id=first_call(made).id)
    adjustments.apply(change, actor="olivia@meterhouse.example", reason="Served twice")
    return made


def running(made: Onboarded) -> periods.Period:
    return usage.current_period(allowance=made.account.tenant.allowance, now=timezone.now())


def first_call(made: Onboarded) -> explain.Entry:
    day = periods.day_of(timezone.now())
    return explain.calls(tenant_id=made.tenant.pk, period=running(made), day=day, limit=1)[0]


def test_a_tenants_period_agrees_with_its_statement_and_its_calls(acme: Onboarded) -> None:
    now = timezone.now()
    statement = estimates.statement(account=acme.account, now=now)
    found = explain.explain(account=acme.account, period=statement.period, now=now)
    assert found.explanation.total_minor == statement.invoice.total_minor
    assert found.explanation.units == statement.used == 8
    assert [made.reason for made in found.corrections] == ["Served twice"]
    day = periods.day_of(now)
    parts = [part for line in found.explanation.lines for part in line.parts]
    assert {(part.day, part.capability) for part in parts} == {(day, "storage")}
    assert sum(part.units for part in parts) == 8
    whose: dict[str, Any] = {"tenant_id": acme.tenant.pk, "period": statement.period, "day": day}
    assert explain.units_of_calls(**whose) == 8
    entries = explain.calls(**whose, limit=100)
    assert sorted((entry.what, entry.units) for entry in entries) == [("call", 2)] * 5 + [("void", -2)]
    assert found.names.key(parts[0].key_id).startswith(acme.key.name)


def test_a_day_that_the_log_has_forgotten_is_refused_with_the_reason(acme: Onboarded) -> None:
    with pytest.raises(explain.CallsForgotten, match="keeps calls from"):
        explain.calls(tenant_id=acme.tenant.pk, period=running(acme), day=START.replace(year=2020), limit=1)


def test_the_command_walks_from_the_total_to_the_calls(acme: Onboarded) -> None:
    today = f"{timezone.now():%Y-%m-%d}"
    out = StringIO()
    call_command("explain", tenant=acme.tenant.slug, period=_at(today), day=_at(today), stdout=out)
    text = out.getvalue()
    assert "5 calls, number 4 to 8 x 0.006 = 0.03" in text
    assert "rounded once to whole minor units: -0.03" in text
    assert "storage, Default, First key (mh_live_" in text
    assert "Served twice" in text
    assert text.count(" call  ") == 5
    out = StringIO()
    call_command("explain", tenant=acme.tenant.slug, json=True, stdout=out)
    said = json.loads(out.getvalue())
    assert said["total_minor"] == sum(line["amount_minor"] for line in said["lines"]) == 49_00
    assert said["lines"][2]["parts"][0]["units"] == 5
    assert acme.api_key not in text + out.getvalue()


def _at(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def test_the_command_refuses_what_it_does_not_know(db: None) -> None:
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        call_command("explain", tenant="nobody")


# -- which terms ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def globex(db: None, make_tenant: MakeTenant, now: datetime) -> Onboarded:
    made = make_tenant("Globex", plan="scale", anchor=START - 60 * DAY)
    partitions.ensure(calls_from=now, hours_from=START - 60 * DAY, now=now)
    return made


NOVEMBER = periods.Period(START, START + 30 * DAY)


def test_a_period_before_a_change_of_plan_has_the_terms_of_before(globex: Onboarded) -> None:
    launch, scale = public("launch"), public("scale")
    change(globex, launch, scale, cut_at=START + 10 * DAY)
    basis = explain.basis_of(account=globex.account, period=NOVEMBER, now=START + 40 * DAY)
    assert (basis.version, basis.because, basis.terms.fee_minor) == (launch, "the plan before it was changed", 19_00)
    after = periods.Period(START + 10 * DAY, NOVEMBER.end)
    assert explain.basis_of(account=globex.account, period=after, now=START + 40 * DAY).version == scale


def change(made: Onboarded, before: PlanVersion, after: PlanVersion, **fields: Any) -> None:
    PlanChange.objects.create(
        account=made.account, kind=PlanChange.Kind.UPGRADE, state=PlanChange.State.APPLIED, from_version=before,
        to_version=after, requested_by="test", due_at=START, ended_at=fields.get("cut_at"), **fields,
    )  # fmt: skip


def test_a_period_that_was_billed_has_the_terms_it_was_billed_under(globex: Onboarded) -> None:
    BilledPeriod.objects.create(
        account=globex.account, version=public("launch"), currency="usd", subscription_id="sub_1", start=START,
        end=NOVEMBER.end, counts_from=START, state=BilledPeriod.State.FINAL, billed_units=0, cap_minor=7_00,
    )  # fmt: skip
    basis = explain.basis_of(account=globex.account, period=NOVEMBER, now=START + 40 * DAY)
    assert (basis.version.plan.code, basis.cap_minor, basis.because) == ("launch", 7_00, "as the period is billed")


@pytest.mark.parametrize("is_free", [False, True])
@pytest.mark.parametrize("is_cut", [False, True])
def test_terms_are_those_that_the_period_is_billed_under(globex: Onboarded, is_free: bool, is_cut: bool) -> None:
    agreed = accounts.Agreed(minimum_minor=9_00)
    version = accounts.agreed_version(tenant=globex.tenant, version=public("launch"), agreed=agreed)
    if is_cut:
        change(globex, version, public("scale"), cut_at=NOVEMBER.end)
    billed = BilledPeriod.objects.create(
        account=globex.account, version=version, currency="usd", subscription_id="sub_1", start=START,
        end=NOVEMBER.end, counts_from=START, is_free=is_free,
    )  # fmt: skip
    told = explain.terms_of(version=version, currency="usd", is_free=is_free, is_cut=is_cut)
    assert told == billed_periods.terms_of(billed)
    assert told.minimum_minor == (0 if is_free or is_cut else 9_00)


def test_a_trial_costs_nothing_beyond_its_fee() -> None:
    version = PlanVersion(
        currency="usd", fee_minor=0, included=10, policy="rate", unit_price_minor=Decimal(1), minimum_minor=5_00
    )
    found = explain.explained(
        terms=explain.terms_of(version=version, currency="usd", is_free=True), cells=[cell(0, 12)]
    )
    assert (found.total_minor, found.not_priced) == (0, 2)
