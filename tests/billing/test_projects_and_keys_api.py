"""Projects and keys over the management API: nobody gets more than their key carries, and initech nothing of acme's."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing import managed_api
from billing.onboarding import Onboarded
from tenants import directory, keys, projects
from tenants.models import ApiKey, AuditEntry
from tests.conftest import MakeTenant

pytestmark = pytest.mark.usefixtures("db")
Api = Callable[..., Any]
ALL = frozenset(keys.SCOPES)


@pytest.fixture
def api(call: Callable[..., Any]) -> Api:
    """api(key, "post", "projects", name="Two")"""

    def send(key: str, method: str, path: str, **body: Any) -> Any:
        options = {"data": body, "content_type": "application/json"} if method not in {"get", "delete"} else {}
        return call(key, f"/api/v1/{path}", method=method, **options)

    return send


def key_with(owned: Onboarded, *scopes: str) -> str:
    _, key = keys.issue(project=owned.key.project, name="m", actor="test", scopes=frozenset(scopes) or ALL)
    return key


def problem(answer: Any) -> tuple[int, str]:
    assert answer["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["type"].rsplit("/", 1)[1]


# -- Projects -----------------------------------------------------------------------------------------------------------
def test_a_project_from_creation_to_archive_and_back(make_tenant: MakeTenant, api: Api) -> None:
    acme = make_tenant(plan="launch")
    key = key_with(acme)
    made = api(key, "post", "projects", name="Data Lake")
    assert (made.status_code, made["Location"]) == (201, "/api/v1/projects/data-lake")
    assert made.json() | {"created_at": ""} == {
        "slug": "data-lake", "name": "Data Lake", "created_at": "", "archived_at": None, "keys": 0, "billable": 0,
    }  # fmt: skip
    assert api(key, "patch", "projects/data-lake", name="Lake").json()["name"] == "Lake"
    assert api(key, "patch", "projects/data-lake", archived=True).json()["archived_at"]
    listed = api(key, "get", "projects").json()
    assert [project["slug"] for project in listed["projects"]] == ["data-lake", "default"]
    assert (listed["in_use"], listed["limit"], listed["next"]) == (1, 3, None)
    assert api(key, "get", "limits").json()["projects"] == {"used": 1, "limit": 3}
    assert [p["slug"] for p in api(key, "get", "projects?archived=true").json()["projects"]] == ["data-lake"]
    assert api(key, "patch", "projects/data-lake", archived=False).json()["archived_at"] is None
    actors = AuditEntry.objects.filter(action__in=["project.renamed", "project.archived", "project.restored"])
    assert set(actors.values_list("actor", flat=True)) == {f"mh_live_{key.split('_')[2]}"}


def test_what_cannot_be_is_a_problem_that_says_why(make_tenant: MakeTenant, api: Api) -> None:
    acme = make_tenant(plan="free")
    key = key_with(acme)
    refused = api(key, "post", "projects", name="Two")
    assert problem(refused) == (409, "project-limit-reached")
    assert (refused.json()["limit"], refused.json()["used"]) == (1, 1)
    assert refused.json()["upgrade"].endswith(f"/t/{acme.tenant.slug}/plan")
    globex = make_tenant("Globex", plan="scale")
    key = key_with(globex)
    assert problem(api(key, "post", "projects", name="DEFAULT")) == (409, "name-taken")
    for body in ({}, {"name": ""}, {"name": "x" * 121}):
        assert problem(api(key, "post", "projects", **body)) == (400, "invalid-request")
    assert problem(api(key, "patch", "projects/default")) == (400, "invalid-request")
    assert problem(api(key, "get", "projects?page=2")) == (400, "invalid-request")
    assert problem(api(key, "patch", "projects/nothing", name="x")) == (404, "not-found")


def test_lists_lead_on(make_tenant: MakeTenant, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("projects_api", "keys_api"):
        monkeypatch.setattr(f"billing.{module}.PAGE", 2)
    assert managed_api.PAGE == 100
    acme = make_tenant(plan="scale")
    for name in ("A", "B", "C"):
        directory.add_project(tenant=acme.tenant, name=name, actor="test")
        key_with(acme, "calls")
    for path, member, name in (("projects", "projects", "slug"), ("keys?status=active", "keys", "prefix")):
        seen: list[str] = []
        address: str | None = path
        while address:
            page = api(acme.api_key, "get", address.removeprefix("/api/v1/")).json()
            assert len(page[member]) <= 2
            seen += [row[name] for row in page[member]]
            address = page["next"]
        assert len(seen) == len(set(seen)) == 4


# -- Keys -----------------------------------------------------------------------------------------------------------------
def test_a_key_from_creation_to_revocation(make_tenant: MakeTenant, api: Api) -> None:
    acme = make_tenant(plan="launch")
    master = key_with(acme)
    ends_at = (timezone.now() + timedelta(days=30)).isoformat()
    made = api(master, "post", "keys", project="default", name="CI", scopes=["usage:read"], expires_at=ends_at)
    assert (made.status_code, made["Cache-Control"]) == (201, "no-store")
    secret, prefix = made.json()["api_key"], made.json()["prefix"]
    assert made["Location"] == f"/api/v1/keys/{prefix}"
    assert api(secret, "get", "usage").status_code == 200
    shown = api(master, "get", f"keys/{prefix}").json()
    assert "api_key" not in shown
    assert secret not in str(shown)
    assert (shown["project"], shown["name"], shown["scopes"], shown["status"]) == (
        "default", "CI", ["usage:read"], "active",
    )  # fmt: skip
    turned = api(master, "post", f"keys/{prefix}/rotate", overlap_seconds=60)
    assert turned.status_code == 201
    assert api(turned.json()["api_key"], "get", "usage").status_code == 200
    assert api(secret, "get", f"keys/{prefix}").json()["replaced_by"] == turned.json()["prefix"]
    assert problem(api(master, "post", f"keys/{prefix}/rotate")) == (409, "key-ended")
    assert api(master, "delete", f"keys/{prefix}").status_code == 204
    assert api(master, "delete", f"keys/{prefix}").status_code == 204
    keys.cache.clear()
    assert problem(api(secret, "get", "usage")) == (401, "unauthorized")
    assert [row["prefix"] for row in api(master, "get", "keys?status=revoked").json()["keys"]] == [prefix]


def test_a_key_gives_no_more_than_it_has(make_tenant: MakeTenant, api: Api) -> None:
    acme = make_tenant()
    strong, maker = key_with(acme), key_with(acme, "keys:write", "calls")
    before = acme.tenant.api_keys.count()
    for scopes in (["limits:write"], ["calls", "usage:read"], ["projects:write"]):
        answer = api(maker, "post", "keys", project="default", name="x", scopes=scopes)
        assert problem(answer) == (403, "forbidden")
    assert problem(api(maker, "post", "keys", project="default", name="x")) == (403, "forbidden"), "the default too"
    taken = api(maker, "post", f"keys/mh_live_{strong.split('_')[2]}/rotate")
    assert problem(taken) == (403, "forbidden"), "nor does it get hold of a stronger one"
    assert acme.tenant.api_keys.count() == before
    assert api(maker, "post", "keys", project="default", name="x", scopes=["calls"]).status_code == 201


def test_an_archived_project_gets_no_key(make_tenant: MakeTenant, api: Api) -> None:
    acme = make_tenant(plan="launch")
    old = directory.add_project(tenant=acme.tenant, name="Old", actor="test")
    projects.archive(project=old, actor="test", now=timezone.now())
    answer = api(key_with(acme), "post", "keys", project="old", name="x")
    assert problem(answer) == (409, "project-archived")


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"},
        {"project": "default"},
        {"project": "elsewhere", "name": "x"},
        {"project": "default", "name": "x", "scopes": []},
        {"project": "default", "name": "x", "scopes": ["admin"]},
        {"project": "default", "name": "x", "expires_at": "2020-01-01T00:00:00Z"},
    ],
)
def test_what_is_no_key_is_named(make_tenant: MakeTenant, api: Api, body: dict[str, Any]) -> None:
    acme = make_tenant()
    assert problem(api(key_with(acme), "post", "keys", **body)) == (400, "invalid-request")


@pytest.mark.parametrize("seconds", [-1, 604_801, "soon"])
def test_an_overlap_has_bounds(make_tenant: MakeTenant, api: Api, seconds: Any) -> None:
    acme = make_tenant()
    answer = api(key_with(acme), "post", f"keys/{acme.key.prefix}/rotate", overlap_seconds=seconds)
    assert problem(answer) == (400, "invalid-request")


# -- Who may --------------------------------------------------------------------------------------------------------------
CHANGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("post", "projects", {"name": "Two"}),
    ("patch", "projects/default", {"name": "Two"}),
    ("post", "keys", {"project": "default", "name": "x", "scopes": ["calls"]}),
    ("post", "keys/{prefix}/rotate", {}),
    ("delete", "keys/{prefix}", {}),
)


@pytest.mark.parametrize(("method", "path", "body"), CHANGES)
def test_changes_need_their_scope(
    make_tenant: MakeTenant, api: Api, method: str, path: str, body: dict[str, Any]
) -> None:
    acme = make_tenant(plan="scale")
    needed = f"{path.split('/', maxsplit=1)[0]}:write"
    weak = key_with(acme, *(ALL - {needed}))
    before = AuditEntry.objects.count()
    answer = api(weak, method, path.format(prefix=acme.key.prefix), **body)
    assert problem(answer) == (403, "forbidden")
    assert needed in answer.json()["detail"]
    assert AuditEntry.objects.count() == before


def test_initech_reads_and_changes_nothing_of_acme(make_tenant: MakeTenant, api: Api) -> None:
    acme, initech = make_tenant(project_name="Skunkworks"), make_tenant("Initech", plan="scale")
    key = key_with(initech)
    assert "skunkworks" not in api(key, "get", "projects").content.decode()
    assert acme.key.public_id not in api(key, "get", "keys").content.decode()
    assert api(key, "get", "keys?project=skunkworks").json()["keys"] == []
    assert problem(api(key, "get", f"keys?after={acme.key.prefix}")) == (404, "not-found")
    for path in (f"keys/{acme.key.prefix}", "projects/skunkworks"):
        assert problem(api(key, "get", path)) == (404, "not-found")
    before = AuditEntry.objects.filter(tenant=acme.tenant).count()
    assert problem(api(key, "patch", "projects/skunkworks", archived=True)) == (404, "not-found")
    assert problem(api(key, "post", f"keys/{acme.key.prefix}/rotate")) == (404, "not-found")
    assert problem(api(key, "delete", f"keys/{acme.key.prefix}")) == (404, "not-found")
    assert problem(api(key, "post", "keys", project="skunkworks", name="x")) == (400, "invalid-request")
    assert AuditEntry.objects.filter(tenant=acme.tenant).count() == before
    assert ApiKey.objects.get(pk=acme.key.pk).revoked_at is None
