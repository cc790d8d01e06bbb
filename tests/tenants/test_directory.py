import pytest
from django.db import DatabaseError, transaction

from tenants import directory
from tenants.models import AuditEntry
from tests.conftest import MakeTenant


def test_names_that_are_taken_get_a_number(db: None) -> None:
    slugs = [directory.open_tenant(name="Umbra & Sons", email="a@umbra.example", actor="test").slug for _ in range(3)]
    assert slugs == ["umbra-sons", "umbra-sons-2", "umbra-sons-3"]


def test_a_chosen_address_that_is_taken_is_refused(db: None) -> None:
    directory.open_tenant(name="Acme", email="a@acme.example", actor="test", slug="acme-x")
    with pytest.raises(directory.SlugTaken):
        directory.open_tenant(name="Acme", email="a@acme.example", actor="test", slug="acme-x")


def test_a_plan_limits_projects(db: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="launch")
    directory.add_project(tenant=acme.tenant, name="Two", actor="test")
    directory.add_project(tenant=acme.tenant, name="Three", actor="test")
    with pytest.raises(directory.ProjectLimitReached, match=r"allows 3 project\(s\); 3 exist"):
        directory.add_project(tenant=acme.tenant, name="Four", actor="test")


def test_a_project_name_is_taken_once(db: None, make_tenant: MakeTenant) -> None:
    acme, globex = make_tenant(plan="launch"), make_tenant("Globex", plan="launch")
    directory.add_project(tenant=acme.tenant, name="Data Lake", actor="test")
    with pytest.raises(directory.ProjectExists, match="'Data Lake'"):
        directory.add_project(tenant=acme.tenant, name="data lake", actor="test")
    directory.add_project(tenant=globex.tenant, name="Data Lake", actor="test")


def test_the_audit_log_refuses_changes(db: None, make_tenant: MakeTenant) -> None:
    entry = AuditEntry.objects.filter(tenant=make_tenant().tenant).first()
    assert entry is not None
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEntry.objects.filter(pk=entry.pk).update(actor="someone else")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEntry.objects.filter(pk=entry.pk).delete()
