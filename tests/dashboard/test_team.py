"""The team page, invitations, settings and the audit log, as people use them."""

import csv
import io
import re
from datetime import timedelta
from typing import Any

from django.core import mail
from django.test import Client
from django.utils import timezone

from tenants import audit, directory, keys, members, notices
from tenants.models import AuditEntry, Invitation, Membership, Role, Tenant, User

from .conftest import Visit, Visitor
from .test_pages import words

BOB = "bob@hooli.example"
LATER = timedelta(minutes=30)


def post(visitor: Visitor, page: str, **fields: Any) -> Any:
    return visitor.client.post(f"/t/{visitor.slug}/{page}", fields)


def invitation_link() -> str:
    mail.outbox.clear()
    notices.send_due(now=timezone.now() + LATER)
    (found,) = re.findall(r"/invitations/[\w-]+", str(mail.outbox[-1].body))
    return str(found)


def signed_in(email: str) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(email))
    return client


def test_an_invited_person_joins_and_sees_only_their_project(visit: Visit) -> None:
    acme = visit(plan="scale")
    lab = directory.add_project(tenant=acme.owned.tenant, name="Lab", actor="test")
    answer = post(acme, "team/invite", email=BOB, role="developer", access="some", projects=[lab.pk])
    assert answer["Location"] == f"/t/{acme.slug}/team"
    assert f"{BOB} is invited" in words(acme.page("team"))
    link, bob = invitation_link(), signed_in(BOB)
    assert "You are invited to Acme" in bob.get(link).content.decode()
    assert bob.post(link)["Location"] == f"/t/{acme.slug}/usage"
    assert bob.get(f"/t/{acme.slug}/usage").status_code == 200
    for page in ("", "trends", "invoice", "plan", "audit", "settings"):
        assert bob.get(f"/t/{acme.slug}/{page}").status_code == 403
    own = words(bob.get(f"/t/{acme.slug}/team").content.decode())
    assert BOB in own
    assert acme.owned.user.email not in own
    assert bob.get(link).status_code == 410


def test_the_link_is_for_the_invited_address(visit: Visit) -> None:
    acme, initech = visit(), visit("Initech")
    post(acme, "team/invite", email=BOB, role="owner", access="all")
    link = invitation_link()
    assert "Create your account" in Client().get(link).content.decode()
    User.objects.create_user(BOB)
    assert f"Sign in as {BOB}" in words(Client().get(link).content.decode())
    assert "but the invitation is for" in words(initech.client.get(link).content.decode())
    initech.client.post(link)
    assert not Membership.objects.filter(tenant=acme.owned.tenant, user=initech.owned.user).exists()


def test_what_cannot_be_is_said_in_the_form(visit: Visit) -> None:
    acme = visit()
    for fields, said in (
        ({"email": "nonsense", "role": "viewer", "access": "all"}, "Enter a valid email address."),
        ({"email": BOB, "role": "billing", "access": "some", "projects": [acme.owned.key.project_id]}, "choose all"),
        ({"email": BOB, "role": "viewer", "access": "some"}, "Tick at least one project."),
    ):
        answer = post(acme, "team/invite", **fields)
        assert answer.status_code == 422
        assert said in answer.content.decode()
    post(acme, "team/invite", email=acme.owned.user.email, role="viewer", access="all")
    assert "belongs to a member already" in acme.page("team")
    assert not Invitation.objects.filter(tenant=acme.owned.tenant).exists()


def test_an_owner_changes_and_removes_members_but_not_the_last_owner(visit: Visit) -> None:
    acme = visit()
    bob = members.add(tenant=acme.owned.tenant, user=User.objects.create_user(BOB), role=Role.VIEWER, actor="test")
    own = acme.owned.tenant.memberships.get(user=acme.owned.user)
    post(acme, f"team/members/{bob.pk}", role="billing", access="all")
    bob.refresh_from_db()
    assert bob.role == "billing"
    for page, fields in (("remove", {}), ("", {"role": "viewer", "access": "all"})):
        post(acme, f"team/members/{own.pk}/{page}".rstrip("/"), **fields)
        assert "A tenant keeps at least one owner." in acme.page("team")
    post(acme, "team/leave")
    assert "A tenant keeps at least one owner." in acme.page("team")
    post(acme, f"team/members/{bob.pk}/remove")
    assert f"{BOB} is no longer a member." in words(acme.page("team"))
    assert acme.client.post(f"/t/{acme.slug}/team/members/{bob.pk}").status_code == 404


def test_another_tenants_member_and_invitation_do_not_exist(visit: Visit) -> None:
    acme, initech = visit(), visit("Initech")
    post(acme, "team/invite", email=BOB, role="viewer", access="all")
    invitation = Invitation.objects.get(tenant=acme.owned.tenant)
    member = acme.owned.tenant.memberships.get()
    assert post(initech, f"team/members/{member.pk}", role="viewer", access="all").status_code == 404
    assert post(initech, f"team/invitations/{invitation.pk}/revoke").status_code == 404
    post(initech, f"team/members/{member.pk}/remove")
    assert Membership.objects.filter(pk=member.pk).exists()


def test_the_old_billing_address_is_told_of_the_new_one(visit: Visit) -> None:
    acme = visit()
    old = acme.owned.tenant.email
    post(acme, "settings", name="Acme & Sons", email="money@acme.example")
    tenant = Tenant.objects.get(pk=acme.owned.tenant.pk)
    assert (tenant.name, tenant.email, tenant.slug) == ("Acme & Sons", "money@acme.example", acme.slug)
    mail.outbox.clear()
    notices.send_due(now=timezone.now() + LATER)
    (message,) = mail.outbox
    assert message.to == [old]
    assert "money@acme.example" in message.body
    assert "name: Acme → Acme & Sons" in words(acme.page("audit"))


def test_two_hundred_tenants_are_found_and_one_more_is_opened(visit: Visit, settings: Any) -> None:
    acme = visit()
    made = [
        directory.open_tenant(name=f"Globex {number}", email="g@globex.example", actor="test") for number in range(200)
    ]
    Membership.objects.bulk_create(Membership(tenant=one, user=acme.owned.user, role="viewer") for one in made)
    page = acme.page()
    assert 'name="q"' in page
    assert page.count('href="/t/globex-') <= 10
    found = acme.client.get("/tenants?q=Globex 17").content.decode()
    assert f"/t/{made[17].slug}/" in found
    assert f"/t/{made[18].slug}/" not in found
    settings.TENANTS_PER_DAY = 1
    answer = acme.client.post("/tenants/new", {"name": "Hooli"})
    assert answer["Location"].startswith("/t/hooli")
    assert Membership.objects.get(user=acme.owned.user, tenant__name="Hooli").role == "owner"
    assert acme.client.post("/tenants/new", {"name": "Hooli"}).status_code == 422


# -- The audit log ----------------------------------------------------------------------------------------------------


def test_the_log_is_told_in_words_and_filtered(visit: Visit) -> None:
    acme = visit()
    audit.record(tenant=acme.owned.tenant, actor="eve@acme.example", action="odd.thing", subject="<b>x</b>")
    text = words(acme.page("audit"))
    assert "with the scopes calls, usage:read" in text
    assert "odd.thing: &lt;b&gt;x&lt;/b&gt;" in acme.page("audit")
    only = acme.page("audit?actor=eve")
    assert "Issued the API key" not in only
    assert "No entries match" in acme.page("audit?from=2001-01-01&to=2001-01-31")


def test_pages_of_the_log_leave_nothing_out(visit: Visit) -> None:
    acme = visit()
    at = timezone.now()
    AuditEntry.objects.bulk_create(  # all of one instant: the id decides
        AuditEntry(tenant=acme.owned.tenant, at=at, actor="test", action="odd.thing", subject=f"no. {number};")
        for number in range(120)
    )
    query, seen = "action=odd.thing", set()
    for _ in range(3):
        page = acme.page(f"audit?{query}")
        seen |= set(re.findall(r"no\. \d+;", page))
        query = "".join(re.findall(r'rel="next" href="\?([^"]*)"', page)).replace("&amp;", "&")
    assert (len(seen), query) == (120, "")


def test_the_file_and_the_api_say_what_the_page_says(visit: Visit, call: Any) -> None:
    acme = visit()
    audit.record(tenant=acme.owned.tenant, actor="=cmd()", action="odd.thing", subject="+1", why="-2")
    answer = acme.client.get(f"/t/{acme.slug}/audit.csv")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert rows[0]["actor"] == "'=cmd()"
    assert rows[0]["subject"] == "'+1"
    _, key = keys.issue(project=acme.owned.key.project, name="audit", actor="t", scopes=frozenset({"audit:read"}))
    said = call(key, "/api/v1/audit?limit=200").json()["entries"]
    assert [row["action"] for row in rows] == [entry["action"] for entry in said[1:]]  # the key itself is the newest
    assert list(said[0]) == list(rows[0])
    assert call(acme.owned.api_key, "/api/v1/audit").status_code == 403
    first = call(key, "/api/v1/audit?limit=1").json()
    assert call(key, f"/api/v1/audit?limit=1&after={first['next']}").json()["entries"] == said[1:2]
