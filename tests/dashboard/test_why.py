"""Why this number: every amount down to days, keys and calls, for owners and operators, by page and API."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import estimates, next_invoice
from billing.models import BilledPeriod, Charge, StripePrices, UsageReport
from metering import periods
from metering.models import UsageHour
from tenants import keys
from tenants.models import User
from tests.billing import mirrored
from tests.billing.conftest import public

from .conftest import Visit, Visitor, add_days, add_usage
from .test_pages import words


@pytest.fixture
def acme(visit: Visit) -> Visitor:
    """On Launch, with 130,019 calls of two days and three capabilities."""
    acme, now = visit(plan="launch"), timezone.now()
    add_usage(acme.owned.key, now - timedelta(days=3), capability="auth", billable=90_000)
    add_usage(acme.owned.key, now - timedelta(days=2), capability="storage", billable=40_019)
    return acme


def money_key(acme: Visitor) -> str:
    return keys.issue(project=acme.owned.key.project, name="books", actor="test", scopes=frozenset({"money:read"}))[1]


def test_every_line_has_its_steps_days_and_keys(acme: Visitor) -> None:
    text = words(acme.page("why"))
    assert "What the period costs so far $26.50" in text
    assert "30,019 calls \N{MULTIPLICATION SIGN} $0.25 per 1,000 = $7.50475." in text
    assert "Rounded once, half a unit away from zero: $7.50." in text
    assert "Number 100,001 to 130,019 of the period's calls" in text
    assert str(acme.owned.key) in text


def test_a_day_is_looked_at_down_to_what_the_log_keeps(acme: Visitor) -> None:
    html = acme.page("why").replace("&amp;", "&")
    days = re.findall(r'href="(/t/[^"]*day=[^"#]*)', html)
    assert len(set(days)) == 2
    text = words(acme.client.get(days[-1]).content.decode())
    assert re.search(r"Calls of \d+ \w+ \d{4} \(UTC\) 40,019", text)
    long_ago = timezone.now() - timedelta(days=400)
    assert acme.client.get(f"/t/{acme.slug}/why?period={long_ago:%Y-%m-%d}&day={long_ago:%Y-%m-%d}").status_code == 200


@pytest.mark.parametrize(
    "query", ["?period=x", "?period=9999-12-31", "?period=0001-01-01", "?day=31-12-99", "?day=2026-13-01"]
)
def test_what_cannot_be_read_is_the_running_period(acme: Visitor, query: str) -> None:
    assert "What the period costs so far" in words(acme.page(f"why{query}"))


@pytest.mark.parametrize("name", ["", "invoice", "plan", "why", "invoices"])
def test_a_page_asks_few_questions(
    acme: Visitor, launch: StripePrices, name: str, django_assert_max_num_queries: Any
) -> None:
    subscribe(acme, launch)
    mirrored.invoice(acme.owned.account, now=timezone.now())
    acme.page(name)
    with django_assert_max_num_queries(12):
        acme.page(name)


def test_operators_answer_it_from_the_account(acme: Visitor, client: Client) -> None:
    boss = User.objects.create_superuser("boss@example.com", "x")
    client.force_login(boss)
    account = f"/admin/billing/account/{acme.owned.account.pk}"
    assert f"{account}/why/" in client.get(f"{account}/change/").content.decode()
    text = client.get(f"{account}/why/").content.decode()
    assert "30,019 calls, number 100,001 to 130,019 x 0.025 = 750.475" in text
    assert client.get(f"{account}/why/?period=2020-02-30").status_code == 200
    boss.is_superuser = False
    boss.save()
    assert client.get(f"{account}/why/").status_code == 403


def test_the_api_explains_the_same(acme: Visitor, call: Callable[..., Any]) -> None:
    told = call(money_key(acme), "/api/v1/explain").json()
    assert told["total_minor"] == 26_50
    (overage,) = (line for line in told["lines"] if line["kind"] == "overage")
    assert (overage["exact_minor"], overage["rounding_minor"], overage["amount_minor"]) == ("750.475", "-0.475", 7_50)
    assert {part["key"] for part in overage["parts"]} == {acme.owned.key.prefix}
    assert call(acme.owned.api_key, "/api/v1/explain").status_code == 403
    assert call(money_key(acme), "/api/v1/explain?period=nonsense").status_code == 400


# -- The next invoice ------------------------------------------------------------------------------------------------------
@pytest.fixture
def launch(db: None) -> StripePrices:
    return StripePrices.objects.create(
        version=public("launch"),
        meter_id="mtr_1",
        product_id="prod_1",
        fee_price_id="price_fee",
        usage_price_id="price_usage",
    )


def subscribe(acme: Visitor, launch: StripePrices) -> BilledPeriod:
    """acme pays through Stripe, and its running period is written down."""
    account = acme.owned.account
    mirrored.customer_of(account)
    period = periods.containing(account.anchor, timezone.now())
    account.subscription_id, account.state = "sub_1", "active"
    account.period_start, account.period_end = period.start, period.end
    account.save()
    return BilledPeriod.objects.create(
        account=account, version=launch.version, currency="usd", subscription_id="sub_1", item_id="si_1", meter_id="mtr_1",
        start=period.start, end=period.end, counts_from=period.start,
    )  # fmt: skip


def test_what_waits_and_what_the_plan_changes_to_are_in_the_next_invoice(
    acme: Visitor, launch: StripePrices, call: Callable[..., Any]
) -> None:
    running = subscribe(acme, launch)
    account = acme.owned.account
    before = BilledPeriod.objects.create(
        account=account, version=launch.version, currency="usd", subscription_id="sub_1", meter_id="mtr_1", state="final",
        start=running.start - timedelta(days=30), end=running.start, counts_from=running.start, billed_units=0,
        invoice_id="in_before",
    )  # fmt: skip
    Charge.objects.create(
        account=account, period=before, kind="correction", units=-400, amount_minor=-10, currency="usd",
        description="400 calls that were corrected", state="added", stripe_id="ii_1",
    )  # fmt: skip
    account.cancels_at = running.end
    account.save()
    add_days(acme.owned.key, now=timezone.now() - timedelta(days=25), days=20, calls=3_000)
    told = call(money_key(acme), "/api/v1/invoices/preview").json()
    assert [(one["kind"], one["amount_minor"]) for one in told["additions"]] == [
        ("fee_change", -19_00),
        ("correction", -10),
    ]
    assert told["so_far"]["total_minor"] == 26_50 - 19_00 - 10
    text = words(acme.page("invoice"))
    assert "400 calls that were corrected -$0.10" in text
    assert "The plan ends with the period: no further fee -$19.00" in text
    likely = told["projected"]["likely"]["total_minor"]
    assert f"${likely / 100:,.2f}" in words(acme.page())
    assert "This period's calls on each plan" in text
    mirrored.set_balance(account, -1_00)
    assert "From your balance at Stripe -$1.00" in words(acme.page("invoice"))


def test_a_balance_is_used_no_further_than_the_total(acme: Visitor) -> None:
    account = acme.owned.account
    assert next_invoice.balance(account=account, total_minor=5_00) == 0
    mirrored.set_balance(account, -20_00)
    assert next_invoice.balance(account=account, total_minor=5_00) == -5_00
    mirrored.set_balance(account, 3_00)
    assert next_invoice.balance(account=account, total_minor=5_00) == 3_00


# -- Freshness -------------------------------------------------------------------------------------------------------------
def test_pages_say_up_to_when_stripe_has_it(acme: Visitor, launch: StripePrices) -> None:
    assert "sent to Stripe" not in acme.page("invoice")
    running = subscribe(acme, launch)
    now = timezone.now()
    hour = periods.hour_of(now)

    def sent_to() -> Any:
        return estimates.statement(account=acme.owned.account, now=now).sent_to

    assert sent_to() == running.start
    BilledPeriod.objects.update(scanned_to=now)
    assert sent_to() == hour
    report = UsageReport.objects.create(
        account=acme.owned.account, period=running, subscription_id="sub_1", meter_id="mtr_1", period_start=running.start,
        window_start=hour - timedelta(hours=5), window_end=hour - timedelta(hours=4), quantity=1, stamped_at=now, state="pending",
    )  # fmt: skip
    assert sent_to() == hour - timedelta(hours=5)
    UsageReport.objects.filter(pk=report.pk).update(state="confirmed")
    assert sent_to() == hour
    assert re.search(r"Counted to [\d:]+ \(UTC\), sent to Stripe to ", words(acme.page("invoice")).replace(" ,", ","))


def test_the_calls_of_a_trial_cost_nothing_on_every_page(acme: Visitor, launch: StripePrices) -> None:
    subscribe(acme, launch)
    BilledPeriod.objects.update(is_free=True)
    assert estimates.statement(account=acme.owned.account, now=timezone.now()).invoice.total_minor == 19_00
    assert "What the period costs so far $19.00" in words(acme.page("why"))
    assert UsageHour.objects.filter(tenant_id=acme.owned.account.pk).exists()
