"""The first run: one command with the key in it, and the call shows."""

from datetime import datetime
from typing import Any

import pytest
from django.utils import timezone

from dashboard import first_key
from metering import engine
from tenants.models import ApiKey, Role
from tests.metering.test_limit_is_exact import attempt, caller_of

from .conftest import Visit, be
from .test_pages import words


def test_a_new_key_is_in_the_command_once(visit: Visit, call: Any) -> None:
    acme = visit()
    assert "Put your whole API key in place of the dots." in words(acme.page("start"))
    assert f"Bearer {acme.owned.key.prefix}_..." in acme.page("start")
    answer = acme.client.post(f"/t/{acme.slug}/start")
    assert answer["Location"] == f"/t/{acme.slug}/start"
    key = answer.cookies[first_key.COOKIE].value
    poll = acme.client.get(f"/t/{acme.slug}/start", headers={"HX-Request": "true"})
    assert key not in poll.content.decode()
    assert f"Bearer {key}&quot; http://" in acme.page("start")
    assert key not in acme.page("start"), "shown once"
    assert call(key, "/api/v1/usage").status_code == 200
    made = ApiKey.objects.get(public_id=key.split("_")[2])
    assert (made.tenant, made.created_by) == (acme.owned.tenant, acme.owned.user)


def test_without_an_address_it_says_whom_to_ask(visit: Visit, settings: Any) -> None:
    settings.FIRST_CALL_URL = ""
    acme = visit()
    text = words(acme.page("start"))
    assert "Whoever operates this portal tells you its address." in text
    assert "curl" not in text
    assert "whoever operates this portal tells you its address" in words(acme.page())
    settings.FIRST_CALL_URL = "https://api.hooli.example/v1/status"
    assert "https://api.hooli.example/v1/status" in acme.page("start")


def test_without_a_project_it_leads_to_the_projects(visit: Visit) -> None:
    acme = visit()
    acme.owned.tenant.projects.update(archived_at=timezone.now())
    assert f'href="/t/{acme.slug}/projects">To the projects' in acme.page("start")
    answer = acme.client.post(f"/t/{acme.slug}/start", follow=True)
    assert "There is no project in use." in words(answer.content.decode())
    assert acme.owned.tenant.api_keys.count() == 1


def test_the_empty_overview_leads_to_it(visit: Visit) -> None:
    acme = visit()
    assert f'href="/t/{acme.slug}/start"' in acme.page()


@pytest.fixture
def called(committed: None, make_tenant: Any) -> Any:
    """A tenant that has made a call, recorded as in production."""
    owned = make_tenant()
    attempt(caller_of(owned.api_key), 1)
    engine.stop()
    return owned


def test_the_call_shows_and_the_page_stops_asking(called: Any, client: Any, now: datetime) -> None:
    client.force_login(called.user)
    poll = client.get(f"/t/{called.tenant.slug}/start", headers={"HX-Request": "true"})
    assert poll.status_code == 286, "htmx asks no more"
    text = words(poll.content.decode())
    assert "2. It has arrived" in text
    assert "counted as a billable call" in text
    page = client.get(f"/t/{called.tenant.slug}/start").content.decode()
    assert "every 2s" not in page
    be(called.tenant, Role.VIEWER, projects=[])
    text = words(client.get(f"/t/{called.tenant.slug}/start").content.decode())
    assert "It has arrived" not in text, "a call of a project that this member does not see"
