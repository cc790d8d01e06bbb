"""Buying and changing plans through the pages, with the simulated Stripe: what a customer clicks and then sees."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from billing import accounts, catalogue, changes, stripe_api, subscriptions
from billing.models import Account, PaymentState, PlanChange, PlanVersion
from metering.models import Allowance
from tenants import directory
from tenants.models import AuditEntry, Role
from tests.billing.conftest import Stripe, Subscribe

from .conftest import Visit, Visitor, add_usage
from .test_pages import words


def public(plan: str) -> PlanVersion:
    return accounts.public_version(plan_code=plan)


def account(visitor: Visitor) -> Account:
    return Account.objects.select_related("plan_version__plan").get(pk=visitor.owned.tenant.pk)


def post(visitor: Visitor, page: str, **fields: Any) -> Any:
    return visitor.client.post(f"/t/{visitor.slug}/{page}", fields)


def told(visitor: Visitor, answer: Any) -> str:
    """What the page that the answer leads to says."""
    assert answer.status_code == 302
    return words(visitor.client.get(answer["Location"]).content.decode())


@pytest.fixture
def customer(visit: Visit, subscribe: Subscribe) -> Callable[..., Visitor]:
    """The owner of a tenant that pays for a plan, signed in."""

    def enter(plan: str = "launch", name: str = "Acme") -> Visitor:
        visitor = visit(name)
        subscribe(plan, account=visitor.owned.account)
        assert account(visitor).state == PaymentState.ACTIVE
        return visitor

    return enter


def latest(stripe: Stripe) -> datetime:
    """Never before a reading that a page has made by our own clock."""
    return max(timezone.now(), stripe.now)


def finish(visitor: Visitor, stripe: Stripe) -> PlanChange:
    """The worker has done its part of the newest change."""
    change = account(visitor).changes.first()
    assert change
    for _ in range(10):
        if not change.is_open:
            return change
        change = changes.advance(change_id=change.pk, now=latest(stripe))
    pytest.fail(f"The change stays {change.state}.")


# -- Subscribing ---------------------------------------------------------------------------------------------------------------
@pytest.fixture
def sold(stripe: Stripe, db: None) -> None:
    """The catalogue is at Stripe."""
    catalogue.make(now=stripe.now)


def pay(stripe: Stripe, address: str, card: str = "pm_card_visa") -> str:
    """The customer pays on Stripe's page; where that leads to."""
    url = urlsplit(address)
    connection = HTTPConnection(url.netloc, timeout=10)
    connection.request(
        "POST", url.path, urlencode({"action": "pay", "card": card, "name": "Alice"}),
        {"Content-Type": "application/x-www-form-urlencoded"},
    )  # fmt: skip
    leads_to = connection.getresponse().headers["Location"]
    connection.close()
    return str(leads_to)


def test_a_free_tenant_buys_a_plan_and_sees_its_limits_at_once(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    html = acme.page("plan")
    assert "Subscribe to Launch" in words(html)
    answer = post(acme, "plan/subscribe", version=public("launch").pk, currency="usd")
    assert answer["Location"].startswith(f"{stripe.url}/c/pay/cs_")
    assert account(acme).plan_version.plan.code == "free", "nothing is enforced before it is paid"
    back = urlsplit(pay(stripe, answer["Location"]))
    assert (back.netloc, back.path) == ("testserver", f"/t/{acme.slug}/plan/returned")
    assert re.fullmatch(r"session_id=cs_\w+", back.query)
    text = words(acme.client.get(f"{back.path}?{back.query}").content.decode())
    assert "Your plan is active" in text
    assert "Included calls 100,000 Calls per second 500 Projects 3" in text
    assert Allowance.objects.get(pk=acme.owned.tenant.pk).included == 100_000
    assert AuditEntry.objects.filter(
        tenant=acme.owned.tenant, action="checkout.begun", actor=acme.owned.user.email
    ).exists()
    assert "Upgrade to Scale" in words(acme.page("plan"))


def test_a_double_click_leads_to_one_page_of_stripes(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    fields = {"version": public("launch").pk, "currency": "usd"}
    assert len({post(acme, "plan/subscribe", **fields)["Location"] for _ in range(2)}) == 1


def test_who_comes_back_before_stripe_has_confirmed_waits_and_polls(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    address = post(acme, "plan/subscribe", version=public("launch").pk)["Location"]
    returned = f"/t/{acme.slug}/plan/returned"
    html = acme.client.get(returned).content.decode()
    assert "Stripe is confirming" in html
    assert f'hx-get="{returned}" hx-trigger="every 2s"' in html
    assert f'href="{returned}"' in html, "a link for those without JavaScript"
    poll = {"HX-Request": "true"}
    assert acme.client.get(returned, headers=poll).status_code == 204
    pay(stripe, address)
    assert acme.client.get(returned, headers=poll).status_code == 204, "polls wait for what the webhook brings"
    subscriptions.sync(account_id=acme.owned.account.pk, now=latest(stripe))
    assert acme.client.get(returned, headers=poll)["HX-Refresh"] == "true"


def test_stripe_away_on_return_loses_nothing(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    pay(stripe, post(acme, "plan/subscribe", version=public("launch").pk)["Location"])
    stripe.faults.add("drop_before", method="GET", path="/v1/subscriptions")
    text = words(acme.client.get(f"/t/{acme.slug}/plan/returned").content.decode())
    assert "Stripe is confirming" in text
    assert "What you paid is safe: it shows here as soon as Stripe answers." in text
    stripe.faults.clear()
    assert "Your plan is active" in words(acme.client.get(f"/t/{acme.slug}/plan/returned").content.decode())


def test_stripe_away_when_buying_is_told_on_the_plan_page(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    stripe.faults.add("drop_before", method="POST", path="/v1/checkout/sessions")
    text = told(acme, post(acme, "plan/subscribe", version=public("launch").pk))
    assert "Stripe, which takes the payments, does not answer at the moment. Try again" in text


def test_a_plan_that_stripe_does_not_know_yet_is_told(visit: Visit, stripe: Stripe) -> None:
    acme = visit()
    assert "has no prices at Stripe yet" in told(acme, post(acme, "plan/subscribe", version=public("launch").pk))


@pytest.mark.parametrize("version", ["", "nonsense", "999999999"])
def test_what_is_not_offered_cannot_be_bought(visit: Visit, stripe: Stripe, sold: None, version: str) -> None:
    assert post(visit(), "plan/subscribe", version=version).status_code == 404


def test_terms_agreed_with_acme_are_neither_shown_nor_sold_to_initech(visit: Visit, stripe: Stripe) -> None:
    acme, initech = visit("Acme", plan="enterprise", included=123_456_789), visit("Initech")
    agreed = acme.owned.account.plan_version
    assert agreed.tenant_id == acme.owned.tenant.pk
    assert "123,456,789" in acme.page("plan")
    assert "123,456,789" not in initech.page("plan")
    assert post(initech, "plan/subscribe", version=agreed.pk).status_code == 404
    assert initech.client.get(f"/t/{initech.slug}/plan/change?to={agreed.pk}").status_code == 404


# -- Changing --------------------------------------------------------------------------------------------------------------------
def preview(visitor: Visitor, plan: str) -> str:
    return visitor.page(f"plan/change?to={public(plan).pk}")


def confirm(visitor: Visitor, html: str, **changed: Any) -> Any:
    """Send the form of the preview as it stands there."""
    names = ("version", "previewed_minor", "proration_at")
    fields = {name: re.search(rf'name="{name}" value="([^"]*)"', html)[1] for name in names}  # type: ignore[index]
    return post(visitor, "plan/change", **{**fields, **changed})


def test_an_upgrade_shows_its_lines_then_happens(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    html = preview(acme, "scale")
    text = words(html)
    assert "Change from Launch to Scale" in text
    assert re.search(r"Total \$\d+\.\d\d", text)
    assert "From the next period on the fee is $49.00." in text
    assert re.search(r"Pay \$\d+\.\d\d and upgrade now", text)
    answer = confirm(acme, html)
    assert answer["Location"] == f"/t/{acme.slug}/plan"
    assert finish(acme, stripe).state == "applied"
    text = words(acme.page("plan"))
    assert "You are on Scale now." in text
    assert Allowance.objects.get(pk=acme.owned.tenant.pk).included == 1_000_000
    assert AuditEntry.objects.filter(
        tenant=acme.owned.tenant, actor=acme.owned.user.email, action__startswith="plan."
    ).exists()


def test_confirming_twice_makes_one_change(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    html = preview(acme, "scale")
    confirm(acme, html)
    told(acme, confirm(acme, html))
    finish(acme, stripe)
    assert "You are on this plan already." in told(acme, confirm(acme, html))
    assert account(acme).changes.count() == 1


def test_a_price_that_rose_since_is_shown_again(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    answer = confirm(acme, preview(acme, "scale"), previewed_minor="1")
    assert answer["Location"] == f"/t/{acme.slug}/plan/change?to={public('scale').pk}"
    assert "The amount has changed since it was shown." in told(acme, answer)
    assert not account(acme).changes.exists()


def test_a_declined_card_changes_nothing_and_says_so(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    stripe.use_card(account(acme).customer_id or "", "pm_card_chargeCustomerFail")
    confirm(acme, preview(acme, "scale"))
    assert finish(acme, stripe).state == "failed"
    text = words(acme.page("plan"))
    assert "The change from Launch to Scale was refused; nothing has changed." in text
    assert account(acme).plan_version.plan.code == "launch"


def test_a_smaller_plan_comes_at_the_periods_end_and_can_be_taken_back(
    customer: Callable[..., Visitor],
    stripe: Stripe,
) -> None:
    acme = customer("scale")
    html = preview(acme, "launch")
    assert "Change to Launch at the period's end" in words(html)
    confirm(acme, html)
    finish(acme, stripe)
    text = words(acme.page("plan"))
    assert "you move from Scale to Launch. Until then nothing changes. Keep Scale" in text
    assert account(acme).plan_version.plan.code == "scale"
    post(acme, "plan/reactivate")
    finish(acme, stripe)
    assert account(acme).next_version is None
    assert "you move from" not in words(acme.page("plan"))


def test_projects_that_are_too_many_are_named_before_a_smaller_plan(
    customer: Callable[..., Visitor],
    stripe: Stripe,
) -> None:
    acme = customer("scale")
    for name in ("Mobile", "Web", "Export"):
        directory.add_project(tenant=acme.owned.tenant, name=name, actor="test")
    html = preview(acme, "launch")
    text = words(html)
    assert "Launch has room for 3 projects, and you have 4" in text
    assert "Mobile" in text
    assert f'href="/t/{acme.slug}/projects"' in html
    assert 'name="previewed_minor"' not in html
    assert "Archive 1 first" in told(acme, post(acme, "plan/change", version=public("launch").pk))


def test_a_smaller_plan_is_taken_once_what_is_too_many_is_archived(
    customer: Callable[..., Visitor],
    stripe: Stripe,
) -> None:
    acme = customer("scale")
    for name in ("Mobile", "Web", "Export"):
        directory.add_project(tenant=acme.owned.tenant, name=name, actor="test")
    assert "Archive 1 first" in words(preview(acme, "launch"))
    acme.client.post(f"/t/{acme.slug}/projects/export/archive")
    html = preview(acme, "launch")
    assert "stands in the way" not in html
    confirm(acme, html)
    finish(acme, stripe)
    assert account(acme).next_version == public("launch")


def test_a_cancelled_plan_ends_with_its_period_and_can_be_kept(
    customer: Callable[..., Visitor],
    stripe: Stripe,
) -> None:
    acme = customer()
    html = preview(acme, "free")
    assert "Cancel Launch" in words(html)
    confirm(acme, html)
    finish(acme, stripe)
    assert account(acme).cancels_at
    assert "From then on you are on the free plan." in words(acme.page("plan"))
    post(acme, "plan/reactivate")
    finish(acme, stripe)
    assert account(acme).cancels_at is None


def test_a_preview_without_stripe_says_so_and_offers_another_try(
    customer: Callable[..., Visitor],
    stripe: Stripe,
) -> None:
    acme = customer()
    stripe.faults.add("drop_before", method="POST", path="/v1/invoices/create_preview")
    text = words(preview(acme, "scale"))
    assert "does not answer at the moment" in text
    assert "Try again" in text


# -- Paying ------------------------------------------------------------------------------------------------------------
def past_due(acme: Visitor, stripe: Stripe) -> None:
    """The card was refused when the period ended."""
    stripe.use_card(account(acme).customer_id or "", "pm_card_chargeCustomerFail")
    stripe.advance((account(acme).period_end or stripe.now) + timedelta(hours=2))
    subscriptions.sync(account_id=acme.owned.account.pk, now=latest(stripe))
    assert account(acme).state == PaymentState.PAST_DUE


def test_what_is_open_is_shown_with_its_dates_and_the_way_to_pay(
    customer: Callable[..., Visitor], stripe: Stripe
) -> None:
    acme = customer()
    past_due(acme, stripe)
    html = acme.page("plan/pay")
    text = words(html)
    assert "$19.00 due" in text
    assert re.search(r"Next try of the card \d+ \w+, \d\d:\d\d \(UTC\)", text)
    assert re.search(r"Calls are refused from \d+ \w+, \d\d:\d\d \(UTC\)", text)
    assert re.search(rf'href="{stripe.url}/[^"]+"[^>]*>Pay \$19\.00 on Stripe', html)
    part = words(acme.page("plan/pay", headers={"HX-Request": "true"}))
    assert re.search(r"Invoice \S+: \$19\.00\. Stripe tries the card again at", part)
    stripe.use_card(account(acme).customer_id or "", "pm_card_visa")
    stripe.pay_all(account(acme).customer_id or "")
    subscriptions.sync(account_id=acme.owned.account.pk, now=latest(stripe))
    assert "Nothing is open." in words(acme.page("plan/pay"))
    assert "A payment has failed" not in words(acme.page())


def test_the_portal_and_the_card_lead_to_stripe(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    for fields in ({}, {"flow": "card"}):
        assert post(acme, "plan/portal", **fields)["Location"].startswith(stripe.url)


def test_who_never_paid_has_no_portal(visit: Visit, stripe: Stripe) -> None:
    acme = visit()
    assert "Change the card" not in acme.page("plan")
    assert "Choose a paid plan first." in told(acme, post(acme, "plan/portal"))


# -- Automatic upgrades ----------------------------------------------------------------------------------------------
def agree(visitor: Visitor, **changed: Any) -> Any:
    html = visitor.page("limits")
    names = ("version", "fee_minor")
    fields = {name: re.search(rf'name="{name}" value="([^"]*)"', html)[1] for name in names}  # type: ignore[index]
    return post(visitor, "limits/upgrade", **{**fields, "fallback": "rate", "agrees": "on", **changed})


def test_consent_is_given_in_the_words_that_were_shown_and_withdrawn(
    customer: Callable[..., Visitor],
    stripe: Stripe,
) -> None:
    acme = customer()
    text = words(acme.page("limits"))
    assert "You then pay that difference instead of these calls, so moving is never dearer than staying." in text
    assert re.search(
        r"For the rest of this period Scale costs \$\d+\.\d\d more than Launch: as much as [\d,]+ calls", text
    )
    assert "Arranged: you are told before an upgrade happens" in told(acme, agree(acme))
    consent = account(acme).consents.get(ended_at=None)
    assert (consent.given_by, consent.fallback, consent.fee_minor) == (acme.owned.user.email, "rate", 4900)
    text = words(acme.page("limits"))
    assert f"To Scale, agreed by {acme.owned.user.email}" in text
    assert all(line in text for line in consent.text.splitlines())
    assert "Withdrawn: your plan changes only when you change it." in told(acme, post(acme, "limits/upgrade/withdraw"))
    assert not account(acme).consents.filter(ended_at=None).exists()


@pytest.mark.parametrize("changed", [{"agrees": ""}, {"fee_minor": "1"}, {"version": "1"}, {"fallback": "upgrade"}])
def test_nothing_is_agreed_to_that_was_not_shown_and_ticked(
    customer: Callable[..., Visitor],
    stripe: Stripe,
    changed: dict[str, str],
) -> None:
    acme = customer()
    agree(acme, **changed)
    assert not account(acme).consents.exists()


def test_a_free_plan_leaves_a_card_first(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    text = words(acme.page("limits"))
    assert "It needs a card on file first." in text
    assert "Arrange it" not in text
    assert "Leave a card first" in told(acme, agree_blindly(acme))


def test_with_a_card_left_a_free_plan_may_arrange_its_upgrade(visit: Visit, stripe: Stripe, sold: None) -> None:
    acme = visit()
    address = post(acme, "limits/upgrade/card")["Location"]
    assert address.startswith(f"{stripe.url}/")
    assert urlsplit(pay(stripe, address)).path == f"/t/{acme.slug}/limits"
    text = words(acme.page("limits"))
    assert "If it happened now, $19.00 would be due, and a period of Launch would begin." in text
    assert "Serve and charge them" not in text, "a plan without a price cannot fall back to one"
    assert "Arranged:" in told(acme, agree(acme, fallback="block"))
    assert Allowance.objects.get(pk=acme.owned.tenant.pk).hard_limit == 10_000, "included, and as many to bridge"


def agree_blindly(visitor: Visitor) -> Any:
    fields = {"version": public("launch").pk, "fee_minor": 1900, "fallback": "block", "agrees": "on"}
    return post(visitor, "limits/upgrade", **fields)


# -- Who may -----------------------------------------------------------------------------------------------------------
POSTS = ("plan/subscribe", "plan/change", "plan/reactivate", "plan/undo", "plan/portal", "limits/upgrade", "limits/upgrade/card",
         "limits/upgrade/withdraw", "limits/policy", "limits/hard-limit")  # fmt: skip


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
def test_others_see_what_it_would_cost_and_change_nothing(
    customer: Callable[..., Visitor],
    stripe: Stripe,
    role: Role,
) -> None:
    acme = customer()
    acme.becomes(role)
    if role is Role.VIEWER:
        html = acme.page("plan")
        assert "Plans are changed by the tenant's owners and billing members." in words(html)
        assert "Upgrade to Scale" not in html
        text = words(preview(acme, "scale"))
        assert "Only an owner or a billing member of the tenant can confirm it." in text
    for page in POSTS:
        answer = post(acme, page, version=public("scale").pk)
        assert answer.status_code == 403
        assert "Nothing has changed." in words(answer.content.decode())
    assert not account(acme).changes.exists()


def test_initech_reaches_no_form_and_no_page_of_acme(
    customer: Callable[..., Visitor],
    visit: Visit,
    stripe: Stripe,
) -> None:
    acme, initech = customer(), visit("Initech")
    before = len(stripe_api.subscriptions_of(account(acme).customer_id or ""))
    for page in POSTS:
        answer = initech.client.post(f"/t/{acme.slug}/{page}", {"version": public("scale").pk})
        assert answer.status_code == 404
    for page in ("plan", f"plan/change?to={public('scale').pk}", "plan/pay", "plan/returned", "limits", "state"):
        assert initech.client.get(f"/t/{acme.slug}/{page}").status_code == 404
    assert len(stripe_api.subscriptions_of(account(acme).customer_id or "")) == before
    assert not account(acme).changes.exists()


def test_every_form_needs_the_csrf_token(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(acme.owned.user)
    for page in POSTS:
        assert strict.post(f"/t/{acme.slug}/{page}", {"version": public("scale").pk}).status_code == 403
    assert not account(acme).changes.exists()


def test_an_address_of_a_form_leads_to_its_page(customer: Callable[..., Visitor], stripe: Stripe) -> None:
    acme = customer()
    for page in set(POSTS) - {"plan/change"}:
        answer = acme.client.get(f"/t/{acme.slug}/{page}")
        assert answer["Location"] in {f"/t/{acme.slug}/plan", f"/t/{acme.slug}/limits"}


def test_the_comparison_uses_this_periods_calls(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), billable=140_000)
    text = words(acme.page("plan"))
    assert re.search(r"Free \$0\.00 \$0\.00 [\d,]+ calls would be refused", text)
    assert "Launch yours $29.00" in text
    assert "140,000 calls were used in this period." in text
