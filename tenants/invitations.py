"""Invitations by mail: an address, a role, a link that works once and for a week."""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from . import audit, invitation_links, members, notices
from .errors import TenantsError
from .models import Invitation, Membership, Notice, Project, Role, Tenant, User
from .wording import plain_address, plain_name

VALID_FOR = timedelta(days=7)


class AlreadyMember(TenantsError):
    """The address belongs to a member."""

    def __init__(self) -> None:
        super().__init__("This address belongs to a member of the tenant already.")


class TooManyInvitations(TenantsError):
    """The tenant has sent as many as it may in a day."""

    def __init__(self) -> None:
        super().__init__(f"At most {settings.INVITATIONS_PER_DAY} invitations are sent in a day. Try again tomorrow.")


class InvitationOver(TenantsError):
    """The invitation is accepted, withdrawn, replaced by a newer link or expired, or there never was one."""

    def __init__(self) -> None:
        super().__init__("This invitation is no longer valid.")


class OtherAddress(TenantsError):
    """The invitation is for somebody else."""

    def __init__(self) -> None:
        super().__init__("This invitation is for another e-mail address.")


def invite(
    *, tenant: Tenant, email: str, role: Role, project_ids: Collection[int] | None, actor: str, now: datetime
) -> Invitation:
    """The address will get a link that makes its owner a member. An open invitation of this address is replaced.

    Raises AlreadyMember, TooManyInvitations and members.NotRestrictable.
    """
    email = email.strip().lower()
    with transaction.atomic():
        members.lock(tenant)
        if Membership.objects.filter(tenant=tenant, user__email=email).exists():
            raise AlreadyMember
        projects = members.check_projects(tenant, role, project_ids)
        found = tenant.invitations.filter(email=email, accepted_at=None, revoked_at=None).first()
        invitation = found or Invitation(tenant=tenant, email=email, links=0)
        invitation.role, invitation.invited_by = role.value, actor
        invitation.project_ids = None if project_ids is None else sorted(project.pk for project in projects)
        _send(invitation, now)
        audit.record(
            tenant=tenant, actor=actor, action="invitation.sent", subject=email, role=role.value,
            projects=None if project_ids is None else sorted(project.slug for project in projects),
        )  # fmt: skip
    return invitation


def resend(*, invitation: Invitation, actor: str, now: datetime) -> None:
    """A new link is mailed and lasts a week; the one before stops working. Raises InvitationOver and TooManyInvitations."""
    with transaction.atomic():
        members.lock(invitation.tenant)
        invitation.refresh_from_db()
        if invitation.accepted_at or invitation.revoked_at:
            raise InvitationOver
        _send(invitation, now)
        audit.record(tenant=invitation.tenant, actor=actor, action="invitation.resent", subject=invitation.email)


def revoke(*, invitation: Invitation, actor: str, now: datetime) -> bool:
    """The link works no more; False if it was accepted or withdrawn before."""
    with transaction.atomic():
        members.lock(invitation.tenant)
        still_open = Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None)
        changed = still_open.update(revoked_at=now)
        if changed:
            audit.record(tenant=invitation.tenant, actor=actor, action="invitation.revoked", subject=invitation.email)
    return bool(changed)


def find(*, token: str, now: datetime) -> Invitation:
    """The invitation whose link this is; raises InvitationOver."""
    found = Invitation.objects.select_related("tenant").filter(digest=invitation_links.digest(token)).first()
    if found is None or found.accepted_at or found.revoked_at or found.expires_at <= now:
        raise InvitationOver
    return found


def accept(*, token: str, user: User, now: datetime) -> Membership:
    """The user is a member as invited, and the link is used up. Raises InvitationOver and OtherAddress.

    Who became a member in another way meanwhile keeps the role they have.
    """
    with transaction.atomic():
        invitation = find(token=token, now=now)
        if user.email != invitation.email:
            raise OtherAddress
        members.lock(invitation.tenant)
        same_link = Invitation.objects.filter(pk=invitation.pk, digest=invitation_links.digest(token))
        still_open = same_link.filter(accepted_at=None, revoked_at=None)
        if not still_open.update(accepted_at=now):
            raise InvitationOver
        present = Membership.objects.filter(tenant=invitation.tenant, user=user).first()
        audit.record(
            tenant=invitation.tenant, actor=user.email, action="invitation.accepted", subject=user.email,
            invited_by=invitation.invited_by,
        )  # fmt: skip
        return present or _join(invitation, user)


def _join(invitation: Invitation, user: User) -> Membership:
    """With those of the projects that there still are: none left means that none is seen."""
    tenant, project_ids = invitation.tenant, invitation.project_ids
    if project_ids is not None:
        project_ids = list(Project.objects.filter(tenant=tenant, pk__in=project_ids).values_list("pk", flat=True))
        if not project_ids:
            raise InvitationOver
    return members.add(tenant=tenant, user=user, role=Role(invitation.role), actor=user.email, project_ids=project_ids)


def _send(invitation: Invitation, now: datetime) -> None:
    """A new link is on its way."""
    sent = Notice.objects.filter(
        tenant=invitation.tenant, kind=notices.INVITATION, created_at__gt=now - timedelta(days=1)
    )
    if sent.count() >= settings.INVITATIONS_PER_DAY:
        raise TooManyInvitations
    invitation.links += 1
    link = invitation_links.subject_of(invitation.pk, invitation.links)
    invitation.expires_at = now + VALID_FOR
    invitation.digest = invitation_links.digest(invitation_links.token(link))
    invitation.save()
    tenant = plain_name(invitation.tenant.name)
    notices.tell(
        tenant=invitation.tenant,
        kind=notices.INVITATION,
        key=link,
        recipient=invitation.email,
        title=f"You are invited to {tenant} on Meterhouse",
        text=_text(invitation, tenant),
    )


def _text(invitation: Invitation, tenant: str) -> str:
    role = Role(invitation.role).name.title()
    return (
        f"{plain_address(invitation.invited_by)} invites you to {tenant} on Meterhouse, in the role {role}.\n\n"
        f"The link works once, until {invitation.expires_at:%d %B %Y, %H:%M} (UTC), and for this address only. If you do "
        "not know who this is, do nothing: you will not become a member.\n\nTo accept:"
    )
