"""Tests of metered views as adopters write them: in Django's TestCase, on the test's own connection."""

import threading
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.handlers.asgi import ASGIRequest
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, TestCase
from django.urls import path
from pytest_django import Settings
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metering import backlog, engine
from metering.database import conninfo
from metering.decorators import metered
from metering.models import Call, Lease, Quota
from metering.recorder import Batch, Entry
from metering.spool import Spool
from metering.testing import InlineMetering, inline_metering
from metering.throttles import TierThrottle
from tests.conftest import MakeTenant
from tests.metering.ledger import books
from tests.metering.test_limit_is_exact import caller_of


class Throttled(APIView):
    throttle_classes = [TierThrottle]
    capability = "throttled"

    def get(self, request: Request) -> Response:
        return Response({})


@metered("plain", cost=2)
def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=int(request.GET.get("status", 200)))


@metered("coroutine")
async def coroutine(request: ASGIRequest) -> HttpResponse:
    return HttpResponse()


urlpatterns = [path("throttled", Throttled.as_view()), path("plain", plain), path("coroutine", coroutine)]


@pytest.fixture(autouse=True)
def _urls(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def metering(db: None) -> Iterator[engine.Engine]:
    """As an adopter's conftest.py would have it."""
    with inline_metering() as inline:
        yield inline


def get(key: str, address: str) -> int:
    return int(Client().get(address, headers={"authorization": f"Bearer {key}"}).status_code)


def seen_by_others(tenant_id: Any) -> int:
    with psycopg.connect(conninfo()) as other:
        row: Any = other.execute(
            "SELECT (SELECT count(*) FROM metering_call WHERE tenant_id = %(t)s) + "
            "(SELECT count(*) FROM metering_quota WHERE tenant_id = %(t)s)",
            {"t": tenant_id},
        ).fetchone()
    return int(row[0])


def test_a_call_is_in_the_ledger_when_its_answer_is_there(metering: engine.Engine, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    before = threading.enumerate()
    assert get(acme.api_key, "/throttled") == get(acme.api_key, "/plain") == 200
    assert threading.enumerate() == before
    calls = Call.objects.filter(tenant=acme.tenant).order_by("units")
    assert [(call.capability, call.units, call.status) for call in calls] == [("throttled", 1, 200), ("plain", 2, 200)]
    assert Quota.objects.get(tenant=acme.tenant).used == 3
    assert seen_by_others(acme.tenant.id) == 0


def test_limits_hold_and_failed_calls_are_free(metering: engine.Engine, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=4)
    statuses = [get(acme.api_key, f"/plain?status={status}") for status in (500, 200, 503, 201, 200)]
    assert statuses == [500, 200, 503, 201, 429]
    kept = books(acme.tenant.id)
    assert (kept.used, kept.rolled_up) == (4, {"billable": 2, "failed": 2, "refused": 1})
    assert get("nonsense", "/plain") == 401


def test_afterwards_all_units_are_returned_and_the_process_has_its_engine_again(
    db: None, make_tenant: MakeTenant
) -> None:
    acme = make_tenant(included=10**6)
    ordinary = engine.engine()
    with inline_metering():
        assert engine.engine() is not ordinary
        for _ in range(4):  # a grant grows with use
            get(acme.api_key, "/plain")
        assert Lease.objects.filter(tenant_id=acme.tenant.id).exists()
    assert engine.engine() is ordinary
    assert not Lease.objects.filter(tenant_id=acme.tenant.id).exists()
    books(acme.tenant.id).assert_balanced()


class AdoptersTest(InlineMetering, TestCase):
    __test__ = False  # run by the test below
    make_tenant: Any
    tenant_ids: list[Any]

    def setUp(self) -> None:
        super().setUp()
        self.acme = type(self).make_tenant(included=4)
        self.tenant_ids.append(self.acme.tenant.id)
        self.headers = {"authorization": f"Bearer {self.acme.api_key}"}

    def test_a_sync_view(self) -> None:
        assert self.client.get("/plain", headers=self.headers).status_code == 200
        assert Call.objects.get(tenant=self.acme.tenant).units == 2

    async def test_an_async_view(self) -> None:
        answer = await self.async_client.get("/coroutine", headers=self.headers)
        assert answer.status_code == 200
        assert (await Call.objects.aget(tenant=self.acme.tenant)).capability == "coroutine"

    def test_a_broken_transaction(self) -> None:
        self.client.get("/plain", headers=self.headers)
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")


def test_a_test_case_sees_its_calls_and_leaves_nothing(
    committed: None, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdoptersTest, "make_tenant", staticmethod(make_tenant), raising=False)
    monkeypatch.setattr(AdoptersTest, "tenant_ids", [], raising=False)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(AdoptersTest).run(result)
    assert (result.testsRun, result.failures) == (3, [])
    assert [(test.id().rpartition(".")[2], text.count("Traceback")) for test, text in result.errors] == [
        (
            "test_a_broken_transaction",
            2,
        )  # the failed statement, as psycopg and as Django say it, and nothing of ours after
    ]
    assert [seen_by_others(tenant_id) for tenant_id in AdoptersTest.tenant_ids] == [0, 0, 0]


def test_calls_that_wait_on_disk_for_the_real_ledger_stay_there(
    db: None, make_tenant: MakeTenant, settings: Settings, tmp_path: Path
) -> None:
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(tmp_path)}
    acme = make_tenant()
    caller = caller_of(acme.api_key)
    spool = Spool(backlog.folder(), max_bytes=10**6)
    with inline_metering():
        get(acme.api_key, "/plain")
    start = Quota.objects.get(tenant=acme.tenant).period_start.timestamp()
    entry = Entry(
        "01a0", caller.tenant_id, caller.project_id, caller.key_id, "plain", "billable", "", 200, 1, 1, start, start,
        start + 1e6, None,
    )  # fmt: skip
    spool.append(Batch((entry,), {}))
    spool.close()
    waiting = list(tmp_path.rglob("*.spool"))
    with inline_metering():
        assert get(acme.api_key, "/plain") == 200
    assert [file.name for file in waiting] == [file.name for file in tmp_path.rglob("*.spool")]
    assert waiting
    assert Call.objects.filter(tenant=acme.tenant).count() == 2


def test_a_statement_that_fails_does_not_end_the_tests_transaction(
    metering: engine.Engine, make_tenant: MakeTenant
) -> None:
    acme = make_tenant(included=2)
    with pytest.raises(psycopg.errors.DivisionByZero), metering.database.connection() as own:
        own.execute("SELECT 1 / 0")
    assert get(acme.api_key, "/plain") == 200
