"""The keys page: a whole key is shown once; keys are made, rotated and revoked by those who may."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from tenants import keys
from tenants.models import ApiKey, AuditEntry, Role, User

from .conftest import Visit, Visitor, add_usage, be
from .test_pages import words

WANTED = {"project": "default", "name": "Nightly import", "scopes": ["calls", "usage:read"], "expires": "never"}


def make(visitor: Visitor, **fields: Any) -> Any:
    return visitor.client.post(f"/t/{visitor.slug}/keys/new", {**WANTED, **fields})


def shown(answer: Any) -> str:
    """The whole key that the page shows."""
    found = re.search(r'<code id="secret">(mh_live_\w+)</code>', answer.content.decode())
    assert found, words(answer.content.decode())
    return found[1]


def latest(visitor: Visitor) -> ApiKey:
    return visitor.owned.tenant.api_keys.order_by("-pk")[0]


def test_a_key_is_shown_once_and_works(visit: Visit, call: Any) -> None:
    acme = visit()
    answer = make(acme)
    key = shown(answer)
    assert answer["Cache-Control"] == "no-store"
    assert call(key, "/api/v1/usage").status_code == 200
    text = acme.page("keys")
    assert key not in text
    row = latest(acme)
    assert str(row) in text
    assert "Nightly import Active" in words(text)
    assert acme.owned.user.email in text
    assert (row.scopes, row.created_by, row.expires_at) == (["calls", "usage:read"], acme.owned.user, None)
    assert key not in str(AuditEntry.objects.filter(tenant=acme.owned.tenant).values())


@pytest.mark.parametrize(("expires", "days"), [("30", 30), ("90", 90), ("365", 365)])
def test_a_key_may_end_by_itself(visit: Visit, expires: str, days: int) -> None:
    acme = visit()
    before = timezone.now()
    make(acme, expires=expires)
    ends_at = latest(acme).expires_at
    assert ends_at
    assert before + timedelta(days=days) <= ends_at <= timezone.now() + timedelta(days=days)


def test_a_key_may_end_on_a_day(visit: Visit) -> None:
    acme = visit()
    day = (timezone.now() + timedelta(days=40)).date()
    make(acme, expires="date", on=day.isoformat())
    assert latest(acme).expires_at == datetime(day.year, day.month, day.day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "This field is required."),
        ({"name": "x" * 121}, "at most 120 characters"),
        ({"scopes": []}, "This field is required."),
        ({"scopes": ["admin"]}, "admin is not one of the available choices."),
        ({"project": "elsewhere"}, "elsewhere is not one of the available choices."),
        ({"expires": "date"}, "Say which day."),
        ({"expires": "date", "on": "2020-01-01"}, "Choose a day in the next ten years."),
        ({"expires": "date", "on": "9999-12-31"}, "Choose a day in the next ten years."),
        ({"expires": "date", "on": "soon"}, "Enter a valid date."),
    ],
)
def test_what_is_no_key_is_told_beside_its_field(visit: Visit, fields: dict[str, Any], message: str) -> None:
    acme = visit()
    answer = make(acme, **fields)
    assert answer.status_code == 422
    assert message in words(answer.content.decode())
    assert acme.owned.tenant.api_keys.count() == 1


def test_rotating_leaves_the_old_key_its_time(visit: Visit, call: Any) -> None:
    acme = visit()
    address = f"/t/{acme.slug}/keys/{acme.owned.key.public_id}/rotate"
    assert "goes on working for as long as you choose" in words(acme.client.get(address).content.decode())
    answer = acme.client.post(address, {"overlap": "3600"})
    key = shown(answer)
    assert f"The old key {acme.owned.key} works until" in words(answer.content.decode())
    assert call(key, "/api/v1/usage").status_code == call(acme.owned.api_key, "/api/v1/usage").status_code == 200
    text = words(acme.page("keys"))
    assert f"replaced by {latest(acme)}" in text
    assert "First key Ends soon" in text
    again = acme.client.post(address, {"overlap": "3600"}, follow=True).content.decode()
    assert "The key was replaced already." in words(again)
    assert acme.owned.tenant.api_keys.count() == 2


def test_rotating_without_overlap_ends_the_old_key_at_once(visit: Visit, call: Any) -> None:
    acme = visit()
    answer = acme.client.post(f"/t/{acme.slug}/keys/{acme.owned.key.public_id}/rotate", {"overlap": "0"})
    assert "is refused from now on" in words(answer.content.decode())
    assert call(acme.owned.api_key, "/api/v1/usage").status_code == 401
    assert "First key Expired" in words(acme.page("keys?status=expired"))


def test_an_overlap_that_is_not_offered_is_refused(visit: Visit) -> None:
    acme = visit()
    for overlap in ("", "-1", "999999999"):
        answer = acme.client.post(f"/t/{acme.slug}/keys/{acme.owned.key.public_id}/rotate", {"overlap": overlap})
        assert answer.status_code == 422
    assert acme.owned.tenant.api_keys.count() == 1


def test_revoking_asks_first_and_then_refuses(visit: Visit, call: Any) -> None:
    acme = visit()
    address = f"/t/{acme.slug}/keys/{acme.owned.key.public_id}/revoke"
    assert "It was never used." in words(acme.client.get(address).content.decode())
    assert call(acme.owned.api_key, "/api/v1/usage").status_code == 200
    assert "It was last used at" in words(acme.client.get(address).content.decode())
    keys.cache.clear()
    acme.client.post(address)
    assert call(acme.owned.api_key, "/api/v1/usage").status_code == 401
    assert "No key matches" in words(acme.page("keys"))
    assert "First key Revoked" in words(acme.page("keys?status=revoked"))


def test_filters_narrow_the_list(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now(), billable=1234)
    acme.client.post(f"/t/{acme.slug}/projects", {"name": "Mobile"})
    make(acme, project="mobile")
    assert "Nightly import" not in words(acme.page("keys?project=default"))
    assert "1,234" in words(acme.page("keys?project=default"))
    assert "First key" not in words(acme.page("keys?project=mobile"))
    part = acme.client.get(f"/t/{acme.slug}/keys?project=mobile", headers={"HX-Request": "true"}).content.decode()
    assert "Nightly import" in part
    assert "<html" not in part
    assert 'href="/t/' in part, "what may be done with a key is in the part too"


def test_a_developer_gives_no_scope_over_money(visit: Visit) -> None:
    acme = visit()
    strong, _ = keys.issue(
        project=acme.owned.key.project, name="Limits", actor="test", scopes=frozenset({"limits:write"})
    )
    assert "limits:write" in acme.page("keys/new")
    be(acme.owned.tenant, Role.DEVELOPER)
    assert "limits:write" not in acme.page("keys/new")
    assert make(acme, scopes=["limits:write"]).status_code == 422
    address = f"/t/{acme.slug}/keys/{strong.public_id}/rotate"
    answer = acme.client.post(address, {"overlap": "0"}, follow=True)
    assert "The key may do more than you may let one do." in words(answer.content.decode())
    assert acme.owned.tenant.api_keys.count() == 2
    assert make(acme).status_code == 200


def test_a_person_who_is_gone_made_no_key_of_ours(visit: Visit) -> None:
    acme = visit()
    gone = User.objects.create_user("gone@acme.example", "x")
    keys.issue(project=acme.owned.key.project, name="Orphan", actor="test", created_by=gone)
    gone.delete()
    assert "Orphan" in acme.page("keys")
