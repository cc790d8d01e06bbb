"""Hostile names on every page, partial, export, mail and admin list."""

from typing import Any

import pytest
from django.apps import apps
from django.core import mail
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from tenants import notices
from tenants.models import User
from tests.canaries import MARKUP, REVERSED, assert_cells_are_inert, assert_only_text, canary, plant

from .addresses import address_of, tenant_pages
from .conftest import Visit, Visitor, add_usage

MODELS = [model for app in ("tenants", "metering", "billing") for model in apps.get_app_config(app).get_models()]


@pytest.fixture
def hostile(visit: Visit) -> Visitor:
    """A tenant with usage and with such names everywhere."""
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now(), billable=1200, failed=3, capability=MARKUP[:40])
    plant(acme.owned)
    return acme


def body_of(answer: Any) -> str:
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return str(content.decode())


def test_every_page_partial_and_export_shows_text(hostile: Visitor) -> None:
    pages_with_names = exports = 0
    for name in tenant_pages():
        address = address_of(name, hostile.owned)
        for headers in ({}, {"HX-Request": "true"}):
            answer = hostile.client.get(address, headers=headers)
            text = body_of(answer)
            if answer.headers.get("Content-Type", "").startswith("text/csv"):
                exports += 1
                assert_cells_are_inert(text, address)
            elif answer.status_code == 200:
                assert_only_text(text, address)
                pages_with_names += escape(MARKUP)[:40] in text
    assert pages_with_names >= 8
    assert exports, "at least one export was read"


def test_mails_carry_the_names_as_text(hostile: Visitor) -> None:
    notices.send_due(now=timezone.now())
    (sent,) = [one for one in mail.outbox if "yranac" in one.body]
    assert "\n" not in sent.subject
    assert sent.content_subtype == "plain"
    assert canary() in sent.body
    assert not getattr(sent, "alternatives", None)


def test_operators_lists_show_text(hostile: Visitor) -> None:
    operator = Client()
    operator.force_login(User.objects.create_superuser("olivia@meterhouse.example", name=canary(150)))
    shown = 0
    for model in MODELS:
        address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        text = body_of(operator.get(address))
        assert_only_text(text, address)
        shown += REVERSED[:5] in text
    assert shown >= 4
