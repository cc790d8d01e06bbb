"""TierThrottle among other throttles."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.urls import path
from pytest_django import Settings
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.test import APIClient, APIRequestFactory
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from metering import engine
from metering.decorators import metered
from metering.throttles import TierThrottle
from tests.conftest import MakeTenant
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")


class Closed(BaseThrottle):
    def allow_request(self, request: Request, view: Any) -> bool:
        return False

    def wait(self) -> float:
        return 30.0


class Metered(APIView):
    throttle_classes = [TierThrottle]
    capability: Any = "storage"

    def get(self, request: Request) -> Response:
        return Response({})


class RefusedLater(Metered):
    throttle_classes = [TierThrottle, Closed]


class RefusedBefore(Metered):
    throttle_classes = [Closed, TierThrottle]


class Twice(Metered):
    throttle_classes = [TierThrottle, TierThrottle]


class ByMethod(Metered):
    capability = {"get": "read"}
    cost = {"get": 3}


class Absurd(Metered):
    def get_cost(self, request: Request) -> Any:
        return -5


urlpatterns = [
    path(view.__name__, view.as_view()) for view in (Metered, RefusedLater, RefusedBefore, Twice, ByMethod, Absurd)
]


@pytest.fixture(autouse=True)
def _urls(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__


def get(key: str, view: type[APIView]) -> Any:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client.get(f"/{view.__name__}")


@pytest.mark.parametrize("view", [RefusedLater, RefusedBefore])
def test_what_another_throttle_refuses_takes_nothing(make_tenant: MakeTenant, view: type[APIView]) -> None:
    acme = make_tenant(included=2, burst_per_second=10)
    answers = [get(acme.api_key, view) for _ in range(30)]
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in answers} == {(429, "30")}
    assert [get(acme.api_key, Metered).status_code for _ in range(3)] == [200, 200, 429]
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert (kept.used, kept.reserved, kept.rolled_up) == (2, 0, {"billable": 2, "failed": 30, "refused": 1})


def test_asked_twice_it_meters_once(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=5)
    assert [get(acme.api_key, Twice).status_code for _ in range(6)] == [200] * 5 + [429]
    engine.stop()
    assert books(acme.tenant.id).rolled_up == {"billable": 5, "failed": 0, "refused": 1}


def test_a_mapping_may_go_by_method(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=7)
    assert [get(acme.api_key, ByMethod).status_code for _ in range(3)] == [200, 200, 429]
    engine.stop()
    assert books(acme.tenant.id).used == 6


def test_an_absurd_computed_cost_is_an_error_that_names_it(make_tenant: MakeTenant) -> None:
    with pytest.raises(ImproperlyConfigured, match="from 1 to 1,000,000; got -5"):
        get(make_tenant().api_key, Absurd)


def test_the_request_factory_works_too(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=1)
    request = APIRequestFactory().get("/", headers={"authorization": f"Bearer {acme.api_key}"})
    assert Metered.as_view()(request).status_code == 200
    assert request.metered_call.ticket is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("capability", "cost"),
    [("Storage", 1), ("", 1), ("storage", 0), ("storage", -1), ("storage", 10**7), ("storage", True)],
)
def test_what_cannot_be_metered_is_refused_at_import(capability: str, cost: Any) -> None:
    with pytest.raises(ImproperlyConfigured):
        TierThrottle.of(capability, cost=cost)
    with pytest.raises(ImproperlyConfigured):

        @metered(capability, cost=cost)
        def view(request: HttpRequest) -> None: ...
