"""`manage.py issue_key`: the one way to a key with other scopes than the usual ones."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing.onboarding import Onboarded
from tenants import directory, keys
from tenants.models import ApiKey, AuditEntry, Tenant
from tests.conftest import MakeTenant

pytestmark = pytest.mark.usefixtures("committed")


def issue(tenant: str, *arguments: str, project: str = "default") -> str:
    out = StringIO()
    call_command("issue_key", "--tenant", tenant, "--project", project, "--name", "Limits", *arguments, stdout=out)
    return out.getvalue()


def issued(tenant: str, *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(issue(tenant, *arguments, "--json"))
    return answer


@pytest.fixture
def acme(make_tenant: MakeTenant) -> Onboarded:
    return make_tenant()


def test_a_key_has_the_scopes_that_were_named_and_no_others(acme: Onboarded) -> None:
    made = issued(acme.tenant.slug, "--scope", "limits:write", "--scope", "usage:read")
    caller = keys.cache.verify(made["api_key"], now=timezone.now())
    assert (caller.tenant_id, caller.project_id) == (acme.tenant.id, acme.key.project_id)
    assert caller.scopes == {"limits:write", "usage:read"} == set(made["scopes"])
    assert made == {
        "tenant": acme.tenant.slug, "project": "default", "name": "Limits", "prefix": caller.prefix,
        "scopes": ["limits:write", "usage:read"], "api_key": made["api_key"],
    }  # fmt: skip


def test_with_it_a_customer_sets_limits_of_their_own(acme: Onboarded, call: Callable[..., Any]) -> None:
    key = issued(acme.tenant.slug, "--scope", "limits:write", "--scope", "usage:read")["api_key"]
    body = {"data": {"calls": 5000}, "content_type": "application/json"}
    for limit in ("day", "projects/default", f"keys/{acme.key.prefix}"):
        path = f"/api/v1/limits/{limit}"
        assert call(key, path, method="put", **body).status_code == 200
        assert call(key, path).json()["calls"] == 5000
        assert call(key, path, method="delete").status_code == 204
    assert call(key, "/sandbox/v1/auth/session").status_code == 403


def test_a_tenant_is_named_by_its_address_or_its_id(acme: Onboarded) -> None:
    made = issued(str(acme.tenant.id), "--scope", "calls")
    assert made["tenant"] == acme.tenant.slug


def test_the_key_is_printed_once_and_stands_in_no_record(acme: Onboarded) -> None:
    text = issue(acme.tenant.slug, "--scope", "calls", "--scope", "usage:read")
    (key,) = [line.split()[1] for line in text.splitlines() if line.startswith("api_key")]
    assert keys.is_well_formed(key)
    assert "calls, usage:read" in text
    entry = AuditEntry.objects.get(tenant=acme.tenant, action="key.issued", actor="command issue_key")
    assert entry.subject == str(ApiKey.objects.get(public_id=key.split("_")[2]))
    assert entry.detail == {
        "project": "default", "name": "Limits", "scopes": ["calls", "usage:read"], "expires_at": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tenant", "nobody"], "There is no tenant 'nobody'. Give its address"),
        (["--tenant", "00000000-0000-4000-8000-000000000000"], "There is no tenant '00000000-"),
        (["--project", "nothing"], "has no project 'nothing'. It has: default, mobile."),
        (["--project", "reports"], "has no project 'reports'. It has: default, mobile."),
        (
            ["--scope", "admin"],
            "Unknown scope: admin. Known: calls, usage:read, ",
        ),
        (["--name", "  "], "--name is empty"),
        (["--name", "a" * 121], "at most 120 characters"),
        (["--name", "\udcff"], "readable text"),
    ],
)
def test_bad_input_is_named_with_its_mend_and_issues_nothing(
    acme: Onboarded, make_tenant: MakeTenant, arguments: list[str], message: str
) -> None:
    initech = make_tenant("Initech", plan="scale")
    directory.add_project(tenant=initech.tenant, name="Reports", actor="test")
    Tenant.objects.filter(pk=acme.tenant.pk).update(max_projects=2)
    directory.add_project(tenant=acme.tenant, name="Mobile", actor="test")
    with pytest.raises(CommandError) as refused:
        issue(acme.tenant.slug, "--scope", "calls", *arguments)
    assert message in str(refused.value)
    assert ApiKey.objects.filter(tenant__in=[acme.tenant, initech.tenant]).count() == 2


def test_a_scope_is_required(acme: Onboarded) -> None:
    with pytest.raises(CommandError, match="required: --scope"):
        issue(acme.tenant.slug)
