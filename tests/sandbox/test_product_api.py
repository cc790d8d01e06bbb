"""The sandbox's product API: what a first-time user tries."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from metering import engine
from metering.models import UsageHour
from sandbox import store
from tests.conftest import MakeTenant

Answer = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("committed")
RECORD = "/sandbox/v1/database/records/customer-1"
OBJECT = "/sandbox/v1/storage/objects/page.html"


@pytest.fixture
def key(make_tenant: MakeTenant) -> str:
    return make_tenant("Acme", plan="scale").api_key


def problem(answer: Any) -> str:
    """The end of the problem's type."""
    assert answer["Content-Type"] == "application/problem+json"
    return str(json.loads(answer.content)["type"].rpartition("/")[2])


def test_the_session_says_who_the_key_speaks_for(make_tenant: MakeTenant, call: Answer) -> None:
    made = make_tenant("Acme")
    answer = call(made.api_key, "/sandbox/v1/auth/session").json()
    assert answer["tenant"] == made.tenant.slug
    assert answer["project"] == made.key.project_id
    assert answer["key"] == made.key.prefix
    assert "calls" in answer["scopes"]
    assert answer["server_time"].endswith("Z")


def test_the_session_asks_the_database_nothing_once_the_key_is_known(key: str, call: Answer) -> None:
    call(key, "/sandbox/v1/auth/session")
    with CaptureQueriesContext(
        connection,
    ) as asked:
        assert call(key, "/sandbox/v1/auth/session").status_code == HTTPStatus.OK
    assert len(asked) == 0


def test_a_record_is_created_replaced_and_read_back_as_it_was_sent(key: str, call: Answer) -> None:
    assert problem(call(key, RECORD)) == "not-found"
    created = call(key, RECORD, method="put", data='{"b": 1.0, "a": []}', content_type="application/json")
    assert created.status_code == HTTPStatus.CREATED
    assert call(key, RECORD).content == b'{"b": 1.0, "a": []}'
    assert call(key, RECORD, method="put", data="[2]", content_type="text/plain").status_code == HTTPStatus.OK
    assert call(key, RECORD).json() == [2]


@pytest.mark.parametrize("body", ["", "{", '{"a": NaN}', "[" * 50_000, "\ufeff1", b"\xff"])
def test_what_is_not_json_is_no_record(key: str, call: Answer, body: str | bytes) -> None:
    answer = call(key, RECORD, method="put", data=body, content_type="application/json")
    assert answer.status_code == HTTPStatus.BAD_REQUEST
    assert problem(answer) == "invalid-request"


@pytest.mark.parametrize("name", ["a b", "a/b", "x" * 121, "%C3%A4"])
def test_a_key_with_other_characters_is_refused(key: str, call: Answer, name: str) -> None:
    assert call(key, f"/sandbox/v1/database/records/{name}").status_code == HTTPStatus.BAD_REQUEST
    assert call(key, f"/sandbox/v1/storage/objects/{name}").status_code == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(("path", "limit"), [(RECORD, 64 * 1024), (OBJECT, 1024 * 1024)])
def test_a_body_up_to_the_limit_is_kept_and_a_larger_one_is_too_large(
    key: str, call: Answer, path: str, limit: int
) -> None:
    fits = b'"' + b"x" * (limit - 2) + b'"'
    assert call(key, path, method="put", data=fits, content_type="text/plain").status_code == HTTPStatus.CREATED
    answer = call(key, path, method="put", data=fits + b" ", content_type="text/plain")
    assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert problem(answer) == "too-large"
    assert call(key, path).content == fits


def test_an_object_comes_back_with_its_type_and_cannot_run_as_a_page(key: str, call: Answer) -> None:
    page = b"<script>alert(1)</script>"
    created = call(key, OBJECT, method="put", data=page, content_type="text/html")
    assert created.status_code == HTTPStatus.CREATED
    answer = call(key, OBJECT)
    assert answer.content == page
    assert answer["Content-Type"] == "text/html"
    assert answer["Content-Disposition"].startswith("attachment")
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer["Content-Security-Policy"]
    assert answer["ETag"] == created["ETag"]


def test_an_object_that_the_caller_has_is_not_sent_again(key: str, call: Answer) -> None:
    etag = call(key, OBJECT, method="put", data=b"1", content_type="text/plain")["ETag"]
    assert call(key, OBJECT, HTTP_IF_NONE_MATCH=etag).status_code == HTTPStatus.NOT_MODIFIED
    call(key, OBJECT, method="put", data=b"2", content_type="text/plain")
    assert call(key, OBJECT, HTTP_IF_NONE_MATCH=etag).content == b"2"


@pytest.mark.parametrize(("path", "bound"), [(RECORD, "MAX_RECORDS"), (OBJECT, "MAX_OBJECTS")])
def test_a_full_project_takes_replacements_only(
    key: str, call: Answer, monkeypatch: pytest.MonkeyPatch, path: str, bound: str
) -> None:
    monkeypatch.setattr(store, bound, 1)
    put = {"method": "put", "data": "1", "content_type": "text/plain"}
    assert call(key, path, **put).status_code == HTTPStatus.CREATED
    assert call(key, path, **put).status_code == HTTPStatus.OK
    answer = call(key, f"{path}.2", **put)
    assert answer.status_code == HTTPStatus.CONFLICT
    assert problem(answer) == "project-full"


def test_another_tenant_sees_nothing(key: str, make_tenant: MakeTenant, call: Answer) -> None:
    stranger = make_tenant("Initech").api_key
    for path in (RECORD, OBJECT):
        call(key, path, method="put", data='"ours"', content_type="text/plain")
        assert call(stranger, path).status_code == HTTPStatus.NOT_FOUND
        call(stranger, path, method="put", data='"theirs"', content_type="text/plain")
        assert call(key, path).content == b'"ours"'


@pytest.mark.parametrize("code", [200, 201, 302, 404, 418, 500, 503, 599])
def test_the_answer_has_the_status_that_was_asked_for(key: str, call: Answer, code: int) -> None:
    answer = call(key, f"/sandbox/v1/storage/status/{code}", raise_request_exception=False)
    assert answer.status_code == code
    assert answer.json()["status"] == code
    assert (answer["Content-Type"] == "application/problem+json") == (code >= 400)


@pytest.mark.parametrize("code", [204, 304])
def test_an_answer_without_content_has_no_body(key: str, call: Answer, code: int) -> None:
    answer = call(key, f"/sandbox/v1/auth/status/{code}")
    assert (answer.status_code, answer.content) == (code, b"")


@pytest.mark.parametrize("end", ["199", "600", "abc", "200?delay_ms=-1", "200?delay_ms=10001", "200?delay_ms=x"])
def test_a_status_or_delay_out_of_range_is_an_invalid_request(key: str, call: Answer, end: str) -> None:
    assert problem(call(key, f"/sandbox/v1/database/status/{end}")) == "invalid-request"


def test_an_unknown_capability_is_not_served(key: str, call: Answer) -> None:
    assert call(key, "/sandbox/v1/billing/status/200").status_code == HTTPStatus.NOT_FOUND


def test_calls_are_metered_under_the_capability_of_their_address(make_tenant: MakeTenant, call: Answer) -> None:
    made = make_tenant("Acme")
    call(made.api_key, "/sandbox/v1/auth/session")
    call(made.api_key, RECORD)
    for code in (200, 500):
        answer = call(made.api_key, f"/sandbox/v1/storage/status/{code}")
        assert "RateLimit" in answer
    engine.stop()
    hours = UsageHour.objects.filter(tenant=made.tenant).values_list("capability", "billable", "failed")
    assert set(hours) == {("auth", 1, 0), ("database", 1, 0), ("storage", 1, 1)}


def test_the_unmetered_twin_serves_the_same_and_counts_nothing(make_tenant: MakeTenant, call: Answer) -> None:
    made = make_tenant("Globex", included=0)
    assert call(made.api_key, "/sandbox/v1/auth/session").status_code == HTTPStatus.TOO_MANY_REQUESTS
    answer = call(made.api_key, "/sandbox/v1/unmetered/auth/session")
    assert answer.json()["tenant"] == made.tenant.slug
    assert "RateLimit" not in answer
    assert call("", "/sandbox/v1/unmetered/auth/session").status_code == HTTPStatus.UNAUTHORIZED
    engine.stop()
    assert not UsageHour.objects.filter(tenant=made.tenant).exclude(billable=0).exists()
