"""Limits: what happens beyond the included calls, and the hard limit with its exact effect."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from billing import accounts
from billing.models import Account
from metering.models import Alert, Allowance, Crossing, Policy, SubLimit
from tenants.models import AuditEntry, Role, WebhookEndpoint

from .conftest import Visit, Visitor, add_usage, be
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


# -- Alerts, narrower limits, recipients, webhooks -----------------------------------------------------------------------------
def test_an_alert_fires_once_and_shows_on_the_page(visit: Visit) -> None:
    acme = visit(plan="launch")
    assert post(acme, "alert", kind="share", value="60").status_code == 302
    assert post(acme, "alert", kind="amount", value="$ 5.00").status_code == 302
    add_usage(acme.owned.key, timezone.now(), billable=60_000)
    text = words(acme.page("limits"))
    assert "60 % of the included calls are used 60,000 fired" in text
    overview = words(acme.page())
    assert overview.index("Recent alerts") < overview.index("60 % of the included calls are used")
    assert f"/t/{acme.slug}/limits" in acme.page()
    assert "Usage costs $5.00 119,980 not yet" in text
    add_usage(acme.owned.key, timezone.now(), billable=1)
    assert Crossing.objects.filter(tenant=acme.owned.tenant, key="share:60").count() == 1
    alert = Alert.objects.get(tenant=acme.owned.tenant, key="share:60")
    post(acme, "alert/remove", alert=alert.pk)
    assert "60,000 fired" not in words(acme.page("limits"))
    actions = set(AuditEntry.objects.filter(tenant=acme.owned.tenant).values_list("action", flat=True))
    assert {"alert.set", "alert.removed"} <= actions


@pytest.mark.parametrize(
    ("kind", "value"), [("share", "0"), ("share", "1.5"), ("amount", "0.001"), ("x", "5"), ("share", "x")]
)
def test_an_alert_that_makes_no_sense_is_said_in_the_form(visit: Visit, kind: str, value: str) -> None:
    acme = visit(plan="launch")
    before = Alert.objects.filter(tenant=acme.owned.tenant).count()
    answer = post(acme, "alert", kind=kind, value=value)
    assert answer.status_code == 200
    assert 'class="error"' in answer.content.decode()
    assert Alert.objects.filter(tenant=acme.owned.tenant).count() == before


def test_developers_see_no_alerts_in_money(visit: Visit) -> None:
    acme = visit(plan="launch")
    post(acme, "alert", kind="amount", value="5")
    be(acme.owned.tenant, Role.DEVELOPER)
    text = words(acme.page("limits"))
    assert "50 % of the included calls are used" in text
    assert "$5.00" not in text


def test_a_key_gets_a_limit_of_its_own(visit: Visit) -> None:
    acme, initech = visit(plan="launch"), visit("Initech")
    key = acme.owned.key
    post(acme, "narrow", subject=f"key:{key.pk}", calls="1,500")
    post(acme, "narrow", subject=f"key:{initech.owned.key.pk}", calls="7")
    found = SubLimit.objects.get(tenant=acme.owned.tenant)
    assert (found.kind, found.subject_id, found.calls) == ("key", key.pk, 1500)
    assert "1,500" in words(acme.page("limits"))
    post(acme, "narrow", subject=f"key:{key.pk}")
    assert not SubLimit.objects.filter(tenant=acme.owned.tenant).exists()


def test_a_webhook_is_added_tried_out_and_removed(visit: Visit) -> None:
    acme = visit()
    base = f"/t/{acme.slug}/webhooks"
    refused = acme.client.post(f"{base}/add", {"url": "https://10.0.0.1/", "event": "alert.fired"})
    assert refused.status_code == 422
    assert "not an address on the public internet" in refused.content.decode()
    added = acme.client.post(f"{base}/add", {"url": "https://hooks.example.com/x", "event": "alert.fired"})
    assert "whsec_" in added.content.decode()
    endpoint = WebhookEndpoint.objects.get(tenant=acme.owned.tenant)
    assert "whsec_" not in acme.page(f"webhooks/{endpoint.pk}")
    assert acme.client.post(f"{base}/{endpoint.pk}/act", {"act": "test"}).status_code == 302
    assert "webhook.test" in acme.page(f"webhooks/{endpoint.pk}")
    assert "whsec_" in acme.client.post(f"{base}/{endpoint.pk}/act", {"act": "rotate"}).content.decode()
    delivery = endpoint.deliveries.get()
    assert (
        acme.client.post(f"{base}/{endpoint.pk}/act", {"act": "redeliver", "delivery": delivery.pk}).status_code == 302
    )
    initech = visit("Initech")
    assert initech.client.post(f"/t/{initech.slug}/webhooks/{endpoint.pk}/act", {"act": "remove"}).status_code == 404
    acme.client.post(f"{base}/{endpoint.pk}/act", {"act": "remove"})
    assert not WebhookEndpoint.objects.filter(tenant=acme.owned.tenant).exists()


def test_the_page_of_limits_asks_few_questions(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now(), billable=60_000)
    acme.page("limits")
    with CaptureQueriesContext(connection) as asked:
        acme.page("limits")
    assert len(asked) <= 12, [query["sql"][:100] for query in asked]
