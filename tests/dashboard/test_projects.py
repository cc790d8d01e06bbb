"""The projects page: what is in use, what the plan has room for, and the way out of having too many."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import Account
from dashboard import formatting
from metering import limits
from metering.models import LimitKind
from tenants import directory, keys, projects
from tenants.models import ApiKey, Project, Role, Tenant

from .conftest import Visit, Visitor, add_usage, be
from .test_pages import words


def add(visitor: Visitor, name: str) -> Project:
    return directory.add_project(tenant=visitor.owned.tenant, name=name, actor="test")


def post(visitor: Visitor, page: str, **fields: str) -> Any:
    return visitor.client.post(f"/t/{visitor.slug}/{page}", fields)


def test_a_project_is_listed_with_its_keys_calls_and_limit(visit: Visit) -> None:
    acme = visit(plan="launch")
    other = add(acme, "Data Lake")
    add_usage(acme.owned.key, timezone.now(), billable=1234)
    limits.put(tenant=acme.owned.tenant, kind=LimitKind.PROJECT, subject_id=other.pk, calls=5000, actor="test")
    text = words(acme.page("projects"))
    assert "2 of the 3 projects that Launch has room for are in use." in text
    today = f"{timezone.now():%-d %b %Y}"
    assert f"Data Lake data-lake {today} 0 0 5,000" in text
    assert f"Default default {today} 1 1,234 {formatting.NOTHING}" in text


def test_a_project_is_created_and_says_what_it_needs(visit: Visit) -> None:
    acme = visit(plan="launch")
    answer = post(acme, "projects", name=" Data  Lake ")
    assert answer["Location"] == f"/t/{acme.slug}/projects"
    assert Project.objects.get(tenant=acme.owned.tenant, slug="data-lake").name == "Data Lake"
    assert "Data Lake is there. It needs a key" in words(acme.page("projects"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "This field is required."),
        ("x" * 121, "at most 120 characters"),
        ("default", "There is a project of this name already."),
        ("Old", "There is an archived project of this name. Restore it"),
    ],
)
def test_what_cannot_be_a_name_is_told_beside_it(visit: Visit, name: str, message: str) -> None:
    acme = visit(plan="scale")
    projects.archive(project=add(acme, "Old"), actor="test", now=timezone.now())
    for page in ("projects", f"projects/{add(acme, 'Other').slug}"):
        answer = post(acme, page, name=name)
        assert answer.status_code == 422
        assert message in words(answer.content.decode())
        assert f'value="{name}"' in answer.content.decode() or not name


def test_a_full_plan_says_so_and_leads_to_the_plan(visit: Visit) -> None:
    globex = visit("Globex")
    page = globex.page("projects")
    assert "The plan has no room for another one." in words(page)
    assert f'href="/t/{globex.slug}/plan"' in page
    assert 'name="name"' not in page
    answer = post(globex, "projects", name="Two")
    assert answer.status_code == 422
    assert "Your plan has room for 1 project, and it is in use." in words(answer.content.decode())


def test_renaming_leaves_the_address(visit: Visit) -> None:
    acme = visit()
    assert post(acme, "projects/default", name="Production")["Location"] == f"/t/{acme.slug}/projects/default"
    assert "Production" in words(acme.page("projects/default"))


def test_archiving_says_what_happens_does_it_and_is_taken_back(visit: Visit, call: Any) -> None:
    acme = visit()
    add_usage(acme.owned.key, timezone.now(), billable=1234)
    text = words(acme.page("projects/default/archive"))
    assert "Its 1 key is revoked at once" in text
    assert "is billed as usual: 1,234 calls in this period." in text
    assert Project.objects.get(pk=acme.owned.key.project_id).archived_at is None, "looking changes nothing"
    post(acme, "projects/default/archive")
    assert call(acme.owned.api_key, "/api/v1/usage").status_code == 401
    assert "Nothing" not in words(acme.page("projects?archived=1"))
    assert "Default" in words(acme.page("usage?by=project")), "its history keeps its name"
    assert "No project yet" in words(acme.page("projects"))
    text = words(acme.client.post(f"/t/{acme.slug}/projects/default/restore", follow=True).content.decode())
    assert "Default is in use again. Make a new key for it." in text
    assert "Keys that work 0" in text
    assert ApiKey.objects.get(pk=acme.owned.key.pk).revoked_at is not None


def test_nothing_is_restored_beyond_the_plan(visit: Visit) -> None:
    globex = visit("Globex")
    post(globex, "projects/default/archive")
    add(globex, "Two")
    text = words(globex.client.post(f"/t/{globex.slug}/projects/default/restore", follow=True).content.decode())
    assert "Your plan has room for 1 project, and it is in use." in text
    assert Project.objects.get(tenant=globex.owned.tenant, slug="default").is_archived


def test_a_plan_that_shrank_takes_nothing_away_and_says_what_it_means(visit: Visit) -> None:
    acme = visit(plan="launch")
    add(acme, "Two")
    Tenant.objects.filter(pk=acme.owned.tenant.pk).update(max_projects=1)
    text = words(acme.page("projects"))
    assert "2 projects are in use, and Launch has room for 1. All of them keep working" in text
    assert "until 2 are archived or the plan has more room." in text
    assert acme.owned.tenant.projects.filter(archived_at=None).count() == 2


def test_what_the_scheduled_plan_has_no_room_for_is_told_ahead(visit: Visit) -> None:
    acme = visit(plan="launch")
    add(acme, "Two")
    Account.objects.filter(pk=acme.owned.tenant.pk).update(cancels_at=timezone.now() + timedelta(days=3))
    text = words(acme.page("projects"))
    assert "on the plan is Free, which has room for 1; 2 projects are in use." in text
    post(acme, "projects/two/archive")
    assert "which has room for" not in acme.page("projects")


def test_lists_come_in_pages(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = visit(plan="scale")
    monkeypatch.setattr("dashboard.projects.ROWS", 2)
    monkeypatch.setattr("dashboard.api_keys.ROWS", 2)
    for name in ("A", "B"):
        keys.issue(project=add(acme, name), name=f"key {name}", actor="test")
    for page in ("projects", "keys"):
        assert "Page 1 of 2" in words(acme.page(page))
        assert 'rel="prev"' in acme.page(f"{page}?page=2")
        assert "Page 2 of 2" in words(acme.page(f"{page}?page=99"))


@pytest.mark.parametrize("name", ["projects", "projects/default", "keys", "keys/new", "start"])
def test_a_page_asks_little_however_much_there_is(visit: Visit, name: str, django_assert_max_num_queries: Any) -> None:
    acme = visit(plan="scale")
    for number in range(5):
        keys.issue(project=add(acme, f"P{number}"), name="x", actor="test", created_by=acme.owned.user)
    acme.page(name)
    with django_assert_max_num_queries(12):
        acme.page(name)


def test_a_restricted_member_sees_and_changes_what_is_theirs(visit: Visit) -> None:
    acme = visit(plan="launch")
    theirs = add(acme, "Theirs")
    secret, _ = keys.issue(project=acme.owned.key.project, name="Not theirs", actor="test")
    be(acme.owned.tenant, Role.DEVELOPER, projects=[theirs])
    for page in ("projects", "keys?status=all", "keys/new"):
        text = acme.page(page)
        assert "Theirs" in text
        assert "Default" not in text
        assert secret.public_id not in text
    for page in ("projects/default", f"keys/{secret.public_id}/rotate", f"keys/{secret.public_id}/revoke"):
        assert acme.client.get(f"/t/{acme.slug}/{page}").status_code == 404
    for page in (f"keys/{secret.public_id}/rotate", f"keys/{secret.public_id}/revoke"):
        assert post(acme, page, overlap="0").status_code == 404
    fields = {"name": "x", "expires": "never"}
    assert post(acme, "keys/new", project="default", scopes="calls", **fields).status_code == 422
    assert post(acme, "keys/new", project="theirs", scopes="usage:read", **fields).status_code == 422
    assert post(acme, "keys/new", project="theirs", scopes="calls", **fields).status_code == 200
    assert list(theirs.api_keys.values_list("scopes", flat=True)) == [["calls"]]
