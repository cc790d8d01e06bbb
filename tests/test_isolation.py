"""No answer of any address that exists contains another tenant's data: not for a session, not for a key, not for nobody."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from billing.onboarding import Onboarded
from metering import engine
from metering.models import Call
from tenants import directory
from tests.conftest import MakeTenant
from tests.dashboard.addresses import endpoint_of, invited
from tests.metering.test_limit_is_exact import attempt, caller_of

SECRET_RECORD = "the-launch-codes-of-acme"


PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>|\(\?P<(\w+)>[^()]*\)")  # of path() and of re_path()


def routes(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    """Every route of the product, as it is written."""
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern).lstrip("^").rstrip("$")
        if isinstance(pattern, URLResolver):
            yield from routes(pattern, route)
        elif isinstance(pattern, URLPattern):
            yield route


def addresses(acme: Onboarded) -> list[str]:
    """Every address outside the admin, pointed at acme wherever it can be."""
    values = {
        "tenant_slug": acme.tenant.slug, "capability": "storage", "key": "secret", "code": "200", "slug": "quota-exceeded",
        "subject": acme.key.project.slug, "project_slug": acme.key.project.slug, "public_id": acme.key.public_id,
        "member_id": str(acme.tenant.memberships.earliest("created_at").pk), "token": "A" * 43,
        "invitation_id": str(invited(acme).pk), "prefix": acme.key.prefix, "uidb36": "1", "pk": "1",
        "invoice_id": "in_of_acme",
        "endpoint_id": str(endpoint_of(acme).pk),
        "call_id": str(Call.objects.filter(tenant=acme.tenant).latest("occurred_at").id),
    }  # fmt: skip
    found = [
        "/" + PARAMETER.sub(lambda match: values[match[1] or match[2]], route)
        for route in routes(get_resolver())
        if not route.startswith("admin/")
    ]
    assert not [path for path in found if set(path) & set("<>^$()?")]
    return found


@dataclass(frozen=True)
class Story:
    acme: Onboarded
    initech: Onboarded
    marks: tuple[str, ...]


@pytest.fixture
def story(committed: None, make_tenant: MakeTenant) -> Story:
    """acme has a project, a key, calls, a record and an object of its own; initech is a stranger."""
    acme, initech = make_tenant("Acme", plan="scale"), make_tenant("Initech")
    project = directory.add_project(tenant=acme.tenant, name="Skunkworks Zeppelin", actor="test")
    client = Client(headers={"authorization": f"Bearer {acme.api_key}"})
    client.put("/sandbox/v1/database/records/secret", {"note": SECRET_RECORD}, content_type="application/json")
    client.put("/sandbox/v1/storage/objects/secret", SECRET_RECORD.encode(), content_type="text/plain")
    attempt(caller_of(acme.api_key), 137)
    engine.stop()
    marks = (
        acme.tenant.slug, str(acme.tenant.id), acme.user.email, acme.key.public_id, acme.api_key, project.name,
        project.slug, SECRET_RECORD,
    )  # fmt: skip
    return Story(acme, initech, marks)


def assert_clean(body: bytes, path: str, story: Story) -> None:
    text = body.decode("utf-8", "replace").replace(path, "")  # an error page may repeat the address that was asked for
    found = [mark for mark in story.marks if mark in text]
    assert not found, f"{path} shows {found}"


def test_the_marks_are_really_shown_to_their_owner(story: Story) -> None:
    client = Client()
    client.force_login(story.acme.user)
    page = client.get(f"/t/{story.acme.tenant.slug}/").content.decode()
    assert story.acme.tenant.slug in page
    record = Client(headers={"authorization": f"Bearer {story.acme.api_key}"}).get(
        "/sandbox/v1/database/records/secret"
    )
    assert SECRET_RECORD in record.content.decode()


def test_a_session_of_another_tenant_sees_nothing(story: Story) -> None:
    client = Client()
    client.force_login(story.initech.user)
    for path in addresses(story.acme):
        answer = client.get(path, follow=True)
        assert_clean(b"".join(answer) if answer.streaming else answer.content, path, story)
        if story.acme.tenant.slug in path:
            assert answer.status_code == 404, path


def test_a_key_of_another_tenant_sees_nothing(story: Story) -> None:
    client = Client(headers={"authorization": f"Bearer {story.initech.api_key}"})
    for path in addresses(story.acme):
        answer = client.get(path)
        assert_clean(b"".join(answer) if answer.streaming else answer.content, path, story)


def test_nobody_sees_nothing(story: Story) -> None:
    for path in addresses(story.acme):
        answer = Client().get(path)
        assert_clean(b"".join(answer) if answer.streaming else answer.content, path, story)
        if path.startswith(("/api/", "/sandbox/v1/")):
            assert answer.status_code == 401, path


def test_the_admin_is_closed_to_owners(story: Story) -> None:
    client = Client()
    client.force_login(story.acme.user)
    for path in ("/admin/", "/admin/tenants/tenant/", "/admin/metering/call/", "/admin/billing/account/"):
        assert client.get(path).status_code == 302, path
