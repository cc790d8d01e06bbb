"""The strips above every page: payments, changes of plan under way, what is arranged for later."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from billing import accounts, grace
from billing.models import Account, Consent, PaymentState, PlanChange, PlanVersion
from metering import periods
from tenants.models import Role

from .conftest import Visit, Visitor
from .test_pages import EVERY_PAGE, words

NOW = timezone.now
UNREACHABLE = "http://127.0.0.1:1"


def public(plan: str) -> PlanVersion:
    return accounts.public_version(plan_code=plan)


@pytest.fixture(autouse=True)
def _stripe_is_away(settings: Any) -> None:
    settings.STRIPE_API_BASE, settings.STRIPE_IS_REAL = UNREACHABLE, False
    settings.STRIPE_TEST_SECRET_KEY = "sk_test_" + "x" * 32


def subscriber(visit: Visit, state: str = "active", *, plan: str = "launch", **fields: Any) -> Visitor:
    """A visitor whose account says what Stripe once said."""
    visitor = visit(plan=plan)
    account = visitor.owned.account
    period = periods.containing(account.anchor, NOW())
    values = {"period_start": period.start, "period_end": period.end, **fields}
    ids = {"customer_id": f"cus_{account.pk.hex}", "subscription_id": f"sub_{account.pk.hex}"}
    Account.objects.filter(pk=account.pk).update(state=state, **ids, **values)
    account.refresh_from_db()
    accounts.push(account=account, now=NOW())
    return visitor


def make_change(visitor: Visitor, state: str, kind: str = "upgrade", **fields: Any) -> PlanChange:
    values = {
        "from_version": public("launch"), "to_version": public("scale"), "requested_by": "test", "due_at": NOW(), **fields,
    }  # fmt: skip
    return PlanChange.objects.create(account=visitor.owned.account, kind=kind, state=state, **values)


def announced(visitor: Visitor) -> PlanChange:
    consent = Consent.objects.create(
        account=visitor.owned.account, from_version=public("launch"), to_version=public("scale"), currency="usd",
        fee_minor=4900, fallback="block", text="You move to Scale.", given_by=visitor.owned.user.email,
    )  # fmt: skip
    return make_change(
        visitor, "announced", "automatic", consent=consent, due_at=NOW() + timedelta(minutes=50), previewed_minor=1015
    )


def strip_kinds(html: str) -> list[str]:
    return re.findall(r'id="strip-([a-z-]+)"', html)


def test_a_free_and_a_paying_tenant_have_none(visit: Visit) -> None:
    assert strip_kinds(visit("Globex").page()) == []
    assert strip_kinds(subscriber(visit).page()) == []


# -- Payments -----------------------------------------------------------------------------------------------------------------
def test_past_due_says_since_when_until_when_and_how_to_pay_on_every_page(visit: Visit) -> None:
    acme = subscriber(visit, "past_due", past_due_since=NOW() - timedelta(days=2))
    account = Account.objects.get(pk=acme.owned.tenant.pk)
    ends_at = grace.ends_at(account)
    assert ends_at
    for page in EVERY_PAGE:
        html = acme.page(page)
        assert strip_kinds(html) == ["past-due"]
        text = words(html)
        assert "A payment has failed: since" in text
        assert f'datetime="{ends_at:%Y-%m-%dT%H:%M:%SZ}"' in html
        assert "from then on calls are refused" in text
        assert f'href="/t/{acme.slug}/plan/pay"' in html


def test_what_is_due_is_asked_for_afterwards_so_that_no_page_waits(visit: Visit) -> None:
    acme = subscriber(visit, "past_due", past_due_since=NOW())
    assert f'hx-get="/t/{acme.slug}/plan/pay" hx-trigger="load"' in acme.page()
    part = acme.page("plan/pay", headers={"HX-Request": "true"})
    assert words(part).strip() == "The amount cannot be asked for at the moment."


def test_restricted_says_what_still_works_and_replaces_the_notice_of_the_quota(visit: Visit) -> None:
    acme = subscriber(visit, "restricted", past_due_since=NOW() - timedelta(days=9))
    text = words(acme.page())
    assert "Calls are refused: an invoice is unpaid." in text
    assert "Reading, exporting and paying still work" in text
    assert 'id="notice"' not in acme.page()
    for page in EVERY_PAGE:
        assert acme.client.get(f"/t/{acme.slug}/{page}").status_code == 200


def test_a_trial_says_when_it_ends_and_what_follows(visit: Visit) -> None:
    text = words(subscriber(visit, "trialing", trial_ends_at=NOW() + timedelta(days=5)).page())
    assert re.search(r"Your trial of Launch ends at \d+ \w+, \d\d:\d\d \(UTC\)\. Then \$19\.00 are due", text)


def test_stripe_out_of_reach_leaves_every_page_and_says_so_where_it_matters(visit: Visit) -> None:
    acme = subscriber(visit, "past_due", past_due_since=NOW())
    for page in EVERY_PAGE:
        acme.page(page)
    for page in ("plan/pay", f"plan/change?to={public('scale').pk}"):
        assert "does not answer at the moment" in words(acme.page(page)) or "Pay the open invoice first" in words(
            acme.page(page)
        )
    answer = acme.client.post(f"/t/{acme.slug}/plan/portal", follow=True)
    assert "does not answer at the moment. Try again" in words(answer.content.decode())


# -- Changes -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["settling", "applying"])
def test_a_change_under_way_is_told_and_polled(visit: Visit, state: str) -> None:
    acme = subscriber(visit)
    make_change(acme, state)
    html = acme.page("plan")
    assert "Your change from Launch to Scale is being made." in words(html)
    poll = re.search(r'hx-get="(/t/[^"]+/state\?last=[^"]+)"', html)
    assert poll
    answer = acme.client.get(poll[1], headers={"HX-Request": "true"})
    assert (answer.status_code, answer.content) == (204, b"")
    PlanChange.objects.update(state="applied", ended_at=NOW())
    assert acme.client.get(poll[1], headers={"HX-Request": "true"})["HX-Refresh"] == "true"
    assert "You are on Scale now." in words(acme.page("plan"))
    PlanChange.objects.update(ended_at=NOW() - timedelta(minutes=6))
    assert strip_kinds(acme.page("plan")) == []


def test_a_refused_change_says_why_for_a_day(visit: Visit) -> None:
    acme = subscriber(visit)
    change = make_change(acme, "failed", failure="Your card was declined.", ended_at=NOW())
    text = words(acme.page())
    assert "was refused; nothing has changed. Your card was declined." in text
    PlanChange.objects.filter(pk=change.pk).update(ended_at=NOW() - timedelta(days=2))
    assert strip_kinds(acme.page()) == []


def test_an_announced_upgrade_can_be_undone(visit: Visit) -> None:
    acme = subscriber(visit)
    change = announced(acme)
    text = words(acme.page())
    assert re.search(
        r"At \d+ \w+, \d\d:\d\d \(UTC\) you move from Launch to Scale, as you agreed\. \$10\.15 are due", text
    )
    answer = acme.client.post(f"/t/{acme.slug}/plan/undo", {"change": str(change.pk)}, follow=True)
    assert "Undone: you stay on your plan" in words(answer.content.decode())
    change.refresh_from_db()
    assert change.state == "undone"
    again = acme.client.post(f"/t/{acme.slug}/plan/undo", {"change": str(change.pk)}, follow=True)
    assert "can no longer be undone" in words(again.content.decode())


def test_nobody_else_undoes_it(visit: Visit) -> None:
    acme, initech = subscriber(visit), visit("Initech")
    change = announced(acme)
    fields = {"change": str(change.pk)}
    assert initech.client.post(f"/t/{acme.slug}/plan/undo", fields).status_code == 404
    assert initech.client.post(f"/t/{initech.slug}/plan/undo", fields).status_code == 404
    assert initech.client.post(f"/t/{initech.slug}/plan/undo", {"change": "nonsense"}).status_code == 404
    acme.becomes(Role.DEVELOPER)
    assert acme.client.post(f"/t/{acme.slug}/plan/undo", fields).status_code == 403
    text = words(acme.page())
    assert "Undo the upgrade" not in text
    assert "An owner or a billing member of the tenant can act on it." in text
    change.refresh_from_db()
    assert change.state == "announced"


# -- What is arranged for later --------------------------------------------------------------------------------------------------
def test_an_end_is_told_with_the_way_back(visit: Visit) -> None:
    acme = subscriber(visit, cancels_at=NOW() + timedelta(days=10))
    html = acme.page()
    assert "From then on you are on the free plan. Until then nothing changes." in words(html)
    assert f'action="/t/{acme.slug}/plan/reactivate"' in html
    assert "Keep Launch" in words(html)


def test_a_smaller_plan_to_come_is_told_with_the_way_back(visit: Visit) -> None:
    acme = subscriber(visit, plan="scale", next_version=public("launch"))
    text = words(acme.page())
    assert "you move from Scale to Launch. Until then nothing changes. Keep Scale" in text


# -- The marks ---------------------------------------------------------------------------------------------------------------------
def test_a_stand_in_for_stripe_is_marked_on_every_page(visit: Visit) -> None:
    acme = visit()
    assert settings.STRIPE_API_BASE == UNREACHABLE
    for page in EVERY_PAGE:
        assert "Simulated Stripe" in acme.page(page)


def test_stripe_itself_is_not_marked(visit: Visit, settings: Any) -> None:
    settings.STRIPE_IS_REAL = True
    assert "Simulated Stripe" not in visit().page()


def test_only_what_stripe_says_makes_a_state_known(visit: Visit) -> None:
    """Each state of payment has its words on the plan page."""
    for state in PaymentState:
        since = NOW() if state in {"past_due", "restricted"} else None
        visitor = visit("Globex") if state == "none" else subscriber(visit, state, past_due_since=since)
        label = state.label.split(":")[0] if state != "none" else "Free"
        assert label in words(visitor.page("plan"))
