"""Buying in a real browser: sign up, pay on the simulated Stripe's page, change, fail to pay, with and without JavaScript."""

import re
import uuid
from collections.abc import Iterator

import pytest
from django.test.utils import override_settings
from django.utils import timezone
from playwright.sync_api import Page, expect
from pytest_django import DjangoDbBlocker

from billing import accounts, catalogue, changes, subscriptions
from billing.models import Account
from metering.models import Allowance
from sandbox.stripe_simulator import Settings, StripeSimulator
from tenants.models import Role
from tests.billing.conftest import GOOD_CARD, KEY, THIN_WEBHOOK_SECRET, WEBHOOK_SECRET, Stripe

from .conftest import be
from .test_in_browser import (  # the browser's fixtures
    Open,
    assert_fits_and_is_accessible,
    browser_type_launch_args,
    complaints,
    open_context,
    serving,
)

__all__ = ["browser_type_launch_args", "complaints", "open_context"]
PASSWORD = "correct horse battery"
SECONDS = 5_000  # milliseconds


@pytest.fixture(scope="module")
def shop(django_db_setup: None) -> Iterator[Stripe]:
    """A Stripe that the tests of this module share."""
    with StripeSimulator(settings=Settings(api_keys=(KEY,), summary_delay_seconds=0)) as simulator:
        at = {"STRIPE_API_BASE": simulator.url, "STRIPE_IS_REAL": False, "STRIPE_TEST_SECRET_KEY": KEY}
        with override_settings(**at):
            yield Stripe(simulator)


@pytest.fixture(autouse=True)
def _catalogue(shop: Stripe, committed: None) -> None:
    """The plans are for sale; a test's end forgets where."""
    catalogue.make(now=timezone.now())


@pytest.fixture(scope="module")
def site(shop: Stripe, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose Stripe that is."""
    keys = {
        "STRIPE_API_BASE": shop.url,
        "STRIPE_TEST_SECRET_KEY": KEY,
        "STRIPE_WEBHOOK_SECRETS": WEBHOOK_SECRET,
        "STRIPE_THIN_WEBHOOK_SECRETS": THIN_WEBHOOK_SECRET,
    }
    with serving(tmp_path_factory.mktemp("shop") / "web.log", django_db_blocker, **keys) as url:
        yield url


def sign_up(page: Page) -> Account:
    """A new organisation's owner sits before the first-run page."""
    name = f"Hooli {uuid.uuid4().hex[:8]}"
    page.goto("/login")
    page.get_by_role("link", name="Create a free account").click()
    page.get_by_label("Organisation").fill(name)
    page.get_by_label("E-mail address").fill(f"{uuid.uuid4().hex}@hooli.example")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create the account").click()
    expect(page.locator("#first-key")).to_contain_text("mh_live_")
    return Account.objects.get(tenant__name=name)


def open_page(page: Page, name: str) -> None:
    menu = page.get_by_role("navigation", name="Main")
    link = menu.get_by_role("link", name=name, exact=True)
    if not link.is_visible():  # on a narrow screen
        menu.locator("summary").click()
    link.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def buy(page: Page, plan: str = "Launch") -> None:
    open_page(page, "Plan")
    page.get_by_role("button", name=f"Subscribe to {plan}").click()
    page.wait_for_url("**/c/pay/**")
    page.get_by_role("button", name="Subscribe").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your plan is active", timeout=SECONDS)
    expect(page.locator(".here")).to_contain_text(plan)


def work() -> None:
    """What the worker does every few seconds."""
    changes.advance_due(now=timezone.now())


def test_from_signing_up_to_the_largest_plan_and_back(
    open_context: Open, committed: None, shop: Stripe, complaints: list[str]
) -> None:
    page = open_context().new_page()
    account = sign_up(page)
    buy(page)
    assert Allowance.objects.get(pk=account.pk).included == 100_000

    open_page(page, "Plan")
    page.get_by_role("link", name="Upgrade to Scale").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Change from Launch to Scale")
    page.get_by_role("button", name=re.compile("upgrade now")).click()
    made = page.locator("#strip-made")
    for _ in range(10):
        work()
        if made.count() or not account.changes.filter(state__in=["settling", "applying"]).exists():
            break
    expect(made).to_contain_text("You are on Scale now.", timeout=SECONDS)
    expect(page.locator(".here")).to_contain_text("Scale")
    assert Allowance.objects.get(pk=account.pk).included == 1_000_000

    page.get_by_role("link", name="Change to Launch").click()
    page.get_by_role("button", name="Change to Launch at the period's end").click()
    work()
    page.reload()
    expect(page.locator("#strip-scheduled")).to_contain_text("you move from Scale to Launch")
    page.get_by_role("button", name="Keep Scale").click()
    expect(page.locator(".told")).to_be_focused()
    work()
    page.reload()
    expect(page.locator("#strip-scheduled")).to_have_count(0)
    assert complaints == []


def test_what_is_unpaid_is_told_and_paid_on_stripes_page(
    open_context: Open, committed: None, shop: Stripe, complaints: list[str]
) -> None:
    """As Stripe once said: a real refusal needs its clock to move, which the other tests of this module share."""
    page = open_context().new_page()
    account = sign_up(page)
    buy(page)
    account.refresh_from_db()
    customer_id = account.customer_id or ""
    client = shop.client.v1
    client.invoice_items.create({"customer": customer_id, "amount": 1234, "currency": "usd"})
    invoice = client.invoices.create({"customer": customer_id, "pending_invoice_items_behavior": "include"})
    client.invoices.finalize_invoice(invoice.id)
    Account.objects.filter(pk=account.pk).update(state="past_due", past_due_since=timezone.now())
    page.goto(f"/t/{account.tenant.slug}/")
    strip = page.locator("#strip-past-due")
    expect(strip).to_contain_text("A payment has failed")
    expect(strip).to_contain_text("$12.34", timeout=SECONDS)
    strip.get_by_role("link", name="Pay now").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Open invoices")
    page.get_by_role("link", name="Pay $12.34 on Stripe's page").click()
    expect(page).to_have_url(re.compile(f"^{shop.url}/"))
    shop.use_card(customer_id, GOOD_CARD)
    shop.pay_all(customer_id)
    subscriptions.sync(account_id=account.pk, now=timezone.now())
    page.goto(f"/t/{account.tenant.slug}/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    expect(strip).to_have_count(0)
    assert complaints == []


def test_all_forms_work_without_javascript(open_context: Open, committed: None, shop: Stripe) -> None:
    page = open_context(java_script_enabled=False).new_page()
    account = sign_up(page)
    open_page(page, "Plan")
    page.get_by_role("button", name="Subscribe to Launch").click()
    page.wait_for_url("**/c/pay/**")
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Plan")
    buy(page)
    open_page(page, "Alerts and limits")
    page.get_by_label("Money per period").fill("10")
    page.get_by_role("button", name="See what it does").click()
    expect(page.locator("#effect")).to_contain_text("$10.00 pays for 140,019 calls")
    page.locator("#hard-limit").get_by_role("button", name="Save the limit").click()
    expect(page.locator(".told")).to_have_text("The hard limit is saved and enforced.")
    page.get_by_label("Refuse them").first.check()
    page.locator("#policy").get_by_role("button", name="Save", exact=True).click()
    page.get_by_label("I agree to this").check()
    page.get_by_role("button", name="Arrange it").click()
    expect(page.locator("#upgrade")).to_contain_text("To Scale, agreed by")
    page.get_by_role("button", name="Withdraw the agreement").click()
    expect(page.locator("#upgrade")).to_contain_text("I agree to this")
    account.refresh_from_db()
    assert (account.hard_limit_minor, account.policy) == (1000, "block")


def test_the_effect_of_a_limit_follows_what_is_typed(
    open_context: Open, committed: None, shop: Stripe, complaints: list[str]
) -> None:
    page = open_context().new_page()
    sign_up(page)
    buy(page)
    open_page(page, "Alerts and limits")
    field = page.get_by_label("Money per period")
    field.press_sequentially("10")
    expect(page.locator("#effect")).to_contain_text("$10.00 pays for 140,019 calls", timeout=SECONDS)
    expect(field).to_be_focused()
    field.press_sequentially("x")
    expect(page.locator("#effect")).to_contain_text("Correct the marked field", timeout=SECONDS)
    assert complaints == []


@pytest.mark.long  # the pages themselves are looked at in test_every_page_in_browser; here with all that a purchase goes through
@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1440)])
def test_the_pages_of_buying_are_accessible_and_fit(
    open_context: Open, committed: None, shop: Stripe, complaints: list[str], scheme: str, width: int
) -> None:
    page = open_context(color_scheme=scheme, viewport={"width": width, "height": 800}).new_page()
    account = sign_up(page)
    assert_fits_and_is_accessible(page, width)
    home = f"/t/{account.tenant.slug}"
    page.goto(f"{home}/plan/returned")  # Stripe is confirming
    assert_fits_and_is_accessible(page, width)
    buy(page)
    assert_fits_and_is_accessible(page, width)
    scale = accounts.public_version(plan_code="scale").pk
    for address in ("plan", "limits", f"plan/change?to={scale}", "plan/pay"):
        page.goto(f"{home}/{address}")
        assert_fits_and_is_accessible(page, width)
    Account.objects.filter(pk=account.pk).update(state="restricted", past_due_since=timezone.now())
    page.goto(f"{home}/plan")
    assert_fits_and_is_accessible(page, width)
    be(account.tenant, Role.VIEWER)
    page.goto(f"{home}/limits")
    assert_fits_and_is_accessible(page, width)
    assert complaints == []
