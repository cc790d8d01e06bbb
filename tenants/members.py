"""Members of a tenant: their role, the projects they see, and how they leave. Every tenant keeps an owner.

Whoever changes members holds the tenant's row until the end of the transaction, so that of two owners who leave at once the
second is counted without the first.
"""

from collections.abc import Collection

from django.db import transaction

from . import audit
from .errors import TenantsError
from .models import RESTRICTABLE, MemberProject, Membership, Project, Role, Tenant, User


class LastOwner(TenantsError):
    """Without this member nobody would own the tenant."""

    def __init__(self) -> None:
        super().__init__("A tenant keeps at least one owner: make somebody else an owner first.")


class NotRestrictable(TenantsError):
    """The role answers for the whole tenant, so it sees all projects; or the projects chosen are none of the tenant's."""

    def __init__(self) -> None:
        super().__init__("Only developers and viewers may be restricted, and only to projects of the tenant.")


class NoMember(TenantsError):
    """This person is no member of the tenant (any more)."""

    def __init__(self) -> None:
        super().__init__("This person is not a member of the tenant.")


def add(
    *, tenant: Tenant, user: User, role: Role, actor: str, project_ids: Collection[int] | None = None
) -> Membership:
    """The user has this role in the tenant, for these projects or, with None, for all; raises LastOwner and NotRestrictable."""
    with transaction.atomic():
        lock(tenant)
        present = Membership.objects.filter(tenant=tenant, user=user).first()
        if present is not None:
            _keep_an_owner(present, role)
        membership = present or Membership(tenant=tenant, user=user)
        _save(membership, role, project_ids)
        audit.record(
            tenant=tenant, actor=actor, action="member.added", subject=user.email, role=role.value,
            projects=project_slugs(membership),
        )  # fmt: skip
    return membership


def change(
    *, tenant: Tenant, membership_id: int, role: Role, project_ids: Collection[int] | None, actor: str
) -> Membership:
    """The member has this role, for these projects or, with None, for all. Raises NoMember, LastOwner and NotRestrictable."""
    with transaction.atomic():
        membership = _locked(tenant, membership_id)
        before = {"role": membership.role, "projects": project_slugs(membership)}
        _keep_an_owner(membership, role)
        _save(membership, role, project_ids)
        after = {"role": membership.role, "projects": project_slugs(membership)}
        if before != after:
            changes = {
                name: {"before": before[name], "after": after[name]} for name in before if before[name] != after[name]
            }
            audit.record(
                tenant=tenant, actor=actor, action="member.changed", subject=membership.user.email, changes=changes
            )
    return membership


def remove(*, tenant: Tenant, membership_id: int, actor: str) -> str:
    """The person is no longer a member; their e-mail address. Raises NoMember and LastOwner.

    What they did stays on record, and the keys they made keep working: they belong to projects.
    """
    with transaction.atomic():
        membership = _locked(tenant, membership_id)
        _keep_an_owner(membership, None)
        email, role = membership.user.email, membership.role
        membership.delete()
        action = "member.left" if actor == email else "member.removed"
        audit.record(tenant=tenant, actor=actor, action=action, subject=email, role=role)
    return email


def project_slugs(membership: Membership) -> list[str] | None:
    """As the audit log names what a member sees: None for all projects."""
    if not membership.is_restricted:
        return None
    return list(membership.seen.order_by("project__slug").values_list("project__slug", flat=True))


def lock(tenant: Tenant) -> Tenant:
    """Members and invitations of the tenant change one after the other."""
    return Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)


def check_projects(tenant: Tenant, role: Role, project_ids: Collection[int] | None) -> list[Project]:
    """The projects that a member with this role would be restricted to; raises NotRestrictable."""
    if project_ids is None:
        return []
    found = list(Project.objects.filter(tenant=tenant, pk__in=project_ids))
    if role not in RESTRICTABLE or not found or len(found) != len(set(project_ids)):
        raise NotRestrictable
    return found


def _locked(tenant: Tenant, membership_id: int) -> Membership:
    lock(tenant)
    membership = Membership.objects.select_related("user").filter(tenant=tenant, pk=membership_id).first()
    if membership is None:
        raise NoMember
    return membership


def _keep_an_owner(membership: Membership, role: Role | None) -> None:
    if membership.role != Role.OWNER or role is Role.OWNER:
        return
    owners = Membership.objects.filter(tenant=membership.tenant, role=Role.OWNER, user__is_active=True)
    if not owners.exclude(pk=membership.pk).exists():
        raise LastOwner


def _save(membership: Membership, role: Role, project_ids: Collection[int] | None) -> None:
    projects = check_projects(membership.tenant, role, project_ids)
    membership.role, membership.is_restricted = role.value, project_ids is not None
    membership.save()
    MemberProject.objects.filter(membership=membership).exclude(project__in=projects).delete()
    MemberProject.objects.bulk_create(
        (MemberProject(tenant=membership.tenant, membership=membership, project=project) for project in projects),
        ignore_conflicts=True,
    )
