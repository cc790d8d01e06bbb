"""The ways in. Each one meters a call of a customer's program; the contract asks the same of all."""

import itertools
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.test.utils import override_settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from metering import engine
from metering.database import Database
from metering.decorators import metered
from metering.events import stream
from metering.events.api import EventsView
from metering.models import Call, SetAside
from metering.throttles import TierThrottle
from tenants import keys
from tenants.models import ApiKey

GATE_SECRET = "the gate's secret, which is long enough"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    json: Any


class WayIn(ABC):
    """One way to meter. `call` returns when the call is counted, also where a product would not wait for that."""

    name: str
    answers = True  # the caller hears what was decided, in a status, fields and a document

    @abstractmethod
    def call(self, key: str | None, *, status: int = 200, cost: int = 1) -> Answer:
        """Make one call of the capability `contract` with this key; the product answers it with `status`."""


class ThrottledView(APIView):
    throttle_classes = [TierThrottle]
    capability = "contract"
    required_scope = "calls"

    def get_cost(self, request: Request) -> int:
        return int(request.query_params["cost"])

    def get(self, request: Request) -> Response:
        return Response({}, status=int(request.query_params["status"]))


def cost_of(request: HttpRequest) -> int:
    return int(request.GET["cost"])


@metered("contract", cost=cost_of)
def plain_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse("{}", status=int(request.GET["status"]), content_type="application/json")


@metered("contract", cost=cost_of)
async def async_view(request: HttpRequest) -> HttpResponse:
    return HttpResponse("{}", status=int(request.GET["status"]), content_type="application/json")


urlpatterns = [
    path("throttled", ThrottledView.as_view()),
    path("plain", plain_view),
    path("async", async_view),
    path("events", EventsView.as_view()),
]


class View(WayIn):
    """A view of this process, through Django's whole handler."""

    def __init__(self, name: str, *, in_event_loop: bool = False) -> None:
        self.name = f"{name}, in an event loop" if in_event_loop else name
        self._path = f"/{name}"
        self._in_event_loop = in_event_loop

    def call(self, key: str | None, *, status: int = 200, cost: int = 1) -> Answer:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        query = {"status": status, "cost": cost}
        client: Any = AsyncClient() if self._in_event_loop else Client()
        get = async_to_sync(client.get) if self._in_event_loop else client.get
        answer = get(self._path, query, headers=headers)
        fields = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status_code, fields, answer.json() if answer.content else None)


class Events(WayIn):
    """An event of a service that asks before it serves, and tells how it will answer."""

    name = "events"

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def call(self, key: str | None, *, status: int = 200, cost: int = 1) -> Answer:
        let_send(key)
        event = {
            "id": f"{next(self._numbers)}", "capability": "contract", "quantity": cost, "status": status, "admit": True,
        }  # fmt: skip
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = Client().post("/events", event, content_type="application/json", headers=headers)
        fields = {name.lower(): value for name, value in answer.headers.items()}
        document = answer.json()
        if answer.status_code != 200:
            return Answer(answer.status_code, fields, document)
        assert document["accepted"] == 1
        return Answer(status, {"meterhouse-call-id": document["events"][0]["call_id"], **fields}, document)


class Gateway(WayIn):
    """A proxy: it asks before it serves, serves by itself, and tells how it answered."""

    name = "gateway"

    def call(self, key: str | None, *, status: int = 200, cost: int = 1) -> Answer:
        headers = {"meterhouse-capability": "contract", "meterhouse-cost": str(cost)}
        if key:
            headers["authorization"] = f"Bearer {key}"
        decision = Client().get("/gate", headers=headers)
        fields = {name.lower(): value for name, value in decision.headers.items()}
        if decision.status_code != 204:
            document = json.loads(decision.content)
            assert json.loads(fields["meterhouse-problem"]) == document
            return Answer(decision.status_code, fields, document)
        told = tell([{"call_id": fields["meterhouse-call-id"], "status": status, "latency_ms": 12.5}])
        assert told["settled"] == 1
        return Answer(status, fields, None)


class Stream(WayIn):
    """An event that a service leaves on the stream: nobody answers it, so what is told here is what became of it."""

    name = "stream"
    answers = False

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def call(self, key: str | None, *, status: int = 200, cost: int = 1) -> Answer:
        let_send(key)
        event = {
            "id": f"{next(self._numbers)}",
            "capability": "contract",
            "quantity": cost,
            "status": status,
            "admit": True,
        }
        source, database, shard = stream.client(settings.REDIS_URL), Database(), stream.shard(0)
        try:
            source.xadd(shard, stream.fields(key_prefix=(key or "")[:20], event=json.dumps(event)))
            drained = stream.drain(shard=shard, source=source, database=database)
        finally:
            database.close()
        engine.engine().flush()
        if drained.refused:
            return Answer(429, {}, None)
        if drained.set_aside:
            why = SetAside.objects.latest("at").error
            return Answer(401 if "no such API key" in why else 403, {}, None)
        call = Call.objects.filter(api_key__public_id=(key or "")[8:20]).latest("occurred_at", "id")
        return Answer(call.status, {"meterhouse-call-id": str(call.id)}, None)


def let_send(key: str | None) -> None:
    """A key that may call may send events as well: the contract's keys are made without that scope."""
    if key and keys.is_well_formed(key):
        may_call = ApiKey.objects.filter(public_id=key[8:20], scopes__contains=["calls"])
        if may_call.exclude(scopes__contains=["events:write"]).update(scopes=["calls", "events:write"]):
            keys.cache.clear()


def tell(outcomes: list[Any]) -> Any:
    """What the product answers to these outcomes."""
    with override_settings(GATE={**settings.GATE, "SECRETS": [GATE_SECRET]}):
        headers = {"authorization": f"Bearer {GATE_SECRET}"}
        answer = Client().post("/gate/outcomes", outcomes, content_type="application/json", headers=headers)
    assert answer.status_code == 200, answer.content
    return json.loads(answer.content)


WAYS: list[WayIn] = [
    View("throttled"),
    View("plain"),
    View("async"),
    View("throttled", in_event_loop=True),
    View("async", in_event_loop=True),
    Events(),
    Gateway(),
    Stream(),
]
