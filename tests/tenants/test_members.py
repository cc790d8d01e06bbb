"""Members: their roles, the projects they see, and the owner whom every tenant keeps."""

import threading

import pytest
from django.db import IntegrityError, connection, connections, transaction

from tenants import access, members
from tenants.access import Right
from tenants.models import AuditEntry, MemberProject, Membership, Project, Role, Tenant, User
from tests.conftest import MakeTenant


@pytest.fixture
def bob(db: None) -> User:
    return User.objects.create_user("bob@acme.example")


def test_a_restricted_member_sees_the_chosen_projects_and_nothing_that_adds_up_all(
    make_tenant: MakeTenant, bob: User
) -> None:
    acme = make_tenant()
    membership = acme.tenant.memberships.create(user=bob, role=Role.VIEWER)
    assert access.projects_of(membership) is None
    assert Right.SEE_MONEY in access.rights_of(membership)
    membership.is_restricted = True
    assert access.projects_of(membership) == frozenset()  # none chosen is none, not all
    MemberProject.objects.create(tenant=acme.tenant, membership=membership, project=acme.key.project)
    assert access.projects_of(membership) == frozenset({acme.key.project_id})
    assert access.rights_of(membership) == frozenset()
    membership.role = Role.DEVELOPER
    assert access.rights_of(membership) == {Right.CHANGE_KEYS}


def test_a_project_of_another_tenant_is_refused_by_the_database(make_tenant: MakeTenant, bob: User) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    membership = acme.tenant.memberships.create(user=bob, role=Role.VIEWER, is_restricted=True)
    for tenant in (acme.tenant, globex.tenant):
        with pytest.raises(IntegrityError):
            see(tenant, membership, globex.key.project)


def see(tenant: Tenant, membership: Membership, project: Project) -> None:
    with transaction.atomic():
        MemberProject.objects.create(tenant=tenant, membership=membership, project=project)
        connection.check_constraints()


@pytest.mark.parametrize("role", [Role.OWNER, Role.BILLING])
def test_who_answers_for_the_whole_is_not_restricted(make_tenant: MakeTenant, bob: User, role: Role) -> None:
    with pytest.raises(IntegrityError, match="membership_restrictable"), transaction.atomic():
        Membership.objects.create(tenant=make_tenant().tenant, user=bob, role=role, is_restricted=True)


# -- Roles come and go ------------------------------------------------------------------------------------------------


def entries(tenant: Tenant, action: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(tenant=tenant, action=action))


def test_a_change_is_on_record_and_no_change_is_not(make_tenant: MakeTenant, bob: User) -> None:
    acme = make_tenant()
    membership = members.add(tenant=acme.tenant, user=bob, role=Role.DEVELOPER, actor="olivia")
    for _ in range(2):
        members.change(
            tenant=acme.tenant, membership_id=membership.pk, role=Role.VIEWER, project_ids=[acme.key.project_id],
            actor="olivia",
        )  # fmt: skip
    (entry,) = entries(acme.tenant, "member.changed")
    assert (entry.actor, entry.subject) == ("olivia", bob.email)
    assert entry.detail["changes"] == {
        "role": {"before": "developer", "after": "viewer"},
        "projects": {"before": None, "after": [acme.key.project.slug]},
    }


def test_only_own_projects_and_only_for_those_who_may_be_restricted(make_tenant: MakeTenant, bob: User) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    own, foreign = acme.key.project_id, globex.key.project_id
    membership = members.add(tenant=acme.tenant, user=bob, role=Role.VIEWER, actor="olivia", project_ids=[own])
    for role, project_ids in (
        (Role.OWNER, [own]),
        (Role.BILLING, [own]),
        (Role.VIEWER, [own, foreign]),
        (Role.VIEWER, []),
    ):
        with pytest.raises(members.NotRestrictable):
            members.change(
                tenant=acme.tenant, membership_id=membership.pk, role=role, project_ids=project_ids, actor="olivia"
            )
    membership.refresh_from_db()
    assert (membership.role, access.projects_of(membership)) == ("viewer", frozenset({own}))


def test_a_member_of_another_tenant_is_not_reached(make_tenant: MakeTenant, bob: User) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    membership = members.add(tenant=globex.tenant, user=bob, role=Role.VIEWER, actor="olivia")
    with pytest.raises(members.NoMember):
        members.remove(tenant=acme.tenant, membership_id=membership.pk, actor="olivia")
    assert Membership.objects.filter(pk=membership.pk).exists()


def test_the_last_owner_is_neither_demoted_nor_removed(make_tenant: MakeTenant, bob: User) -> None:
    acme = make_tenant()
    last = acme.tenant.memberships.get(user=acme.user)
    members.add(tenant=acme.tenant, user=bob, role=Role.BILLING, actor="olivia")
    with pytest.raises(members.LastOwner):
        members.remove(tenant=acme.tenant, membership_id=last.pk, actor=acme.user.email)
    with pytest.raises(members.LastOwner):
        members.change(
            tenant=acme.tenant, membership_id=last.pk, role=Role.BILLING, project_ids=None, actor=acme.user.email
        )
    with pytest.raises(members.LastOwner):
        members.add(tenant=acme.tenant, user=acme.user, role=Role.VIEWER, actor="olivia")
    members.add(tenant=acme.tenant, user=bob, role=Role.OWNER, actor="olivia")
    assert members.remove(tenant=acme.tenant, membership_id=last.pk, actor=acme.user.email) == acme.user.email
    assert entries(acme.tenant, "member.left")[0].subject == acme.user.email


def test_of_two_owners_who_are_removed_at_once_one_stays(committed: None, make_tenant: MakeTenant) -> None:
    """Each of the two transactions waits for the other to be in it before it goes on: they do overlap."""
    acme = make_tenant()
    second = User.objects.create_user(f"second-{acme.key.public_id.lower()}@acme.example")
    members.add(tenant=acme.tenant, user=second, role=Role.OWNER, actor="test")
    both, told = list(acme.tenant.memberships.values_list("pk", flat=True)), []
    together = threading.Barrier(2, timeout=30)

    def remove(membership_id: int) -> None:
        try:
            with transaction.atomic():
                Membership.objects.count()
                together.wait()
                members.remove(tenant=acme.tenant, membership_id=membership_id, actor="olivia")
        except members.LastOwner as error:
            told.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=remove, args=[pk]) for pk in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert acme.tenant.memberships.filter(role=Role.OWNER).count() == 1
