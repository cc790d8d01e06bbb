"""Invoices as a customer reads them: every state, both sides, and nobody else's."""

import csv
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone
from djstripe import models as kept

from billing import accounts, invoices, mirrored_invoices
from billing.models import BilledPeriod, Charge, StripePrices
from metering import periods
from metering.models import UsageHour
from metering.periods import Period
from tenants import keys
from tests.billing import mirrored
from tests.conftest import MakeTenant

from .conftest import Visit, Visitor, add_usage
from .test_pages import words

HTMX = {"HX-Request": "true"}


def text_of(visitor: Visitor, name: str = "invoices") -> str:
    return words(visitor.page(name))


# -- States ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("state", "fields", "said"),
    [
        ("draft", {}, "Draft The last calls still go on it"),
        ("open", {}, "To be paid"),
        ("open", {"attempt_count": 1, "next_payment_attempt": 1_800_000_000}, "Payment failed The card is tried again at 15 Jan"),
        ("open", {"attempt_count": 4}, "Payment failed It is not tried again by itself."),
        ("paid", {}, "Paid"),
        ("paid", {"post_payment_credit_notes_amount": 4_00}, "Paid $4.00 given back by a credit note"),
        ("void", {}, "Void It is not to be paid."),
        ("uncollectible", {}, "Given up It was not paid"),
    ],
)  # fmt: skip
def test_every_state_is_told_in_words(visit: Visit, state: str, fields: dict[str, Any], said: str) -> None:
    acme = visit(plan="launch")
    one = mirrored.invoice(acme.owned.account, now=timezone.now(), state=state, **fields)
    assert said in text_of(acme)
    assert "$19.00" in text_of(acme, f"invoices/{one}")
    html = acme.page(f"invoices/{one}")
    is_payable = state in {"open", "uncollectible"}
    assert ("Pay $19.00 on Stripe" in words(html)) == is_payable
    assert ("https://invoice.stripe.com/i/" in html) == (state != "draft")


def test_only_https_and_the_stand_in_are_linked(settings: Any) -> None:
    settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = "http://127.0.0.1:12111", False
    good = ["https://invoice.stripe.com/i/x", "http://127.0.0.1:12111/i/x"]
    bad = [
        "http://evil.example/i",
        "javascript:alert(1)",
        "https://",
        "http://127.0.0.1:9/i",
        "//x.example",
        "http://[",
        None,
    ]
    assert [mirrored_invoices.safe_address(one) for one in good] == good
    assert not any(mirrored_invoices.safe_address(one) for one in bad)
    settings.STRIPE_IS_REAL = True
    assert not mirrored_invoices.safe_address("http://127.0.0.1:12111/i/x")


def test_free_tenants_are_told_why_there_are_none(visit: Visit) -> None:
    assert "There are no invoices Free is not paid through Stripe" in text_of(visit("Globex"))


def test_customers_without_one_are_told_when_it_comes(visit: Visit) -> None:
    acme = visit(plan="launch")
    mirrored.customer_of(acme.owned.account)
    assert "No invoices yet" in text_of(acme)


def test_a_tenant_sees_its_own_invoices_alone(visit: Visit) -> None:
    acme, initech = visit("Acme", plan="launch"), visit("Initech", plan="launch")
    one = mirrored.invoice(acme.owned.account, now=timezone.now(), number="ACME-0001")
    mirrored.customer_of(initech.owned.account)
    for name in ("invoices", "invoices.csv", ""):
        answer = initech.client.get(f"/t/{initech.slug}/{name}")
        assert "ACME-0001" not in (b"".join(answer) if answer.streaming else answer.content).decode()
    assert initech.client.get(f"/t/{initech.slug}/invoices/{one}").status_code == 404
    assert "ACME-0001" in acme.page()


def test_names_from_stripe_are_only_printed(visit: Visit) -> None:
    acme, now = visit(plan="launch"), timezone.now()
    evil = "<script>alert(1)</script>"
    rows = [mirrored.line(1_00, start=now, end=now, description=evil)]
    one = mirrored.invoice(
        acme.owned.account, now=now, number=evil, lines=rows, hosted_invoice_url="javascript:alert(1)"
    )
    for name in ("", "invoices", f"invoices/{one}"):
        assert evil not in acme.page(name)
        assert "javascript:" not in acme.page(name)


def test_fifty_are_on_a_page(visit: Visit, django_assert_max_num_queries: Any) -> None:
    acme, now = visit(plan="launch"), timezone.now()
    for number in range(51):
        mirrored.invoice(acme.owned.account, now=now - timedelta(days=number), number=f"ACME-{number:04d}")
    acme.page("invoices")
    with django_assert_max_num_queries(12):
        first = acme.page("invoices")
    assert "ACME-0049" in first
    assert "ACME-0050" not in first
    assert 'rel="next" href="?page=2"' in first
    assert "ACME-0050" in acme.page("invoices?page=2")
    assert 'rel="prev"' in acme.page("invoices?page=2")
    assert "ACME-0000" in acme.page("invoices?page=nonsense")


# -- Both sides --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def launch(db: None) -> StripePrices:
    """Where Launch stands at Stripe."""
    version = accounts.public_version(plan_code="launch")
    return StripePrices.objects.create(
        version=version, meter_id="mtr_1", product_id="prod_1", fee_price_id="price_fee", usage_price_id="price_usage"
    )


def priced(price: str, unit: str) -> dict[str, Any]:
    return {"pricing": {"price_details": {"price": price, "product": "prod_1"}, "unit_amount_decimal": unit}}


Billed = tuple[Visitor, BilledPeriod]
SET_USED = """
INSERT INTO metering_quota (tenant_id, period_start, period_end, used) VALUES (%s, %s, %s, %s)
ON CONFLICT (tenant_id, period_start) DO UPDATE SET used = EXCLUDED.used
"""


def set_used(acme: Visitor, period: Period, units: int) -> None:
    """So many calls of the period are counted, all on its fourth day."""
    usage = UsageHour.objects.filter(tenant_id=acme.owned.account.pk, period_start=period.start)
    before = sum(usage.values_list("units", flat=True))
    add_usage(acme.owned.key, period.start + timedelta(days=3), billable=units - before)
    with connection.cursor() as cursor:
        cursor.execute(SET_USED, [acme.owned.account.pk, period.start, period.end, units])


@pytest.fixture
def billed(visit: Visit, launch: StripePrices) -> Billed:
    """acme's last period, with 110,000 calls of which 100,000 were included: $19.00 and $2.50."""
    acme, now = visit(plan="launch"), timezone.now()
    account = acme.owned.account
    period = periods.previous(account.anchor, periods.containing(account.anchor, account.anchor))
    start, end = period.start, period.end
    set_used(acme, period, 110_000)
    row = BilledPeriod.objects.create(
        account=account, version=launch.version, currency="usd", subscription_id="sub_1", item_id="si_1", meter_id="mtr_1",
        start=start, end=end, counts_from=start, state="final", billed_units=110_000, final_at=now,
    )  # fmt: skip
    lines = [
        mirrored.line(19_00, start=end, end=now + timedelta(days=10), **priced("price_fee", "1900")),
        mirrored.line(0, start=start, end=end, quantity=100_000, **priced("price_usage", "0")),
        mirrored.line(2_50, start=start, end=end, quantity=10_000, **priced("price_usage", "0.025")),
    ]
    row.invoice_id = mirrored.invoice(account, now=end + timedelta(hours=1), lines=lines, number="ACME-0002")
    row.save(update_fields=["invoice_id"])
    return acme, row


def change_invoice(row: BilledPeriod, **fields: Any) -> None:
    invoice = kept.Invoice.objects.get(id=row.invoice_id)
    invoice.stripe_data = {**invoice.stripe_data, **fields}
    invoice.save()


def compared(acme: Visitor, row: BilledPeriod) -> invoices.Compared:
    found = invoices.one(account=acme.owned.account, invoice_id=row.invoice_id)
    assert found
    return found


def test_both_sides_agree_to_the_cent(billed: Billed) -> None:
    acme, row = billed
    found = compared(acme, row)
    assert (found.ours_minor, found.invoice.total_minor, found.differences, found.unexplained_minor) == (
        21_50,
        21_50,
        (),
        0,
    )
    assert found.is_settled
    text = text_of(acme, f"invoices/{row.invoice_id}")
    assert "Our records and Stripe's invoice agree to the cent." in text
    assert "Calls beyond the included ones" in text
    assert "10,000 $0.25 per 1,000" in text


def test_a_line_leads_to_the_usage_and_to_the_arithmetic(billed: Billed) -> None:
    acme, row = billed
    html = acme.page(f"invoices/{row.invoice_id}").replace("&amp;", "&")
    assert f"/t/{acme.slug}/why?period={row.start:%Y-%m-%d}" in html
    assert f"/t/{acme.slug}/usage?from={row.start:%Y-%m-%d}" in html


def test_tax_and_discounts_are_named(billed: Billed) -> None:
    acme, row = billed
    change_invoice(
        row, total=24_00, total_taxes=[{"amount": 4_00}, {"amount": 9_99, "tax_behavior": "inclusive"}],
        total_discount_amounts=[{"amount": 1_50}],
    )  # fmt: skip
    found = compared(acme, row)
    assert [(one.kind, one.amount_minor) for one in found.differences] == [("discount", -1_50), ("tax", 4_00)]
    assert not found.unexplained_minor
    assert "discount, tax" in text_of(acme)


def test_calls_that_were_written_off_are_named(billed: Billed) -> None:
    acme, row = billed
    set_used(acme, Period(row.start, row.end), 114_000)
    assert not compared(acme, row).is_settled
    assert compared(acme, row).unexplained_minor == -1_00
    Charge.objects.create(
        account=acme.owned.account, period=row, kind="late", units=4_000, amount_minor=1_00, currency="usd",
        description="late", state="written_off",
    )  # fmt: skip
    found = compared(acme, row)
    assert [(one.kind, one.amount_minor, one.units) for one in found.differences] == [("written_off", -1_00, 4_000)]
    assert found.is_settled
    assert not found.unexplained_minor
    assert "Calls that were counted after the invoice was final: never charged. Calls: 4,000." in text_of(
        acme, f"invoices/{row.invoice_id}"
    )


def test_a_credit_for_another_period_is_ours_too(billed: Billed) -> None:
    acme, row = billed
    earlier = BilledPeriod.objects.create(
        account=acme.owned.account, version=row.version, currency="usd", subscription_id="sub_1", meter_id="mtr_1",
        start=row.start - timedelta(days=30), end=row.start, counts_from=row.start - timedelta(days=30), state="final",
        billed_units=0, invoice_id="in_earlier",
    )  # fmt: skip
    credit = Charge.objects.create(
        account=acme.owned.account, period=earlier, kind="correction", units=-400, amount_minor=-10, currency="usd",
        description="400 calls that were corrected", state="added", stripe_id="ii_1",
    )  # fmt: skip
    invoice = kept.Invoice.objects.get(id=row.invoice_id)
    item = mirrored.line(-10, start=earlier.start, end=earlier.end, metadata={"charge": str(credit.pk)})
    rows = [*invoice.stripe_data["lines"]["data"], item]
    change_invoice(row, lines={"data": rows, "has_more": False}, total=21_40)
    found = compared(acme, row)
    assert (found.ours_minor, found.differences, found.unexplained_minor) == (21_40, (), 0)
    assert "Calls that were corrected after the invoice was final" in text_of(acme, f"invoices/{row.invoice_id}")


def test_what_nobody_can_name_is_said(billed: Billed) -> None:
    acme, row = billed
    change_invoice(row, total=21_51)
    found = compared(acme, row)
    assert found.unexplained_minor == 1
    text = text_of(acme, f"invoices/{row.invoice_id}")
    assert "Not explained +$0.01" in text
    assert "has no name" in text


# -- API and file --------------------------------------------------------------------------------------------------------------
def test_pages_api_and_file_say_the_same(billed: Billed, make_tenant: MakeTenant, call: Any) -> None:
    acme, row = billed
    _, secret = keys.issue(project=acme.owned.key.project, name="books", actor="test", scopes=frozenset({"money:read"}))
    listed = call(secret, "/api/v1/invoices").json()
    (told,) = listed["invoices"]
    assert (told["number"], told["total_minor"], told["local_total_minor"]) == ("ACME-0002", 21_50, 21_50)
    assert listed["next_page"] is None
    one = call(secret, f"/api/v1/invoices/{row.invoice_id}").json()
    assert {name: one[name] for name in told} == told
    assert [item["kind"] for item in one["lines"]] == ["fee", "usage", "usage"]
    file = b"".join(acme.client.get(f"/t/{acme.slug}/invoices.csv")).decode()
    (written,) = csv.DictReader(StringIO(file))
    assert list(written) == list(told)
    assert written == {name: "" if value is None else str(value) for name, value in told.items()}
    initech = make_tenant("Initech")
    assert call(initech.api_key, "/api/v1/invoices").status_code == 403  # ordinary keys lack the scope


def test_stripe_is_never_asked(billed: Billed, settings: Any) -> None:
    acme, row = billed
    settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = "http://127.0.0.1:1", False
    for name in ("", "invoices", f"invoices/{row.invoice_id}", "invoice", "why", "plan"):
        assert acme.client.get(f"/t/{acme.slug}/{name}").status_code == 200
