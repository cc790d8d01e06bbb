"""Signing in and out."""

import pytest
from django.test import Client

from tenants.models import User
from tests.conftest import MakeTenant

PASSWORD = "correct horse battery"


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice@acme.example", PASSWORD)


def sign_in(client: Client, email: str, password: str = PASSWORD, **more: str) -> str | None:
    """Where a successful sign-in leads; None for a refused one."""
    answer = client.post("/login", {"username": email, "password": password, **more})
    return answer.headers.get("Location")


def test_the_right_password_opens_the_tenant(make_tenant: MakeTenant, db: None) -> None:
    owned = make_tenant("Acme")
    client = Client()
    assert owned.password
    assert sign_in(client, owned.user.email.upper(), owned.password) == "/"
    assert client.get("/", follow=True).request["PATH_INFO"] == f"/t/{owned.tenant.slug}/"


def test_the_answer_does_not_tell_which_part_was_wrong(alice: User, client: Client) -> None:
    inactive = User.objects.create_user("gone@acme.example", PASSWORD, is_active=False)
    answers = set()
    for email, password in ((alice.email, "wrong"), ("nobody@acme.example", PASSWORD), (inactive.email, PASSWORD)):
        answer = client.post("/login", {"username": email, "password": password})
        assert answer.status_code == 200
        answers.add(answer.content.decode().split('id="sign-in-error">')[1].split("</p>")[0])
    assert len(answers) == 1


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_sign_in_leads_nowhere_else(alice: User, client: Client, target: str) -> None:
    assert sign_in(client, alice.email, next=target) == "/"


def test_sign_in_goes_on_where_it_was_asked_for(alice: User, client: Client) -> None:
    assert sign_in(client, alice.email, next="/t/acme/usage?by=key") == "/t/acme/usage?by=key"


def test_the_form_helps_password_managers(db: None, client: Client) -> None:
    text = client.get("/login").content.decode()
    assert 'autocomplete="username"' in text
    assert 'autocomplete="current-password"' in text
    assert "autofocus" in text
    assert 'type="email"' in text


def test_sign_out_needs_a_post(alice: User, client: Client) -> None:
    client.force_login(alice)
    assert client.get("/logout").status_code == 405
    assert "_auth_user_id" in client.session
    assert client.post("/logout")["Location"] == "/login"
    assert "_auth_user_id" not in client.session


def test_sign_out_needs_the_csrf_token(alice: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(alice)
    answer = client.post("/logout")
    assert answer.status_code == 403
    assert "The form could not be sent" in answer.content.decode()
