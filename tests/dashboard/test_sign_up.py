"""Signing up: a free account of one's own, at once and without a card; nobody else's by accident or on purpose."""

import re

import pytest
from django.conf import settings
from django.test import Client

from billing.models import Account, PaymentState
from dashboard import first_key
from tenants.models import AuditEntry, Membership, Role, Tenant, User

from .conftest import Visit

WANTED = {"organisation": "Hooli", "email": "Gavin@Hooli.example", "password": "tethics and more"}


def sign_up(client: Client, **changes: str) -> int:
    return client.post("/signup", {**WANTED, **changes}).status_code


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


@pytest.fixture(autouse=True)
def _database(db: None) -> None:
    """Every test here writes people."""


def test_a_stranger_gets_a_free_account_and_is_signed_in(client: Client) -> None:
    answer = client.post("/signup", WANTED)
    assert answer["Location"] == "/t/hooli/start"
    assert is_signed_in(client)
    account = Account.objects.get(tenant__slug="hooli")
    assert (account.plan_version.plan.code, account.state) == ("free", PaymentState.NONE)
    assert account.customer_id is None, "Stripe is first told of who chooses a paid plan"
    membership = Membership.objects.get(tenant=account.tenant)
    assert (membership.user.email, membership.role) == ("gavin@hooli.example", Role.OWNER)
    assert set(AuditEntry.objects.filter(tenant=account.tenant).values_list("actor", flat=True)) == {
        "gavin@hooli.example"
    }


def test_the_first_key_is_shown_once_and_works(client: Client, call: object) -> None:
    answer = client.post("/signup", WANTED)
    cookie = answer.cookies[first_key.COOKIE]
    assert cookie["httponly"]
    assert cookie["max-age"] == first_key.SECONDS
    poll = client.get("/t/hooli/start", headers={"HX-Request": "true"}).content.decode()
    assert cookie.value not in poll
    page = client.get("/t/hooli/start").content.decode()
    shown = re.search(r"Bearer (mh_live_\w+)&quot; http", page)
    assert shown
    assert shown[1] == cookie.value
    assert "shown this once" in page
    assert call(shown[1], "/api/v1/usage").status_code == 200  # type: ignore[operator]
    assert shown[1] not in client.get("/t/hooli/start").content.decode()


def test_a_form_that_is_sent_twice_makes_one_account() -> None:
    first, second = Client(), Client()
    assert sign_up(first) == sign_up(second) == 302
    assert is_signed_in(second)
    assert Tenant.objects.filter(name="Hooli").count() == 1


def test_a_known_address_with_another_password_opens_nothing(visit: Visit, client: Client) -> None:
    acme = visit("Acme")
    answer = client.post("/signup", {**WANTED, "email": acme.owned.user.email})
    text = answer.content.decode()
    assert answer.status_code == 200
    assert not is_signed_in(client)
    assert "If you have one already, sign in." in text
    assert 'href="/login"' in text
    assert acme.slug not in text
    assert acme.owned.user.memberships.count() == 1
    assert not Tenant.objects.filter(name="Hooli").exists()


def test_somebody_who_may_not_sign_in_does_not_come_in_by_signing_up(client: Client) -> None:
    User.objects.create_user(WANTED["email"], WANTED["password"], is_active=False)
    assert sign_up(client) == 200
    assert not is_signed_in(client)


@pytest.mark.parametrize(
    "changes",
    [
        {"password": "short"},
        {"password": "password123"},
        {"password": "gavin@hooli.example"},
        {"email": "no address"},
        {"organisation": ""},
        {"organisation": "x" * 121},
        {"email": "", "password": ""},
    ],
)
def test_what_cannot_be_is_refused_beside_its_field(client: Client, changes: dict[str, str]) -> None:
    before = User.objects.count()
    answer = client.post("/signup", {**WANTED, **changes})
    text = answer.content.decode()
    assert answer.status_code == 200
    assert 'aria-invalid="true"' in text
    assert 'class="error"' in text
    assert User.objects.count() == before
    assert WANTED["password"] not in text


def test_it_needs_the_csrf_token() -> None:
    before = User.objects.count()
    assert sign_up(Client(enforce_csrf_checks=True)) == 403
    assert User.objects.count() == before


def test_signed_in_people_are_led_home(visit: Visit) -> None:
    acme = visit()
    assert acme.client.get("/signup")["Location"] == "/"


def test_the_way_from_sign_in_and_back(client: Client) -> None:
    assert 'href="/signup"' in client.get("/login").content.decode()
    text = client.get("/signup").content.decode()
    assert 'href="/login"' in text
    for hint in ('autocomplete="organization"', 'autocomplete="username"', 'autocomplete="new-password"'):
        assert hint in text


def test_the_secret_of_the_key_stays_out_of_session_and_database(client: Client) -> None:
    key = client.post("/signup", WANTED).cookies[first_key.COOKIE].value
    assert key not in str(dict(client.session))
    assert settings.SESSION_COOKIE_NAME in client.cookies
