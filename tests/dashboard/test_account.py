"""A person's own account: what only they may change, what it asks for before, and what is on record of it."""

import hmac
import re
import struct
import time
from base64 import b32decode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.core import mail
from django.test import Client
from django.utils import timezone

from dashboard import invited
from tenants import people
from tenants.models import AuditEntry, Membership, Tenant, User
from tests.conftest import MakeTenant

from .conftest import Visit, Visitor

PASSWORD = "correct horse battery"
Commit = Callable[..., Any]


def code_for(secret: str, at: float) -> str:
    """What an authenticator app shows at that instant (RFC 6238)."""
    digest = hmac.digest(b32decode(secret), struct.pack(">Q", int(at) // 30), "sha1")
    start = digest[-1] & 15
    return f"{(int.from_bytes(digest[start : start + 4]) & 0x7FFFFFFF) % 10**6:06}"


@pytest.fixture
def commit(django_capture_on_commit_callbacks: Any) -> Commit:
    return lambda: django_capture_on_commit_callbacks(execute=True)


@pytest.fixture
def acme(visit: Visit) -> Visitor:
    return visit("Acme")


def actions(tenant: Tenant) -> list[str]:
    found = AuditEntry.objects.filter(tenant=tenant, action__startswith="person.").order_by("at")
    return [entry.action.removeprefix("person.") for entry in found]


def say_again(visitor: Visitor) -> None:
    answer = visitor.client.post("/account/again", {"password": visitor.owned.password})
    assert answer.status_code == 302


def sign_in(visitor: Visitor, client: Client) -> Any:
    return client.post("/login", {"username": visitor.owned.user.email, "password": visitor.owned.password})


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def switch_app_on(visitor: Visitor) -> str:
    """The secret that the app has now."""
    say_again(visitor)
    page = visitor.client.get("/account/app").content.decode()
    found = re.search(r'class="secret">(\w+)<', page)
    assert found
    answer = visitor.client.post("/account/app", {"code": code_for(found[1], time.time())})
    assert answer["Location"] == "/account/recovery-codes"
    return found[1]


def recovery_codes(visitor: Visitor) -> list[str]:
    return re.findall(r"<code>(\d{8})</code>", visitor.client.get("/account/recovery-codes").content.decode())


def test_after_the_password_a_code_is_asked_for(acme: Visitor, commit: Commit) -> None:
    with commit():
        secret = switch_app_on(acme)
    assert actions(acme.owned.tenant) == ["app_codes_added", "recovery_codes_added"]
    assert mail.outbox[-1].to == [acme.owned.user.email]
    assert mail.outbox[-1].subject == "Codes from an app were switched on"
    client = Client()
    assert sign_in(acme, client)["Location"] == "/login/code"
    assert not is_signed_in(client)
    assert client.get(f"/t/{acme.slug}/")["Location"].startswith("/login")
    wrong = client.post("/login/code", {"code": "000000"})
    assert "not right, or was used before" in wrong.content.decode()
    assert client.post("/login/code", {"code": code_for(secret, time.time() + 30)})["Location"] == "/"
    assert is_signed_in(client)


def test_a_code_opens_once_for_as_long_as_clocks_may_differ(acme: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = switch_app_on(acme)
    start = time.time()
    code = code_for(secret, start + 30)
    first, second = Client(), Client()
    sign_in(acme, first)
    assert first.post("/login/code", {"code": code}).status_code == 302
    sign_in(acme, second)
    later = timezone.now() + timedelta(seconds=45)  # allauth's own memory is over, and the code is still in its window
    monkeypatch.setattr("django.core.cache.backends.db.tz_now", lambda: later)
    monkeypatch.setattr("allauth.mfa.totp.internal.auth.time.time", lambda: start + 45)
    assert "was used before" in second.post("/login/code", {"code": code}).content.decode()
    assert not is_signed_in(second)


def test_a_recovery_code_opens_once_and_is_told_of(acme: Visitor, commit: Commit) -> None:
    switch_app_on(acme)
    codes = recovery_codes(acme)
    assert len(codes) == len(set(codes)) == 10
    first, second = Client(), Client()
    sign_in(acme, first)
    with commit():
        assert first.post("/login/code", {"code": codes[0]})["Location"] == "/"
    assert mail.outbox[-1].subject == "A recovery code was used"
    assert actions(acme.owned.tenant)[-1] == "recovery_code_used"
    sign_in(acme, second)
    assert second.post("/login/code", {"code": codes[0]}).status_code == 200
    assert not is_signed_in(second)
    assert "9 codes are left" in acme.client.get("/account").content.decode()


def test_a_copy_of_the_database_holds_no_secret(acme: Visitor) -> None:
    secret = switch_app_on(acme)
    kept = str(list(Authenticator.objects.filter(user=acme.owned.user).values_list("data", flat=True)))
    assert secret not in kept
    assert not set(recovery_codes(acme)) & set(re.findall(r"\d{8}", kept))


def test_what_decides_who_signs_in_asks_for_the_password_again(acme: Visitor) -> None:
    for page in ("app", "passkeys/add", "address"):
        assert acme.client.get(f"/account/{page}")["Location"].startswith("/account/again?next="), page
    wrong = acme.client.post("/account/again", {"password": "something else"})
    assert "This is not your password." in wrong.content.decode()
    assert not Authenticator.objects.exists()


def test_switching_the_app_off_takes_its_codes_along(acme: Visitor) -> None:
    switch_app_on(acme)
    assert acme.client.post("/account/app/remove")["Location"] == "/account"
    assert not Authenticator.objects.exists()
    assert actions(acme.owned.tenant)[-1] == "app_codes_removed"
    client = Client()
    assert sign_in(acme, client)["Location"] == "/"


def test_operators_do_not_get_around_the_second_step(acme: Visitor) -> None:
    switch_app_on(acme)
    User.objects.filter(pk=acme.owned.user.pk).update(is_staff=True, is_superuser=True)
    client = Client()
    answer = client.post(
        "/admin/login/?next=/admin/", {"username": acme.owned.user.email, "password": acme.owned.password}
    )
    assert answer["Location"] == "/login?next=%2Fadmin%2F"
    sign_in(acme, client)
    assert client.get("/admin/", follow=True).request["PATH_INFO"] == "/login/code"
    assert not is_signed_in(client)


def test_guessing_is_stopped_whether_or_not_the_account_exists(acme: Visitor) -> None:
    for email in (acme.owned.user.email, "nobody@acme.example"):
        client = Client()
        answers = [client.post("/login", {"username": email, "password": f"guess {n}"}) for n in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429]
        assert "Too many attempts" in answers[-1].content.decode()
    assert sign_in(acme, Client()).status_code == 429, "not even with the right password"


def test_who_asks_too_often_is_told_so(db: None, client: Client) -> None:
    for n in range(11):
        answer = client.post("/signup", {"organisation": "", "email": f"a{n}@x.example", "password": ""})
    assert answer.status_code == 429
    assert answer["Retry-After"] == "300"
    assert "Wait five minutes" in answer.content.decode()
    assert client.get("/signup").status_code == 200, "looking is free"


def test_a_forgotten_password_is_chosen_anew_by_mail(acme: Visitor, commit: Commit) -> None:
    user = acme.owned.user
    EmailAddress.objects.filter(user=user).update(verified=False)
    client = Client()
    with commit():
        asked = client.post("/password/forgotten", {"email": user.email.upper()})
    assert asked["Location"] == "/password/forgotten/sent"
    link = re.search(r"http://[^/]+(/password/new/\S+)", str(mail.outbox[-1].body))
    assert link
    form = client.get(link[1])["Location"]
    assert form.endswith("/set-password"), "the secret leaves the address bar"
    weak = client.post(form, {"password1": "short"})
    assert 'class="error"' in weak.content.decode()
    with commit():
        assert client.post(form, {"password1": PASSWORD})["Location"] == "/login"
    assert "has been changed" in client.get("/login").content.decode()
    assert not is_signed_in(acme.client) or acme.client.get("/account").status_code == 302, "sessions have ended"
    assert people.is_confirmed(user), "its mailbox has answered"
    assert actions(acme.owned.tenant) == ["password_reset"]
    assert client.post("/login", {"username": user.email, "password": PASSWORD})["Location"] == "/"
    assert "no longer works" in Client().get(link[1]).content.decode(), "a link works once"


def test_asking_for_a_new_password_tells_nobody_who_is_known(acme: Visitor, commit: Commit) -> None:
    pages = set()
    for email in (acme.owned.user.email, "nobody@acme.example"):
        client = Client()
        with commit():
            answer = client.post("/password/forgotten", {"email": email}, follow=True)
        pages.add(re.sub(r'value="\w{64}"', "", answer.content.decode()))
    assert len(pages) == 1
    assert [one.to for one in mail.outbox] == [[acme.owned.user.email], ["nobody@acme.example"]]
    assert "/password/new/" not in str(mail.outbox[1].body)


def test_a_forged_host_does_not_decide_where_a_link_leads(acme: Visitor, commit: Commit, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    with commit():
        Client(headers={"host": "evil.example"}).post("/password/forgotten", {"email": acme.owned.user.email})
    assert "evil.example" not in str(mail.outbox[-1].body)


def test_the_password_is_changed_by_who_knows_it(acme: Visitor, commit: Commit) -> None:
    other = Client()
    sign_in(acme, other)
    wrong = acme.client.post("/account/password", {"oldpassword": "no", "password1": PASSWORD})
    assert "not your present password" in wrong.content.decode()
    with commit():
        done = acme.client.post("/account/password", {"oldpassword": acme.owned.password, "password1": PASSWORD})
    assert done["Location"] == "/account"
    assert acme.client.get("/account").status_code == 200
    assert other.get("/account").status_code == 302
    assert actions(acme.owned.tenant) == ["password_changed"]
    assert mail.outbox[-1].subject == "Your password was changed"


def test_an_address_moves_when_its_mailbox_answers(acme: Visitor, commit: Commit) -> None:
    user, former = acme.owned.user, acme.owned.user.email
    say_again(acme)
    with commit():
        acme.client.post("/account/address", {"email": "New@Acme.example"})
    user.refresh_from_db()
    assert user.email == former
    link = re.search(r"http://[^/]+(/account/address/confirm/\S+)", str(mail.outbox[-1].body))
    assert link
    assert Client().get(link[1]).status_code == 200
    user.refresh_from_db()
    assert user.email == former, "looking changes nothing"
    with commit():
        Client().post(link[1])
    user.refresh_from_db()
    assert user.email == "new@acme.example"
    assert list(EmailAddress.objects.filter(user=user).values_list("email", "verified", "primary")) == [
        ("new@acme.example", True, True)
    ]
    assert mail.outbox[-1].to == [former]
    assert actions(acme.owned.tenant) == ["address_changed"]
    assert Client().post(link[1]).status_code == 404, "a link works once"


def test_a_taken_address_looks_like_a_free_one(visit: Visit, commit: Commit) -> None:
    acme, globex = visit("Acme"), visit("Globex")
    pages = []
    for email in (globex.owned.user.email, "free@acme.example"):
        say_again(acme)
        with commit():
            answer = acme.client.post("/account/address", {"email": email}, follow=True)
        pages.append(answer.content.decode().replace(email, ""))
    strip_tokens = [re.sub(r'value="\w{64}"', "", page) for page in pages]
    assert strip_tokens[0] == strip_tokens[1]
    assert "/account/address/confirm/" not in str(mail.outbox[0].body)


def test_resetting_the_password_ends_what_a_squatter_began(visit: Visit, commit: Commit, client: Client) -> None:
    squatter = User.objects.create_user("victim@acme.example", PASSWORD)
    client.force_login(squatter)
    client.post("/account/again", {"password": PASSWORD})
    with commit():
        client.post("/account/address", {"email": "squatter@evil.example"})
    link = re.search(r"http://[^/]+(/account/address/confirm/\S+)", str(mail.outbox[-1].body))
    assert link
    squatter.set_password("the victim's own")
    squatter.save()
    assert client.post(link[1]).status_code == 404
    squatter.refresh_from_db()
    assert squatter.email == "victim@acme.example"


def sign_up(client: Client, commit: Commit) -> User:
    with commit():
        client.post("/signup", {"organisation": "Hooli", "email": "gavin@hooli.example", "password": PASSWORD})
    return User.objects.get(email="gavin@hooli.example")


def test_a_newcomer_works_at_once_and_confirms_within_days(client: Client, db: None, commit: Commit) -> None:
    user = sign_up(client, commit)
    page = client.get("/t/hooli/").content.decode()
    assert 'id="strip-unconfirmed"' in page
    assert client.get("/account/app")["Location"] == "/account", "no second step on an address that may be another's"
    User.objects.filter(pk=user.pk).update(date_joined=timezone.now() - timedelta(days=8))
    assert client.get("/t/hooli/")["Location"] == "/account/address/confirm"
    link = re.search(r"http://[^/]+(/account/address/confirm/\S+)", str(mail.outbox[-1].body))
    assert link
    assert client.post(link[1])["Location"] == "/"
    page = client.get("/t/hooli/").content.decode()
    assert "gavin@hooli.example is confirmed." in page
    assert 'id="strip-unconfirmed"' not in page
    assert actions(Tenant.objects.get(slug="hooli")) == ["address_confirmed"]


def test_the_link_is_sent_again_but_not_by_the_second(client: Client, db: None, commit: Commit) -> None:
    sign_up(client, commit)
    with commit():
        early = client.post("/account/address/confirm", follow=True).content.decode()
    assert "less than a minute ago" in early
    assert len(mail.outbox) == 1


def test_trying_to_open_an_account_tells_the_owner_of_the_address(
    acme: Visitor, commit: Commit, client: Client
) -> None:
    with commit():
        client.post("/signup", {"organisation": "X", "email": acme.owned.user.email, "password": PASSWORD})
    assert mail.outbox[-1].to == [acme.owned.user.email]
    assert mail.outbox[-1].subject == "You have an account already"


def test_signing_up_with_a_known_password_does_not_skip_the_second_step(acme: Visitor, client: Client) -> None:
    switch_app_on(acme)
    answer = client.post(
        "/signup", {"organisation": "X", "email": acme.owned.user.email, "password": acme.owned.password or ""}
    )
    assert answer["Location"] == "/login/code"
    assert not is_signed_in(client)


def test_an_invited_newcomer_opens_no_organisation(db: None, rf: Any, client: Client) -> None:
    session = client.session
    request = rf.get("/invitations/x")
    request.session = session
    invited.remember(request, email="Dinesh@Globex.example", organisation="Globex", page="/invitations/x")
    session.save()
    page = client.get("/signup").content.decode()
    assert "You were invited to Globex" in page
    assert "dinesh@globex.example" in page
    answer = client.post("/signup", {"email": "other@evil.example", "password": PASSWORD})
    assert answer["Location"] == "/invitations/x"
    user = User.objects.get(email="dinesh@globex.example")
    assert people.is_confirmed(user)
    assert not User.objects.filter(email="other@evil.example").exists()
    assert not Membership.objects.filter(user=user).exists()


def test_every_other_browser_is_signed_out(acme: Visitor) -> None:
    other = Client()
    sign_in(acme, other)
    assert acme.client.post("/account/sign-out-everywhere")["Location"] == "/account"
    assert acme.client.get("/account").status_code == 200
    assert other.get("/account").status_code == 302
    assert actions(acme.owned.tenant) == ["signed_out_everywhere"]


def test_the_name_is_changed(acme: Visitor) -> None:
    acme.client.post("/account", {"name": "Alice <b>"})
    assert "Alice &lt;b&gt;" in acme.client.get("/account").content.decode()


def test_whose_account_an_operator_makes_needs_to_confirm_nothing(make_tenant: MakeTenant, db: None) -> None:
    owned = make_tenant("Acme")
    assert people.is_confirmed(owned.user)
    owned.user.email = "moved-by-an-operator@acme.example"
    owned.user.save()
    assert people.is_confirmed(owned.user)
    assert EmailAddress.objects.filter(user=owned.user).count() == 1


def test_no_secret_is_logged(acme: Visitor, commit: Commit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with commit():
        secret = switch_app_on(acme)
        codes = recovery_codes(acme)
        sign_in(acme, Client())
        Client().post("/password/forgotten", {"email": acme.owned.user.email})
    links = re.findall(r"/password/new/\S+", "".join(str(one.body) for one in mail.outbox))
    assert links
    logged = "\n".join(
        str(record.msg) + str(record.args) for record in caplog.records if not record.name.startswith("django.db")
    )
    for canary in (secret, acme.owned.password or "", *codes, *links):
        assert canary not in logged
