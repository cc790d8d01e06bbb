"""`@metered` on plain Django views: functions and classes, sync and async, in Django's real handlers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from pytest_django import Settings

from billing.onboarding import Onboarded
from metering import engine
from metering.database import conninfo
from metering.decorators import metered
from metering.models import Call
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")
RAISES = {"error": ValueError, "missing": Http404, "denied": PermissionDenied}
ONLY_OURS = ["metering.middleware.MeteringMiddleware"]
Communicator: Any = ApplicationCommunicator  # asgiref types none of it
entered: list[str] = []  # the paths of the waiting views that have begun


@metered("plain")
def plain(request: HttpRequest) -> HttpResponse:
    if cause := RAISES.get(request.GET.get("raises", "")):
        raise cause
    return JsonResponse({"tenant": request.caller.tenant_slug})  # type: ignore[attr-defined]


@metered("plain")
async def coroutine(request: HttpRequest) -> HttpResponse:
    return plain.__wrapped__(request)  # type: ignore[attr-defined,no-any-return]


@metered("plain")
def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one", b"two"]))


@metered("plain")
async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    return StreamingHttpResponse(parts())


@metered("plain")
async def waiting(request: HttpRequest) -> HttpResponse:
    entered.append(request.path)
    await asyncio.Event().wait()
    raise AssertionError("nobody ends this wait but a cancellation")


@metered("outer", cost=3)
def hands_on(request: HttpRequest) -> HttpResponse:
    return plain(request)


@metered("absurd", cost=lambda request: 0)
def absurd(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@method_decorator(metered("plain"), name="dispatch")
class SyncClass(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("sync")


@method_decorator(metered("plain"), name="dispatch")
class AsyncClass(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("async")


class AsyncMethod(View):
    @method_decorator(metered("plain"))
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("async method")


class AsyncInUrls(View):
    async def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("in urls")


urlpatterns = [
    path("plain", plain),
    path("coroutine", coroutine),
    path("stream", stream),
    path("async-stream", async_stream),
    path("waiting", waiting),
    path("hands-on", hands_on),
    path("absurd", absurd),
    path("sync-class", SyncClass.as_view()),
    path("async-class", AsyncClass.as_view()),
    path("async-method", AsyncMethod.as_view()),
    path("in-urls", metered("plain")(AsyncInUrls.as_view())),
]


@pytest.fixture(autouse=True, params=[True, False], ids=["all middleware", "only ours"])
def _site(request: pytest.FixtureRequest, settings: Settings) -> Iterator[None]:
    """With Django's sync middleware in between views run in a thread; without, async ones run in the event loop."""
    settings.ROOT_URLCONF = __name__
    if not request.param:
        settings.MIDDLEWARE = ONLY_OURS
    entered.clear()
    config = connections["default"].settings_dict
    kept, config["CONN_MAX_AGE"] = config["CONN_MAX_AGE"], 0  # as Django asks for under ASGI: its threads come and go
    yield
    config["CONN_MAX_AGE"] = kept


def wsgi(key: str, address: str) -> tuple[int, dict[str, str], bytes]:
    answer = Client(raise_request_exception=False).get(address, headers={"authorization": f"Bearer {key}"})
    body = b"".join(answer.streaming_content) if answer.streaming else answer.content  # type: ignore[attr-defined]
    return answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, body


def connect(key: str, address: str) -> Any:
    """A request on its way into the real ASGI handler; `receive_output` is what its server would send."""
    bare, _, query = address.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": bare,
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {key}".encode())],
    }
    return Communicator(ASGIHandler(), scope)


async def answer_of(client: Any) -> tuple[int, dict[str, str], bytes]:
    await client.send_input({"type": "http.request"})
    start = await client.receive_output(timeout=20)
    body, more = b"", True
    while more:
        part = await client.receive_output(timeout=20)
        body, more = body + part.get("body", b""), part.get("more_body", False)
    await client.wait(timeout=20)
    fields = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return start["status"], fields, body


def asgi(key: str, address: str) -> tuple[int, dict[str, str], bytes]:
    async def ask() -> tuple[int, dict[str, str], bytes]:
        return await answer_of(connect(key, address))

    return async_to_sync(ask)()


Server = Callable[[str, str], tuple[int, dict[str, str], bytes]]
servers = pytest.mark.parametrize("server", [wsgi, asgi])


def recorded(tenant: Onboarded) -> list[tuple[int, str]]:
    engine.stop()
    kept = books(tenant.tenant.id)
    kept.assert_balanced()
    assert kept.reserved == 0
    return list(Call.objects.filter(tenant=tenant.tenant).values_list("status", "outcome"))


@servers
@pytest.mark.parametrize("view", ["plain", "coroutine"])
def test_a_call_is_recorded_with_the_status_that_its_client_sees(
    server: Server, make_tenant: MakeTenant, view: str
) -> None:
    acme = make_tenant()
    for query, status in (("", 200), ("?raises=missing", 404), ("?raises=denied", 403), ("?raises=error", 500)):
        seen, fields, body = server(acme.api_key, f"/{view}{query}")
        assert seen == status
        assert fields["ratelimit"].startswith('"month";r=')
        if status == 200:
            assert acme.tenant.slug.encode() in body
    assert sorted(recorded(acme)) == [(200, "billable"), (403, "failed"), (404, "billable"), (500, "failed")]


@pytest.mark.parametrize(("server", "view"), [(wsgi, "stream"), (asgi, "stream"), (asgi, "async-stream")])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")  # Django's, for `stream` under ASGI
def test_a_stream_is_recorded_and_arrives_whole(server: Server, make_tenant: MakeTenant, view: str) -> None:
    acme = make_tenant()
    status, fields, body = server(acme.api_key, f"/{view}")
    assert (status, body) == (200, b"onetwo")
    assert "meterhouse-call-id" in fields
    assert recorded(acme) == [(200, "billable")]


@servers
@pytest.mark.parametrize(
    ("view", "body"),
    [
        ("sync-class", b"sync"),
        ("async-class", b"async"),
        ("async-method", b"async method"),
        ("in-urls", b"in urls"),
    ],
)
def test_views_that_are_classes_are_metered(server: Server, make_tenant: MakeTenant, view: str, body: bytes) -> None:
    acme = make_tenant(included=1)
    assert server(acme.api_key, f"/{view}")[::2] == (200, body)
    assert server(acme.api_key, f"/{view}")[0] == 429
    assert server("nonsense", f"/{view}")[0] == 401
    assert sorted(recorded(acme)) == [(200, "billable"), (429, "refused")]


def test_a_view_that_hands_on_to_a_metered_one_is_metered_once(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=10)
    assert wsgi(acme.api_key, "/hands-on")[0] == 200
    assert recorded(acme) == [(200, "billable")]
    assert books(acme.tenant.id).used == 3


def test_an_absurd_computed_cost_is_an_error_that_names_it(make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    with pytest.raises(ImproperlyConfigured, match="from 1 to 1,000,000; got 0"):
        Client().get("/absurd", headers={"authorization": f"Bearer {acme.api_key}"})
    assert recorded(acme) == []


async def leave(client: Any) -> None:
    """The client closes its connection, and the handler has taken notice."""
    await client.send_input({"type": "http.disconnect"})
    for _ in range(50):
        await asyncio.sleep(0)  # the event loop's other tasks run; no time passes


def test_a_client_that_goes_away_pays_nothing(make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=1)

    async def scene() -> None:
        client = connect(acme.api_key, "/waiting")
        await client.send_input({"type": "http.request"})
        client.future  # noqa: B018 -- starts the application
        await asyncio.to_thread(wait_until, lambda: entered, what="the view's begin")
        await leave(client)
        await client.wait(timeout=20)

    async_to_sync(scene)()
    assert recorded(acme) == [(500, "failed")]
    assert wsgi(acme.api_key, "/plain")[0] == 200


@pytest.fixture
def held(make_tenant: MakeTenant) -> Iterator[tuple[Onboarded, Callable[[], bool], Callable[[], None]]]:
    """A tenant whose admission waits for a row that another transaction holds: who, whether somebody waits, let go."""
    globex = make_tenant("Globex", included=5)
    wsgi(globex.api_key, "/plain")
    engine.stop()
    with psycopg.connect(conninfo()) as holder, psycopg.connect(conninfo(), autocommit=True) as observer:
        holder.execute("SELECT 1 FROM metering_quota WHERE tenant_id = %s FOR UPDATE", [globex.tenant.id])
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        yield (
            globex,
            lambda: observer.execute(blocked, [holder.info.backend_pid]).fetchone() != (0,),
            holder.rollback,
        )


def test_an_admission_whose_client_went_away_meanwhile_is_given_back(held: Any) -> None:
    globex, somebody_waits, let_go = held

    async def scene() -> None:
        client = connect(globex.api_key, "/waiting")
        await client.send_input({"type": "http.request"})
        client.future  # noqa: B018
        await asyncio.to_thread(wait_until, somebody_waits, what="the wait for the row")
        await leave(client)
        await asyncio.to_thread(let_go)
        await client.wait(timeout=20)

    async_to_sync(scene)()
    assert entered == []
    assert sorted(recorded(globex)) == [(200, "billable"), (500, "failed")]


def test_an_admission_that_waits_holds_up_no_other_call(held: Any, make_tenant: MakeTenant) -> None:
    globex, somebody_waits, let_go = held
    acme = make_tenant()

    async def scene() -> None:
        waits = asyncio.create_task(answer_of(connect(globex.api_key, "/coroutine")))
        await asyncio.to_thread(wait_until, somebody_waits, what="the wait for the row")
        assert (await answer_of(connect(acme.api_key, "/coroutine")))[0] == 200
        assert not waits.done()
        await asyncio.to_thread(let_go)
        assert (await waits)[0] == 200

    async_to_sync(scene)()
    assert recorded(acme) == [(200, "billable")]
