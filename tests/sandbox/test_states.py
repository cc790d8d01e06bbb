"""The states that the dashboard can be in: each made for a visitor, each shown by a real page."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from metering.models import Call
from sandbox import states
from tenants.models import AuditEntry, Tenant, User
from tests.billing.conftest import Stripe, prices, stripe, subscribe

__all__ = ["prices", "stripe", "subscribe"]  # fixtures of theirs
SHOWS = {
    "no-usage-yet": "Make the first call",
    "near-limit": "310 included calls are left",
    "over-included": "410 calls over",
    "hard-limit-reached": "Your hard limit of 1,000 calls is reached",
    "trial-ending": "Your trial of Launch ends",
    "change-scheduled": "you move from Scale to Launch",
    "past-due": "A payment has failed",
    "suspended": "Calls are refused: an invoice is unpaid.",
    "stripe-unreachable": "does not answer at the moment",
}


@pytest.fixture
def visitor(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_user("visitor@acme.example", "x"))
    return client


def test_every_state_is_made_once_and_shown(visitor: Client, stripe: Stripe) -> None:
    assert "not made yet" in visitor.get("/sandbox/states").content.decode()
    assert not Tenant.objects.exists(), "looking makes nothing"
    visitor.post("/sandbox/states/make")
    page = visitor.get("/sandbox/states").content.decode()
    for state in states.STATES:
        address = f"/t/{state.slug}/"
        assert address in page
        if state.page != "overview":
            continue
        assert SHOWS[state.slug] in visitor.get(address).content.decode()
    assert SHOWS["stripe-unreachable"] in visitor.get("/t/stripe-unreachable/plan/pay").content.decode()
    due = visitor.get("/t/past-due/plan/pay").content.decode()
    assert "Next try of the card" in due
    assert not visitor.get("/sandbox/states").context["lines"][0].needs_simulator

    before = (AuditEntry.objects.count(), Call.objects.count(), len(stripe.simulator.objects("subscription")))
    states.make(user=User.objects.get(), now=timezone.now())
    assert (AuditEntry.objects.count(), Call.objects.count(), len(stripe.simulator.objects("subscription"))) == before

    stranger = Client()
    stranger.force_login(User.objects.create_user("stranger@initech.example", "x"))
    assert stranger.get("/t/past-due/").status_code == 404


def test_without_a_simulated_stripe_the_local_states_are_made(visitor: Client, settings: Any) -> None:
    settings.STRIPE_IS_REAL = True
    visitor.post("/sandbox/states/make")
    page = visitor.get("/sandbox/states").content.decode()
    assert page.count("needs the simulated Stripe") == sum(bool(state.at_stripe) for state in states.STATES)
    assert "not made yet" not in page
    assert "Make the tenants" not in page


def test_regions_fail_for_whom_asked_and_only_regions(visitor: Client) -> None:
    visitor.post("/sandbox/states/weather", {"weather": "failing"})
    assert visitor.get("/sandbox/states").status_code == 200
    assert visitor.get("/sandbox/states", headers={"HX-Request": "true"}).status_code == 503
    visitor.post("/sandbox/states/weather", {"weather": ""})
    assert visitor.get("/sandbox/states", headers={"HX-Request": "true"}).status_code == 200


def test_the_signed_out_are_sent_to_sign_in(db: None, client: Client) -> None:
    for address in ("/sandbox/states", "/sandbox/states/make", "/sandbox/states/weather"):
        answer = client.get(address) if address.endswith("states") else client.post(address)
        assert answer["Location"].startswith("/login")
