"""What is wrong with a metered view is said before the first call: view, attribute, cause and mend."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.core import checks
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from pytest_django import Settings
from rest_framework.decorators import action, api_view, throttle_classes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from metering.decorators import metered
from metering.throttles import TierThrottle

Found = Callable[..., list[tuple[str, str, str]]]
urlpatterns: list[Any] = []


class Metered(APIView):
    throttle_classes: Any = [TierThrottle]
    capability: Any = "storage"
    cost: Any = 1

    def get(self, request: Request) -> Response:
        return Response({})

    def put(self, request: Request) -> Response:
        return Response({})


class Reports(ViewSet):
    throttle_classes: Any = [TierThrottle]
    capability: Any = None
    cost: Any = None

    def list(self, request: Request) -> Response:
        return Response([])

    def create(self, request: Request) -> Response:
        return Response({})

    @action(detail=True, throttle_classes=[])
    def cover(self, request: Request, pk: str) -> Response:
        return Response({})


@pytest.fixture
def found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Found:
    """What the server's start-up checks say of a site with this view: id, what, hint."""

    def run(view: Any = Metered, **attributes: Any) -> list[tuple[str, str, str]]:
        for name, value in attributes.items():
            monkeypatch.setattr(view, name, value, raising=False)
        if view is Reports:
            router = SimpleRouter()
            router.register("reports", view, basename="report")
            patterns: Any = router.urls
        else:
            patterns = [path("view", getattr(view, "as_view", lambda: view)())]
        monkeypatch.setitem(globals(), "urlpatterns", [path(prefix, include(patterns)) for prefix in ("a/", "b/")])
        settings.ROOT_URLCONF = __name__
        messages = [each for each in checks.run_checks(tags=["meterhouse"]) if str(each.id).startswith("metering")]
        return [(str(each.id), each.msg.removeprefix(f"{__name__}."), str(each.hint)) for each in messages]

    return run


def test_the_project_itself_passes() -> None:
    assert [each for each in checks.run_checks(tags=["meterhouse"]) if str(each.id).startswith("metering")] == []


@pytest.mark.parametrize(
    ("capability", "cost"),
    [("storage", 1), ("a", 10**6), ({"get": "read", "put": "write"}, {"put": 7}), (property(lambda view: "x"), 1)],
)
def test_a_complete_view_passes(found: Found, capability: Any, cost: Any) -> None:
    assert found(capability=capability, cost=cost) == []


@pytest.mark.parametrize("cost", [0, -1, True, 1.5, "5", 1_000_001, {"get": 0}])
def test_a_cost_that_makes_no_sense_is_named_once(found: Found, cost: Any) -> None:
    ((identity, message, hint),) = found(cost=cost)
    value = cost["get"] if isinstance(cost, dict) else cost
    assert (identity, message) == (
        "metering.E002",
        f"Metered.cost: The cost of a metered call is a whole number from 1 to 1,000,000; got {value!r}.",
    )
    assert hint.startswith("Set `cost` on the view")


@pytest.mark.parametrize("capability", [None, "", "Storage", 5, "x" * 61])
def test_a_missing_or_bad_capability_is_named(found: Found, capability: Any) -> None:
    ((identity, message, hint),) = found(capability=capability)
    assert (identity, message.partition(":")[0]) == ("metering.E001", "Metered.capability")
    assert hint.startswith("Set `capability")


def test_a_method_that_the_mapping_forgets_is_named(found: Found) -> None:
    assert [each[0] for each in found(capability={"get": "read"})] == ["metering.E001"]


def test_a_name_in_a_mapping_that_is_no_action_is_named(found: Found) -> None:
    capability = {"list": "reports.read", "create": "reports.write"}
    assert found(Reports, capability=capability, cost={"create": 2}) == []
    ((identity, message, _),) = found(Reports, capability=capability, cost={"creat": 2})
    assert (identity, message) == ("metering.E002", "Reports.cost: 'creat' is no action or method of the view")


def test_an_action_that_the_mapping_forgets_is_named_unless_it_is_not_metered(found: Found) -> None:
    ((identity, message, _),) = found(Reports, capability={"list": "reports.read"})
    assert (identity, message.partition(":")[0]) == ("metering.E001", "Reports.capability")
    assert found(Reports, capability={"list": "reports.read"}, http_method_names=["get"]) == []


def test_a_view_that_decides_by_the_request_passes(found: Found) -> None:
    assert found(capability=None, get_capability=lambda view, request: "a") == []


def test_what_as_view_sets_counts(found: Found) -> None:
    assert found(Metered.as_view(cost=5)) == []
    assert [each[0] for each in found(Metered.as_view(cost=0))] == ["metering.E002"]
    assert found(Metered.as_view(throttle_classes=[], cost=0)) == []


def test_other_throttles_are_no_concern(found: Found) -> None:
    assert found(throttle_classes=[BaseThrottle, partial(BaseThrottle)], capability=None) == []


def test_a_function_view_is_named(found: Found) -> None:
    @api_view(["GET"])
    @throttle_classes([TierThrottle])
    def ping(request: Request) -> Response:
        return Response({})

    ((identity, message, hint),) = found(ping)
    assert (identity, message.partition(":")[0]) == ("metering.E001", "ping.capability")
    assert "TierThrottle.of" in hint


@metered("storage")
def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@method_decorator(metered("storage"), name="dispatch")
class Dispatched(View): ...


class Method(View):
    @method_decorator(metered("storage"))
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse()


@pytest.mark.parametrize("view", [Metered, plain, Dispatched, Method])
def test_without_the_middleware_nothing_would_be_recorded(found: Found, settings: Settings, view: Any) -> None:
    assert found(view) == []
    settings.MIDDLEWARE = [name for name in settings.MIDDLEWARE if not name.startswith("metering.")]
    ((identity, _, hint),) = found(view)
    assert identity == "metering.E003"
    assert "MeteringMiddleware" in hint


def test_a_site_without_metered_views_needs_no_middleware(found: Found, settings: Settings) -> None:
    settings.MIDDLEWARE = []
    assert found(View) == []
