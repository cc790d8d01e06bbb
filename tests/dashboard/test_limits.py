"""Limits: what happens beyond the included calls, and the hard limit with its exact effect."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import accounts
from billing.models import Account
from metering.models import Allowance, Policy
from tenants.models import AuditEntry, Role

from .conftest import Visit, Visitor, add_usage
from .test_pages import words


def post(visitor: Visitor, page: str, **fields: Any) -> Any:
    return visitor.client.post(f"/t/{visitor.slug}/limits/{page}", fields)


def account(visitor: Visitor) -> Account:
    return Account.objects.get(pk=visitor.owned.tenant.pk)


def allowance(visitor: Visitor) -> Allowance:
    return Allowance.objects.get(pk=visitor.owned.tenant.pk)


# -- Beyond the included calls ----------------------------------------------------------------------------------------------
def test_a_rated_plan_lets_one_choose(visit: Visit) -> None:
    acme = visit(plan="launch")
    text = words(acme.page("limits"))
    assert "Serve and charge them Each call beyond costs: $0.25 per 1,000." in text
    assert "Refuse them" in text
    answer = post(acme, "policy", policy="block")
    assert answer["Location"] == f"/t/{acme.slug}/limits"
    assert (account(acme).policy, allowance(acme).policy) == (Policy.BLOCK, Policy.BLOCK)
    text = words(acme.page("limits"))
    assert "Saved: it is enforced for the next call." in text
    assert "They are refused with 429 until the period ends." in text
    assert AuditEntry.objects.filter(
        tenant=acme.owned.tenant, action="policy.set", actor=acme.owned.user.email
    ).exists()


def test_a_plan_without_a_price_leaves_no_choice(visit: Visit) -> None:
    globex = visit("Globex")
    text = words(globex.page("limits"))
    assert "Free leaves no choice here: it has no price for them." in text
    assert 'name="money"' not in globex.page("limits")
    post(globex, "policy", policy="rate")
    assert allowance(globex).policy == Policy.BLOCK
    assert "no price for calls beyond" in words(globex.page("limits"))


@pytest.mark.parametrize("policy", ["", "upgrade", "nonsense"])
def test_nothing_else_is_taken_for_a_policy(visit: Visit, policy: str) -> None:
    acme = visit(plan="launch")
    post(acme, "policy", policy=policy)
    assert account(acme).policy == ""


# -- The hard limit ----------------------------------------------------------------------------------------------------------
def test_a_limit_in_calls_is_saved_and_enforced(visit: Visit) -> None:
    acme = visit(plan="launch")
    assert post(acme, "hard-limit", calls="120,000", money="").status_code == 302
    assert (account(acme).hard_limit, allowance(acme).hard_limit) == (120_000, 120_000)
    text = words(acme.page("limits"))
    assert "The hard limit is saved and enforced." in text
    assert "120,000 calls in a period are served. Call 120,001 is refused with 429 until the period ends." in text
    assert 'value="120000"' in acme.page("limits")


def test_a_limit_in_money_says_and_enforces_its_calls(visit: Visit) -> None:
    acme = visit(plan="launch")
    post(acme, "hard-limit", calls="", money="$ 10.00")
    terms = accounts.pricing_terms(acme.owned.account.plan_version)
    assert terms.included == 100_000
    assert account(acme).hard_limit_minor == 1000
    assert allowance(acme).hard_limit == 140_019, "10.00 and less than half a cent more"
    text = words(acme.page("limits"))
    assert "$10.00 pays for 140,019 calls in a period, the included ones among them: they cost $10.00." in text
    assert "Call 140,020 is refused with 429." in text
    assert 'value="10.00"' in acme.page("limits")


def test_the_nearer_of_two_limits_counts(visit: Visit) -> None:
    acme = visit(plan="launch")
    post(acme, "hard-limit", calls="110000", money="10")
    assert allowance(acme).hard_limit == 110_000
    assert "110,000 calls in a period are served." in words(acme.page("limits"))


def test_looking_shows_the_effect_and_saves_nothing(visit: Visit) -> None:
    acme = visit(plan="launch")
    fields = {"calls": "", "money": "5", "only": "look"}
    whole = post(acme, "hard-limit", **fields)
    part = acme.client.post(f"/t/{acme.slug}/limits/hard-limit", fields, headers={"HX-Request": "true"})
    for answer in (whole, part):
        assert answer.status_code == 200
        assert "$5.00 pays for 120,019 calls" in words(answer.content.decode())
    assert "<html" not in part.content.decode()
    assert 'value="5"' in whole.content.decode()
    assert account(acme).hard_limit_minor is None


def test_a_limit_below_what_is_used_says_that_it_stops_now(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), billable=900)
    text = words(post(acme, "hard-limit", calls="500", money="", only="look").content.decode())
    assert "900 are used already: calls are refused at once, until" in text


def test_empty_fields_take_the_limit_away(visit: Visit) -> None:
    acme = visit(plan="launch", hard_limit=500)
    assert "500 calls in a period are served" in words(acme.page("limits"))
    post(acme, "hard-limit", calls="", money="")
    assert account(acme).hard_limit is None
    assert "No hard limit: nothing is refused because of one." in words(acme.page("limits"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("calls", "-1"), ("calls", "1.5"), ("calls", "many"), ("calls", "9" * 20), ("money", "-1"), ("money", "1.005"),
     ("money", "1e3000"), ("money", "NaN")],
)  # fmt: skip
def test_what_is_no_limit_is_told_beside_its_field(visit: Visit, field: str, value: str) -> None:
    acme = visit(plan="launch")
    answer = post(acme, "hard-limit", **{"calls": "", "money": "", field: value})
    text = answer.content.decode()
    assert answer.status_code == 200
    assert 'aria-invalid="true"' in text
    assert f'id="id_{field}_error"' in text
    assert (account(acme).hard_limit, account(acme).hard_limit_minor) == (None, None)


# -- Who may ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.VIEWER])
def test_others_see_the_limits_and_are_told_why_they_cannot_change_them(visit: Visit, role: Role) -> None:
    acme = visit(plan="launch", hard_limit=500)
    acme.becomes(role)
    text = acme.page("limits")
    assert (
        "Limits are set by the tenant&#x27;s owners and billing members." in text
        or "owners and billing members" in text
    )
    assert "Save" not in words(text)
    for page, fields in (("policy", {"policy": "block"}), ("hard-limit", {"calls": "1"}), ("upgrade/withdraw", {})):
        answer = post(acme, page, **fields)
        assert answer.status_code == 403
        assert "Nothing has changed." in answer.content.decode()
    assert (account(acme).policy, account(acme).hard_limit) == ("", 500)


def test_billing_members_may(visit: Visit) -> None:
    acme = visit(plan="launch")
    acme.becomes(Role.BILLING)
    post(acme, "hard-limit", calls="7", money="")
    assert account(acme).hard_limit == 7


def test_initech_changes_nothing_of_acme(visit: Visit) -> None:
    acme, initech = visit("Acme", plan="launch"), visit("Initech")
    for page, fields in (("policy", {"policy": "block"}), ("hard-limit", {"calls": "1"})):
        assert initech.client.post(f"/t/{acme.slug}/limits/{page}", fields).status_code == 404
    assert (account(acme).policy, account(acme).hard_limit) == ("", None)
