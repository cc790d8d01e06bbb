"""Past periods under a draft plan: exact, read-only, in a few queries; a wrong draft is named with line, field and mend."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import accounts, draft_plans, price_lab, pricing
from billing.models import BilledPeriod, PlanChange
from billing.onboarding import Onboarded
from metering import periods
from metering.periods import Period
from tenants.models import User
from tests.billing.conftest import public
from tests.conftest import MakeTenant

DRAFT = """
name = "Launch 2027"
fee_minor = 29_00
included = 150_000
overage = "rate"

[[steps]]
up_to = 100_000
unit_price_minor = 0.02

[[steps]]
unit_price_minor = "0.01"

[currencies.eur]
fee_minor = 27_00
unit_price_minor = "0.018"
"""


# -- the draft -----------------------------------------------------------------------------------------------------------


def test_a_draft_says_the_terms_exactly() -> None:
    draft = draft_plans.read(DRAFT)
    steps = (pricing.Step(100_000, Decimal("0.02")), pricing.Step(None, Decimal("0.01")))
    assert draft.name == "Launch 2027"
    assert draft.terms["usd"] == pricing.Terms("usd", 29_00, 150_000, Decimal(0), prices_overage=True, steps=steps)
    assert draft.terms["eur"] == pricing.Terms("eur", 27_00, 150_000, Decimal("0.018"), prices_overage=True)


def test_the_example_is_a_draft() -> None:
    assert draft_plans.read(draft_plans.EXAMPLE).terms["usd"].unit_price_minor == Decimal("0.02")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("fee_minor = 29_00", "fee_minor = 29.00", r"Line 3, fee_minor: write a whole number from 0, not"),
        ("fee_minor = 29_00", "", r"Line 1, fee_minor: it is missing. Add fee_minor = a whole number"),
        ("fee_minor = 29_00", "fee = 29_00", r"Line 3, fee: there is no such field. Did you mean fee_minor\?"),
        ("fee_minor = 29_00", "fee_minor = -1", r"Line 3, fee_minor: write a whole number from 0, not -1"),
        ("included = 150_000", 'included = "all"', r'Line 4, included: write a whole number or "unlimited"'),
        ("included = 150_000", 'included = "unlimited"', r'Line 5, overage: .*Write "block", or a number of calls'),
        ('overage = "rate"', 'overage = "upgrade"', r"""Line 5, overage: 'upgrade' is not known. Write "rate" or "block"."""),
        ('overage = "rate"', 'overage = "block"', r"Line 7, steps: calls beyond are refused, so they have no price"),
        ("unit_price_minor = 0.02", 'unit_price_minor = "cheap"', r'Line 9, steps.unit_price_minor: .*not "cheap"'),
        ("unit_price_minor = 0.02", "unit_price_minor = nan", r"Line 9, steps.unit_price_minor: write minor units"),
        ("unit_price_minor = 0.02", "unit_price_minor = 0.0000000000001", r"up to 12 decimals"),
        ('unit_price_minor = "0.01"', "price = 1", r"Line 12, steps.price: there is no such field. "),
        ("up_to = 100_000", "", r"Line 7, steps: up_to has to rise"),
        ('unit_price_minor = "0.018"', "", r"Line 14, currencies.eur.unit_price_minor: it is missing"),
        ("[currencies.eur]", "[currencies.EURO]", r"ISO 4217 code in lower case"),
        ('name = "Launch 2027"', "name = 5", r"Line 2, name: write what to call the plan"),
        ('name = "Launch 2027"', "name = Launch", r"This is not TOML: .*line 2"),
        ("included = 150_000", "included = 150_000\nunit_price_minor = 1", r"Line 5, unit_price_minor: the steps say the prices"),
        ("included = 150_000", 'included = 150_000\ncurrency = "Dollar"', r"Line 5, currency: write an ISO 4217"),
    ],
)  # fmt: skip
def test_a_wrong_draft_is_named_with_line_field_and_mend(before: str, after: str, said: str) -> None:
    assert before in DRAFT
    with pytest.raises(draft_plans.DraftInvalid, match=said):
        draft_plans.read(DRAFT.replace(before, after, 1))


# -- the past ------------------------------------------------------------------------------------------------------------

MakePast = Callable[..., Onboarded]
QUOTA = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, used) VALUES (%s, %s, %s, %s)
"""


@pytest.fixture
def past(db: None, make_tenant: MakeTenant, now: datetime) -> MakePast:
    """A tenant with whole periods behind it, the oldest first: past("Acme", 120_000, 90_000, plan="launch")."""

    def make(name: str, *units: int, plan: str = "launch", **options: Any) -> Onboarded:
        anchor = months_before(now, len(units))
        made = make_tenant(name, plan=plan, anchor=anchor, **options)
        with connection.cursor() as cursor:
            for number, count in enumerate(units):
                period = periods.previous(anchor, periods.containing(anchor, now), len(units) - number)
                cursor.execute(QUOTA, [made.tenant.pk, period.start, period.end, count])
        return made

    return make


def months_before(now: datetime, count: int) -> datetime:
    return periods.months_after(periods.day_of(now).replace(day=1), -count)


def lab(text: str = DRAFT, *, now: datetime, tenants: tuple[str, ...] = (), months: int = 12) -> price_lab.Report:
    return price_lab.run(draft=draft_plans.read(text), months=months, now=now, tenants=tenants)


def test_each_period_is_rated_as_it_was_and_under_the_draft(past: MakePast, now: datetime) -> None:
    acme = past("Acme", 120_000, 90_000, 300_000)
    report = lab(now=now, tenants=(acme.tenant.slug,))
    (row,) = report.rows
    launch = 3 * 19_00 + 5_00 + 0 + 50_00
    draft = 3 * 29_00 + 0 + 0 + 20_00 + 5_00
    assert (row.periods, row.units) == (3, 510_000)
    assert row.draft
    assert (row.priced_minor, row.draft.total_minor, row.difference_minor) == (launch, draft, draft - launch)
    assert {offer.name.split()[0]: offer.refused for offer in row.offers}["Free"] == 510_000 - 15_000
    assert row.cheapest == min(
        (offer for offer in row.offers if not offer.refused), key=lambda offer: offer.total_minor
    )
    (total,) = report.sums
    assert (total.tenants, total.priced_minor, total.draft_minor, total.pay_more, total.pay_less) == (
        1,
        launch,
        draft,
        int(draft > launch),
        int(draft < launch),
    )


def test_a_plan_that_refuses_calls_is_never_the_cheapest(past: MakePast, now: datetime) -> None:
    acme = past("Acme", 200_000)
    blocking = 'name = "Tiny"\nfee_minor = 1\nincluded = 199_000\noverage = "block"\n'
    (row,) = lab(blocking, now=now, tenants=(acme.tenant.slug,)).rows
    assert row.draft
    assert (row.draft.total_minor, row.draft.refused) == (1, 1_000)
    assert row.cheapest
    assert row.cheapest.name.startswith("Launch")


def test_of_equal_prices_the_present_plan_is_named(past: MakePast, now: datetime) -> None:
    acme = past("Acme", 3_000, plan="free")
    same = 'name = "Also free"\nfee_minor = 0\nincluded = 5_000\noverage = "block"\n'
    (row,) = lab(same, now=now, tenants=(acme.tenant.slug,)).rows
    assert row.cheapest
    assert row.cheapest.name == "Free v1"


def test_only_the_months_asked_for_count(past: MakePast, now: datetime) -> None:
    acme = past("Acme", 1, 2, 3, 4, 5)
    (row,) = lab(now=now, tenants=(acme.tenant.slug,), months=2).rows
    assert (row.periods, row.units) == (2, 9)


def test_a_period_that_a_change_cut_is_one_whole_under_other_plans(past: MakePast, now: datetime) -> None:
    acme = past("Acme", plan="scale", now=now)
    start = months_before(now, 1)
    end = periods.months_after(start, 1)
    cut = start + timedelta(days=14)
    with connection.cursor() as cursor:
        cursor.execute(QUOTA, [acme.tenant.pk, start, cut, 130_000])
        cursor.execute(QUOTA, [acme.tenant.pk, cut, end, 200_000])
    PlanChange.objects.create(
        account=acme.account, kind=PlanChange.Kind.UPGRADE, state=PlanChange.State.APPLIED,
        from_version=public("launch"), to_version=public("scale"), requested_by="test", due_at=cut, cut_at=cut,
        ended_at=cut,
    )  # fmt: skip
    (row,) = lab(now=now, tenants=(acme.tenant.slug,)).rows
    whole = Period(start, end)
    launch = pricing.prorated(fee_minor=19_00, period=whole, at=end - (cut - start))
    scale = pricing.prorated(fee_minor=49_00, period=whole, at=cut)
    assert (row.periods, row.units, row.priced_minor) == (1, 330_000, launch + scale + 7_50)
    assert row.draft
    assert row.draft.total_minor == 29_00 + 20_00 + 8_00  # one fee, 180,000 beyond


def test_a_billed_period_keeps_its_terms_and_its_limit_in_money(past: MakePast, now: datetime) -> None:
    acme = past("Acme", 300_000, plan="scale")
    start = months_before(now, 1)
    BilledPeriod.objects.create(
        account=acme.account, version=public("launch"), currency="usd", subscription_id="sub_1", start=start,
        end=periods.months_after(start, 1), counts_from=start, state=BilledPeriod.State.FINAL, billed_units=300_000,
        cap_minor=10_00,
    )  # fmt: skip
    (row,) = lab(now=now, tenants=(acme.tenant.slug,)).rows
    assert row.priced_minor == 19_00 + 10_00


def test_a_tenant_in_another_currency_is_told_apart(past: MakePast, now: datetime) -> None:
    acme, other = past("Acme", 10), past("Globex", 10, plan="free")
    other.account.currency = "gbp"
    other.account.save()
    report = lab(now=now, tenants=(acme.tenant.slug, other.tenant.slug))
    assert {row.tenant: row.draft is not None for row in report.rows} == {
        acme.tenant.slug: True,
        other.tenant.slug: False,
    }
    assert [total.currency for total in report.sums] == ["usd"]


def test_it_takes_as_many_queries_for_many_tenants_as_for_one(past: MakePast, now: datetime) -> None:
    one = past("Acme", 10, 20)
    with CaptureQueriesContext(
        connection,
    ) as few:
        lab(now=now, tenants=(one.tenant.slug,))
    for _ in range(4):
        past("Globex", 10, 20)
    with CaptureQueriesContext(connection) as many:
        lab(now=now)
    assert len(many) == len(few) <= 5
    assert not [query for query in many if not query["sql"].startswith("SELECT")]


# -- the ways in ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    found = tmp_path / "draft.toml"
    found.write_text(DRAFT)
    return found


def test_the_command_prints_a_line_for_each_tenant_and_the_sums(past: MakePast, plan_file: Path) -> None:
    acme, _ = past("Acme", 120_000), past("Globex", 4_000, plan="free")
    out = StringIO()
    call_command("price_lab", plan=plan_file, tenant=[acme.tenant.slug], json=True, stdout=out)
    said = json.loads(out.getvalue())
    assert [row["tenant"] for row in said["tenants"]] == [acme.tenant.slug]
    assert said["tenants"][0] | {"plans": []} == {
        "tenant": acme.tenant.slug, "plan_version": "Launch v1", "currency": "usd", "periods": 1, "units": 120_000,
        "priced_minor": 24_00, "draft_minor": 29_00, "difference_minor": 5_00, "draft_refuses_units": 0,
        "cheapest": "Launch v1", "cheapest_minor": 24_00, "plans": [],
    }  # fmt: skip
    out = StringIO()
    call_command("price_lab", plan=plan_file, stdout=out)
    assert "2 tenant(s) in usd" in out.getvalue()


def test_the_command_refuses_with_the_reason(db: None, plan_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no tenants with a plan of these addresses: nobody"):
        call_command("price_lab", plan=plan_file, tenant=["nobody"])
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("price_lab", plan=tmp_path / "none.toml")
    with pytest.raises(CommandError, match="--months is 1 to 24"):
        call_command("price_lab", plan=plan_file, months=0)
    plan_file.write_text("name = 5")
    with pytest.raises(CommandError, match=r"draft\.toml: Line 1, name"):
        call_command("price_lab", plan=plan_file)


PAGE = "admin:billing_price_lab"


@pytest.fixture
def operator(db: None) -> Client:
    """Signed in, staff, with the right to see plans and accounts and no other."""
    user = User.objects.create_user("olivia-lab@meterhouse.example", "x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=["view_planversion", "view_account"]))
    client = Client()
    client.force_login(user)
    return client


def test_operators_try_a_draft_on_a_page_and_nothing_is_written(past: MakePast, operator: Client) -> None:
    acme = past("Acme", 120_000)
    assert "Launch 2027" in operator.get(reverse(PAGE)).content.decode()  # the example
    with CaptureQueriesContext(connection) as queries:
        answer = operator.post(reverse(PAGE), {"plan": DRAFT, "months": 12, "tenants": acme.tenant.slug})
    text = answer.content.decode()
    assert acme.tenant.slug in text
    assert "Launch v1: 2,400" in text
    assert not [query["sql"] for query in queries if not query["sql"].startswith(("SELECT", "SAVEPOINT", "RELEASE"))]
    assert reverse(PAGE) in operator.get(reverse("admin:billing_planversion_changelist")).content.decode()


def test_the_page_says_what_is_wrong(past: MakePast, operator: Client) -> None:
    def post(**changes: object) -> str:
        return operator.post(reverse(PAGE), {"plan": DRAFT, "months": 12, "tenants": ""} | changes).content.decode()

    assert "Line 3, fee: there is no such field. Did you mean fee_minor?" in post(
        plan=DRAFT.replace("fee_minor", "fee", 1)
    )
    assert "these addresses: nobody" in post(tenants="nobody")
    assert "No period is over in this time" in post(months=1)


def test_nobody_else_gets_in(past: MakePast) -> None:
    acme = past("Acme", 10)
    client = Client()
    assert client.get(reverse(PAGE)).status_code == 302
    client.force_login(acme.user)
    assert client.get(reverse(PAGE)).status_code == 302
    staff = User.objects.create_user("sid-lab@meterhouse.example", "x", is_staff=True)
    client.force_login(staff)
    assert client.get(reverse(PAGE)).status_code == 403
    assert client.post(reverse(PAGE), {"plan": DRAFT, "months": 12}).status_code == 403


def test_plans_by_agreement_are_not_offered_to_others(past: MakePast, now: datetime) -> None:
    acme = past("Acme", 10)
    accounts.agreed_version(tenant=acme.tenant, version=public("enterprise"), agreed=accounts.Agreed(fee_minor=1))
    (row,) = lab(now=now, tenants=(past("Globex", 10).tenant.slug,)).rows
    assert {offer.name for offer in row.offers} == {"Free v1", "Launch v1", "Scale v1", "Launch 2027"}
