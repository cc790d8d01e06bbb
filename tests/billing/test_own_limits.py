"""Limits that a tenant sets below its plan's, over the API."""

from collections.abc import Callable
from typing import Any

import pytest

from metering import engine
from tenants import keys
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of

pytestmark = pytest.mark.usefixtures("committed")
Call = Callable[..., Any]


@pytest.fixture
def put(call: Call) -> Call:
    def send(key: str, path: str, calls: Any) -> Any:
        return call(key, f"/api/v1/limits/{path}", method="put", data={"calls": calls}, content_type="application/json")

    return send


def manager(tenant: Any) -> str:
    _, key = keys.issue(
        project=tenant.key.project, name="m", actor="test", scopes=frozenset({"limits:write", "usage:read"})
    )
    return key


def test_a_limit_is_set_shown_enforced_and_lifted(make_tenant: MakeTenant, call: Call, put: Call) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    key, path = manager(acme), f"keys/{acme.key.prefix}"
    assert put(key, path, 5).json() == {"kind": "key", "subject": acme.key.prefix, "calls": 5, "used": 0}
    assert put(key, f"projects/{acme.key.project.slug}", 50).status_code == 200
    assert put(key, "day", 60).json() == {"kind": "day", "subject": None, "calls": 60, "used": 0}
    assert attempt(caller_of(acme.api_key), 9) == 5
    engine.stop()
    own = call(acme.api_key, "/api/v1/limits").json()["own_limits"]
    assert [(one["kind"], one["calls"], one["used"]) for one in own] == [
        ("day", 60, 5),
        ("key", 5, 5),
        ("project", 50, 5),
    ]
    assert call(key, f"/api/v1/limits/{path}", method="delete").status_code == 204
    assert call(key, f"/api/v1/limits/{path}", method="delete").status_code == 404
    assert call(key, f"/api/v1/limits/{path}").status_code == 404
    assert attempt(caller_of(acme.api_key), 9) == 9


def test_a_key_that_calls_cannot_lift_its_own_limit(make_tenant: MakeTenant, call: Call, put: Call) -> None:
    acme = make_tenant()
    answer = put(acme.api_key, f"keys/{acme.key.prefix}", 5)
    assert (answer.status_code, "limits:write" in answer.json()["detail"]) == (403, True)


@pytest.mark.parametrize("calls", [-1, 10**13, "many", None, 1.5])
def test_a_limit_is_a_number_of_calls(make_tenant: MakeTenant, put: Call, calls: Any) -> None:
    assert put(manager(make_tenant()), "day", calls).status_code == 400


def test_another_tenants_project_and_key_do_not_exist(make_tenant: MakeTenant, put: Call) -> None:
    acme, initech = make_tenant(), make_tenant("Initech")
    key = manager(initech)
    assert put(key, f"keys/{acme.key.prefix}", 5).status_code == 404
    assert put(key, "projects/nothing-of-mine", 5).status_code == 404
