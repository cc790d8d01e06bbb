"""The page for engineers who meter their own views: its code runs, as it stands there."""

import re
import sys
import types
import unittest
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from pytest_django import Settings

from metering import engine
from metering.checks import metered_views_are_complete
from metering.models import Call
from tests.conftest import ROOT, MakeTenant
from tests.metering.ledger import books

PAGE = ROOT / "docs" / "metering-your-views.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def adopters(settings: Settings, committed: None) -> Iterator[Any]:
    """The page's code as one module, which is the project's URL configuration as well."""
    module = types.ModuleType("page_for_adopters")
    for block in BLOCK.findall(PAGE.read_text()):
        exec(compile(block, str(PAGE), "exec"), module.__dict__)  # noqa: S102 -- our own page
    sys.modules[module.__name__] = module
    settings.ROOT_URLCONF = module.__name__
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    ("request_line", "capability", "units", "status"),
    [
        ("get /objects/a", "storage", 1, 200),
        ("get /reports", "reports.read", 1, 200),
        ("post /reports", "reports.write", 1, 201),
        ("post /reports/7/render", "reports.render", 25, 200),
        ("get /search", "search", 1, 200),
        ("get /search?deep=1", "search", 10, 200),
        ("get /ping", "ping", 2, 200),
        ("get /thumbnail", "thumbnails", 1, 200),
        ("post /thumbnail?size=large", "thumbnails", 5, 200),
        ("get /embedding", "embeddings", 3, 200),
        ("get /invoices", "invoices", 1, 200),
    ],
)
def test_each_view_meters_what_the_page_says(
    adopters: Any, make_tenant: MakeTenant, request_line: str, capability: str, units: int, status: int
) -> None:
    acme = make_tenant(included=100)
    method, address = request_line.split()
    client = Client(headers={"authorization": f"Bearer {acme.api_key}"}, enforce_csrf_checks=True)
    answer = client.generic(method.upper(), address)
    assert answer.status_code == status
    assert answer.headers["RateLimit"].startswith('"month";r=')
    engine.stop()
    call = Call.objects.get(tenant=acme.tenant)
    assert (call.capability, call.units, call.status) == (capability, units, status)
    books(acme.tenant.id).assert_balanced()


async def _embedding(key: str) -> Any:
    return await AsyncClient().get("/embedding", headers={"authorization": f"Bearer {key}"})


def test_the_async_view_runs_in_an_event_loop(adopters: Any, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=3)
    assert async_to_sync(_embedding)(acme.api_key).json() == {"tenant": acme.tenant.slug}
    assert async_to_sync(_embedding)(acme.api_key).status_code == 429
    engine.stop()
    books(acme.tenant.id).assert_balanced()


@pytest.mark.parametrize("test", ["ThumbnailTest", "EmbeddingTest"])
def test_the_pages_tests_pass_and_leave_nothing(adopters: Any, make_tenant: MakeTenant, test: str) -> None:
    made: list[Any] = []

    def a_key_of_a_tenant() -> str:
        made.append(make_tenant())
        return str(made[0].api_key)

    adopters.a_key_of_a_tenant = a_key_of_a_tenant
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(getattr(adopters, test)).run(result)
    assert (result.testsRun, result.failures, result.errors) == (1, [], [])
    assert not Call.objects.filter(tenant_id=made[0].tenant.id).exists()


def test_the_pages_views_pass_the_checks(adopters: Any) -> None:
    assert metered_views_are_complete() == []
    adopters.ReportViewSet.cost = {"render": 0}
    adopters.SearchView.capability = "Search!"
    assert {(error.id, error.msg.split(": ")[0]) for error in metered_views_are_complete()} == {
        ("metering.E001", "page_for_adopters.SearchView.capability"),
        ("metering.E002", "page_for_adopters.ReportViewSet.cost"),
    }


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:METERING|CALL|BURST)_\w+)`", PAGE.read_text()))))
def test_each_setting_of_the_page_exists(name: str) -> None:
    assert f'"{name}"' in (ROOT / "config" / "settings.py").read_text()
