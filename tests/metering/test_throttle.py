"""TierThrottle among other throttles."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.urls import include, path
from pytest_django import Settings
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.test import APIClient, APIRequestFactory
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView
from rest_framework.viewsets import ModelViewSet

from billing.onboarding import Onboarded
from metering import engine
from metering.decorators import metered
from metering.models import Call
from metering.throttles import TierThrottle
from tenants.models import Project
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


class ByRequest(Metered):
    def get_capability(self, request: Request) -> str:
        return str(request.query_params["of"])

    def get_cost(self, request: Request) -> int:
        return len(request.query_params)


class ForEverybody(Metered):
    permission_classes = []


class ProjectSerializer(ModelSerializer[Project]):
    class Meta:
        model = Project
        fields = ["name"]


class ProjectViewSet(ModelViewSet[Project]):
    throttle_classes = [TierThrottle]
    serializer_class = ProjectSerializer
    http_method_names = ["get", "head", "options", "patch", "post"]
    capability = {
        "list": "projects.read", "retrieve": "projects.read", "partial_update": "projects.write", "archive": "projects.archive",
    }  # fmt: skip
    cost = {"partial_update": 5}

    def get_queryset(self) -> Any:
        return Project.objects.filter(tenant_id=self.request.auth.tenant_id).order_by("pk")  # type: ignore[union-attr]

    @action(detail=True, methods=["post"])
    def archive(self, request: Request, pk: str) -> Response:
        return Response({}, status=202)

    @action(detail=False, throttle_classes=[])
    def free(self, request: Request) -> Response:
        return Response({})


class Absurd(Metered):
    def get_cost(self, request: Request) -> Any:
        return -5


VIEWS = (Metered, RefusedLater, RefusedBefore, Twice, ByMethod, ByRequest, ForEverybody, Absurd)
router = SimpleRouter(trailing_slash=False)
router.register("projects", ProjectViewSet, basename="project")
urlpatterns = [*(path(view.__name__, view.as_view()) for view in VIEWS), path("", include(router.urls))]


@pytest.fixture(autouse=True)
def _urls(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__


def client_of(key: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client


def get(key: str, view: type[APIView], **query: str) -> Any:
    return client_of(key).get(f"/{view.__name__}", query)


def recorded(made: Onboarded) -> list[tuple[str, int, int]]:
    """Capability, units and status of each call, sorted by them: a grant may set the process's clock back by a little."""
    engine.stop()
    books(made.tenant.id).assert_balanced()
    return sorted(Call.objects.filter(tenant=made.tenant).values_list("capability", "units", "status"))


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


def test_a_mapping_by_method_leaves_what_is_not_served_to_the_framework(make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    client = client_of(acme.api_key)
    answers = [getattr(client, name)("/ByMethod").status_code for name in ("get", "head", "options", "delete")]
    assert answers == [200, 200, 200, 405]
    assert recorded(acme) == [("read", 3, 200), ("read", 3, 200)]


def test_the_view_may_decide_by_the_request(make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    assert get(acme.api_key, ByRequest, of="maps", size="large").status_code == 200
    assert get(acme.api_key, ByRequest, of="images").status_code == 200
    assert recorded(acme) == [("images", 1, 200), ("maps", 2, 200)]


def test_each_action_of_a_viewset_has_its_capability_and_cost(make_tenant: MakeTenant) -> None:
    acme = make_tenant(plan="scale", included=100)
    client, one = client_of(acme.api_key), f"/projects/{acme.key.project_id}"
    assert client.get("/projects").json() == [{"name": acme.key.project.name}]
    assert client.get(one).status_code == 200
    assert client.patch(one, {"name": "Renamed"}, format="json").json() == {"name": "Renamed"}
    assert client.post(f"{one}/archive").status_code == 202
    assert client.get("/projects/0").status_code == 404
    assert client.get("/projects/free").status_code == 200
    assert client.put(one).status_code == 405
    assert recorded(acme) == [
        ("projects.archive", 1, 202),
        ("projects.read", 1, 200),
        ("projects.read", 1, 200),
        ("projects.read", 1, 404),
        ("projects.write", 5, 200),
    ]


def test_an_action_that_nobody_named_is_an_error_not_a_free_call(make_tenant: MakeTenant) -> None:
    with pytest.raises(ImproperlyConfigured, match="needs a `capability`"):
        client_of(make_tenant().api_key).post("/projects", {"name": "New"}, format="json")


def test_a_metered_view_without_permissions_still_wants_a_key(make_tenant: MakeTenant) -> None:
    answer = APIClient().get("/ForEverybody")
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="meterhouse"')
    assert get(make_tenant().api_key, ForEverybody).status_code == 200


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
