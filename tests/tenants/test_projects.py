"""Projects are renamed, archived and restored; none is ever deleted."""

from datetime import datetime

import pytest

from tenants import directory, keys, projects
from tenants.models import ApiKey, AuditEntry, Project
from tests.conftest import MakeTenant


def actions(project: Project) -> list[str]:
    found = AuditEntry.objects.filter(tenant=project.tenant, action__startswith="project.")
    return list(found.order_by("at").values_list("action", flat=True))


def test_a_renamed_project_keeps_its_address(db: None, make_tenant: MakeTenant) -> None:
    project = make_tenant(project_name="Data Lake").key.project
    assert projects.rename(project=project, name="  Big\nLake ", actor="test")
    project.refresh_from_db()
    assert (project.name, project.slug) == ("Big Lake", "data-lake")
    assert not projects.rename(project=project, name="Big Lake", actor="test")
    entry = AuditEntry.objects.get(tenant=project.tenant, action="project.renamed")
    assert (entry.subject, entry.detail) == ("data-lake", {"before": "Data Lake", "after": "Big Lake"})


def test_the_old_name_is_free_under_another_address(db: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="scale", project_name="Data Lake")
    projects.rename(project=acme.key.project, name="Old", actor="test")
    slugs = [
        directory.add_project(tenant=acme.tenant, name=name, actor="test").slug
        for name in ("Data Lake", "Data-Lake", "北京", "東京")
    ]
    assert slugs == ["data-lake-2", "data-lake-3", "project", "project-2"]


def test_no_two_projects_have_one_name(db: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="scale")
    other = directory.add_project(tenant=acme.tenant, name="Other", actor="test")
    with pytest.raises(directory.ProjectExists):
        projects.rename(project=other, name="default", actor="test")
    assert projects.rename(project=other, name="OTHER", actor="test"), "its own name in other letters"


def test_archiving_revokes_the_keys_and_frees_the_place(
    committed: None, make_tenant: MakeTenant, now: datetime
) -> None:
    acme = make_tenant(plan="free")
    project = acme.key.project
    keys.cache.verify(acme.api_key, now=now)
    with pytest.raises(directory.ProjectLimitReached, match="exist"):
        directory.add_project(tenant=acme.tenant, name="Two", actor="test")
    assert projects.archive(project=project, actor="test", now=now)
    assert not projects.archive(project=project, actor="test", now=now)
    keys.cache.clear()
    with pytest.raises(keys.KeyRefused):
        keys.cache.verify(acme.api_key, now=now)
    directory.add_project(tenant=acme.tenant, name="Two", actor="test")
    assert actions(project) == ["project.added", "project.archived", "project.added"]
    assert AuditEntry.objects.filter(tenant=acme.tenant, action="key.revoked").count() == 1


def test_an_archived_project_gets_no_key(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    project = make_tenant().key.project
    projects.archive(project=project, actor="test", now=now)
    with pytest.raises(keys.ProjectArchived, match="'Default' is archived"):
        keys.issue(project=project, name="x", actor="test")


def test_it_is_restored_while_there_is_room_and_its_keys_stay_revoked(
    db: None, make_tenant: MakeTenant, now: datetime
) -> None:
    acme = make_tenant(plan="free")
    project = acme.key.project
    projects.archive(project=project, actor="test", now=now)
    two = directory.add_project(tenant=acme.tenant, name="Two", actor="test")
    with pytest.raises(directory.ProjectLimitReached) as refusal:
        projects.restore(project=project, actor="test")
    assert (refusal.value.limit, refusal.value.used) == (1, 1)
    projects.archive(project=two, actor="test", now=now)
    assert projects.restore(project=project, actor="test")
    assert not projects.restore(project=project, actor="test")
    assert ApiKey.objects.get(pk=acme.key.pk).revoked_at is not None
    keys.issue(project=project, name="x", actor="test")


def test_the_name_of_an_archived_project_stays_its_own(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    projects.archive(project=acme.key.project, actor="test", now=now)
    with pytest.raises(directory.ProjectExists, match="archived project 'Default'"):
        directory.add_project(tenant=acme.tenant, name="Default", actor="test")
