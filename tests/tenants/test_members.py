"""Members: their roles, the projects they see, and the owner whom every tenant keeps."""

import pytest
from django.db import IntegrityError, connection, transaction

from tenants import access
from tenants.access import Right
from tenants.models import MemberProject, Membership, Project, Role, Tenant, User
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
