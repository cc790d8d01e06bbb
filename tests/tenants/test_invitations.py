"""Invitations: mailed once, valid once, for a week, for one address; and nothing in the database that opens them."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from pytest_django import Settings

from billing.onboarding import Onboarded
from tenants import access, directory, invitations, members, notices
from tenants.models import AuditEntry, Invitation, Membership, Notice, Role, Tenant, User
from tests.conftest import MakeTenant

BOB = "bob@hooli.example"


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant) -> Onboarded:
    return make_tenant(plan="scale")


def invite(acme: Onboarded, now: datetime, **options: Any) -> Invitation:
    wanted = {"email": BOB, "role": Role.DEVELOPER, "project_ids": None, "actor": acme.user.email, **options}
    return invitations.invite(tenant=acme.tenant, now=now, **wanted)


def token_of(text: str) -> str:
    (found,) = re.findall(r"/invitations/([\w-]+)", text)
    return str(found)


def mailed(now: datetime) -> list[Any]:
    """What goes out now."""
    mail.outbox.clear()
    notices.send_due(now=now + timedelta(minutes=30))
    return mail.outbox


def test_the_link_makes_a_member_once(acme: Onboarded, now: datetime) -> None:
    project = directory.add_project(tenant=acme.tenant, name="Lab", actor="test")
    invite(acme, now, project_ids=[project.pk], email=" Bob@Hooli.example ")
    (message,) = mailed(now)
    assert message.to == [BOB]
    assert message.bcc == []
    assert "invites you to Acme on Meterhouse, in the role Developer" in message.body
    bob = User.objects.create_user(BOB)
    membership = invitations.accept(token=token_of(message.body), user=bob, now=now)
    assert (membership.role, access.projects_of(membership)) == ("developer", frozenset({project.pk}))
    with pytest.raises(invitations.InvitationOver):
        invitations.accept(token=token_of(message.body), user=bob, now=now)
    actions = list(AuditEntry.objects.filter(tenant=acme.tenant).order_by("at").values_list("action", flat=True))
    assert actions[-3:] == ["invitation.sent", "invitation.accepted", "member.added"]


def test_nothing_in_the_database_opens_it(acme: Onboarded, now: datetime) -> None:
    invite(acme, now)
    token = token_of(mailed(now)[0].body)
    with connection.cursor() as cursor:
        for table in ("tenants_invitation", "tenants_notice", "tenants_auditentry"):
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s", [f"%{token}%"])
            assert cursor.fetchone() == (0,), table


@pytest.mark.parametrize("end", ["expired", "revoked", "replaced", "unknown"])
def test_an_invitation_that_is_over_makes_nobody_a_member(acme: Onboarded, now: datetime, end: str) -> None:
    invitation = invite(acme, now)
    token, at = token_of(mailed(now)[0].body), now
    if end == "expired":
        at = now + timedelta(days=7)
    elif end == "revoked":
        assert invitations.revoke(invitation=invitation, actor="olivia", now=now)
        assert not invitations.revoke(invitation=invitation, actor="olivia", now=now)
    elif end == "replaced":
        invitations.resend(invitation=invitation, actor="olivia", now=now)
    else:
        token = "A" * 43
    with pytest.raises(invitations.InvitationOver):
        invitations.accept(token=token, user=User.objects.create_user(BOB), now=at)
    assert not Membership.objects.filter(tenant=acme.tenant, user__email=BOB).exists()
    if end == "replaced":
        fresh = token_of(mailed(now)[0].body)
        assert invitations.accept(token=fresh, user=User.objects.get(email=BOB), now=at).role == "developer"


def test_it_is_for_the_invited_address_only(acme: Onboarded, now: datetime, make_tenant: MakeTenant) -> None:
    invite(acme, now)
    token = token_of(mailed(now)[0].body)
    with pytest.raises(invitations.OtherAddress):
        invitations.accept(token=token, user=make_tenant("Initech").user, now=now)
    assert invitations.find(token=token, now=now).accepted_at is None


def test_an_address_has_one_open_invitation(acme: Onboarded, now: datetime) -> None:
    first = invite(acme, now)
    again = invite(acme, now, role=Role.VIEWER)
    assert (again.pk, again.role, Invitation.objects.filter(tenant=acme.tenant).count()) == (first.pk, "viewer", 1)
    assert len(mailed(now)) == 2
    with pytest.raises(invitations.AlreadyMember):
        invite(acme, now, email=acme.user.email.upper())


def test_whoever_became_a_member_meanwhile_keeps_their_role(acme: Onboarded, now: datetime) -> None:
    invite(acme, now, role=Role.OWNER)
    bob = User.objects.create_user(BOB)
    members.add(tenant=acme.tenant, user=bob, role=Role.VIEWER, actor="olivia")
    assert invitations.accept(token=token_of(mailed(now)[0].body), user=bob, now=now).role == "viewer"


def test_a_restriction_stays_one_when_its_projects_are_gone(acme: Onboarded, now: datetime) -> None:
    project = directory.add_project(tenant=acme.tenant, name="Lab", actor="test")
    invite(acme, now, project_ids=[project.pk])
    project.delete()
    with pytest.raises(invitations.InvitationOver):
        invitations.accept(token=token_of(mailed(now)[0].body), user=User.objects.create_user(BOB), now=now)


def test_only_so_many_are_sent_in_a_day(acme: Onboarded, now: datetime, settings: Settings) -> None:
    settings.INVITATIONS_PER_DAY = 2
    first = invite(acme, now)
    invite(acme, now, email="carol@hooli.example")
    for send in (lambda at: invite(acme, at, email="dan@hooli.example"), lambda at: resend(first, at)):
        with pytest.raises(invitations.TooManyInvitations):
            send(now)
    resend(first, now + timedelta(days=1, minutes=1))
    assert Notice.objects.filter(tenant=acme.tenant, kind="invitation").count() == 3


def resend(invitation: Invitation, now: datetime) -> None:
    invitations.resend(invitation=invitation, actor="olivia", now=now)


def test_a_name_smuggles_neither_links_nor_headers_into_a_mail(acme: Onboarded, now: datetime) -> None:
    name = "Prize at https://evil.example/x?a=1 <b>now</b>\r\nBcc: all@evil.example \u202egpj.exe " + "y" * 200
    Tenant.objects.filter(pk=acme.tenant.pk).update(name=name[:120])
    acme.tenant.refresh_from_db()
    invite(acme, now)
    (message,) = mailed(now)
    text = f"{message.subject}\n{message.body}"
    assert not re.search(r"evil\.example|https?://(?!127\.0\.0\.1)|<b>|\u202e|@evil", text)
    assert "\n" not in message.subject
    assert message.recipients() == [BOB]
