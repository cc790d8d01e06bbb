"""Webhooks at the door: what is genuine is stored once and answered, everything else is refused before a row is written."""

import hashlib
import hmac
import itertools
import json
import logging
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from django.conf import settings as product
from django.db import connection, connections
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import resolve
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from billing import tasks
from billing.models import StripeEvent
from metering.models import Call

SECRET, OLD_SECRET, THIN_SECRET = "whsec_for_snapshots_only", "whsec_from_before_the_rotation", "whsec_for_thin_ones"
SNAPSHOTS, THIN = "/webhooks/stripe", "/webhooks/stripe/thin"
JSON = "application/json; charset=utf-8"


@pytest.fixture(autouse=True)
def _secrets(settings: Settings) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    settings.STRIPE_THIN_WEBHOOK_SECRETS = [THIN_SECRET]
    settings.STRIPE_LIVE_MODE = False


def new_id() -> str:
    return f"evt_{uuid.uuid4().hex}"


def snapshot(**changes: Any) -> dict[str, Any]:
    """An event as Stripe sends it."""
    about = {"id": "sub_1", "object": "subscription", "customer": f"cus_{uuid.uuid4().hex}"}
    body = {
        "id": new_id(), "object": "event", "api_version": "2026-08-26.dahlia", "created": 1_790_000_000,
        "data": {"object": about}, "livemode": False, "pending_webhooks": 1, "request": {"id": None},
        "type": "customer.subscription.updated",
    }  # fmt: skip
    return {**body, **changes}


def thin(**changes: Any) -> dict[str, Any]:
    related = {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"}
    body = {
        "id": new_id(), "object": "v2.core.event", "created": "2026-11-24T10:00:00.123Z", "livemode": False,
        "type": "v1.billing.meter.error_report_triggered", "context": None, "related_object": related,
    }  # fmt: skip
    return {**body, **changes}


def signature(payload: bytes, *, secret: str = SECRET, at: float | None = None) -> str:
    """The header as Stripe makes it."""
    second = int(datetime.now(UTC).timestamp() if at is None else at)
    return f"t={second},v1={hmac.new(secret.encode(), f'{second}.'.encode() + payload, hashlib.sha256).hexdigest()}"


def post(body: Any, *, path: str = SNAPSHOTS, header: str | None = None, **options: Any) -> Any:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    secret = options.pop("secret", THIN_SECRET if path == THIN else SECRET)
    header = signature(payload, secret=secret) if header is None else header
    client = options.pop("client", None) or Client(enforce_csrf_checks=True)
    content_type = options.pop("content_type", JSON)
    return client.post(
        path, payload, content_type=content_type, headers={"stripe-signature": header, **options.pop("headers", {})}
    )


def refused(answer: Any, status: int = 400) -> str:
    """The detail of an answer that refuses."""
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    problem = json.loads(answer.content)
    assert problem["status"] == status
    return str(problem["detail"])


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may need longer than Stripe would wait."""
    monkeypatch.setattr(tasks, "BROKER_PATIENCE_SECONDS", 5.0)
    tasks._broker.cache_clear()


def queued(event_id: str) -> int:
    """How many tasks for this event wait at the broker."""
    waiting = redis.Redis.from_url(product.REDIS_URL).lrange("celery", 0, -1)
    return sum(event_id in json.loads(one)["headers"]["argsrepr"] for one in waiting)


# -- what is genuine ---------------------------------------------------------------------------------------------------


def test_an_event_is_stored_as_it_came_and_queued(committed: None) -> None:
    body = snapshot()
    answer = post(body)
    assert (answer.status_code, answer.json()) == (200, {"received": body["id"]})
    stored = StripeEvent.objects.get(pk=body["id"])
    assert (stored.kind, stored.type, stored.state, stored.attempts) == ("snapshot", body["type"], "received", 0)
    assert (stored.object_id, stored.customer_id) == ("sub_1", body["data"]["object"]["customer"])
    assert (stored.created_at, stored.is_live) == (datetime.fromtimestamp(1_790_000_000, UTC), False)
    assert stored.body == body
    assert queued(body["id"]) == 1


def test_a_thin_event_has_an_endpoint_and_a_secret_of_its_own(committed: None) -> None:
    body = thin()
    refused(post(body, path=THIN, secret=SECRET))
    refused(post(body, path=SNAPSHOTS))
    refused(post(snapshot(), path=THIN))
    assert post(body, path=THIN).status_code == 200
    stored = StripeEvent.objects.get(pk=body["id"])
    assert (stored.kind, stored.object_id, stored.customer_id) == ("thin", "mtr_1", "")
    assert stored.created_at == datetime(2026, 11, 24, 10, 0, 0, 123_000, UTC)


def test_a_second_delivery_is_answered_and_changes_nothing(committed: None) -> None:
    body = snapshot()
    assert [post(body).status_code for _ in range(3)] == [200] * 3
    assert post({**body, "type": "customer.deleted"}).status_code == 200
    assert StripeEvent.objects.get(pk=body["id"]).type == "customer.subscription.updated"
    assert queued(body["id"]) == 1


def test_32_copies_at_once_are_one_row_and_one_task(committed: None) -> None:
    body, answers, gate = snapshot(), [], threading.Barrier(32)

    def run() -> None:
        try:
            gate.wait()
            answers.append(post(body).status_code)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 32
    assert StripeEvent.objects.filter(pk=body["id"]).count() == 1
    assert queued(body["id"]) == 1


def test_both_secrets_are_accepted_during_a_rotation(db: None, settings: Settings) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET, OLD_SECRET]
    assert post(snapshot(), secret=OLD_SECRET).status_code == 200
    assert post(snapshot(), secret=SECRET).status_code == 200
    settings.STRIPE_WEBHOOK_SECRETS = [SECRET]
    refused(post(snapshot(), secret=OLD_SECRET))


def test_a_header_with_the_signatures_of_two_secrets_is_accepted(db: None) -> None:
    payload = json.dumps(snapshot()).encode()
    old, new = signature(payload, secret=OLD_SECRET, at=None), signature(payload)
    both = f"{old},{new.partition(',')[2]},v0=00"
    assert post(payload, header=both).status_code == 200


@pytest.mark.parametrize("age", [-299, 0, 299])
def test_clocks_may_differ_by_five_minutes(db: None, age: int) -> None:
    payload = json.dumps(snapshot()).encode()
    assert post(payload, header=signature(payload, at=datetime.now(UTC).timestamp() - age)).status_code == 200


def test_it_needs_no_cookie_and_is_not_metered(committed: None) -> None:
    before = Call.objects.count()
    answer = post(snapshot())
    assert answer.status_code == 200
    assert "RateLimit" not in answer.headers
    assert not answer.cookies
    assert Call.objects.count() == before


def test_what_postgresql_cannot_hold_is_replaced(db: None) -> None:
    about = {"id": "cus_1", "object": "customer", "name": "A\x00B", "email": "\ud800@acme.example", "\x00": 1}
    body = snapshot(type="customer.updated", data={"object": about})
    assert post(body).status_code == 200
    stored = StripeEvent.objects.get(pk=body["id"])
    assert stored.body["data"]["object"] == {
        "id": "cus_1", "object": "customer", "name": "A\ufffdB", "email": "\ufffd@acme.example", "\ufffd": 1,
    }  # fmt: skip
    assert stored.customer_id == "cus_1"


# -- what is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [301, 86_400, -301, -86_400 * 365])
def test_old_and_future_ones_are_refused(db: None, age: int) -> None:
    payload = json.dumps(snapshot()).encode()
    header = signature(payload, at=datetime.now(UTC).timestamp() - age)
    assert "time" in refused(post(payload, header=header))


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (snapshot(livemode=True), "live mode"),
        (snapshot(livemode=None), "livemode"),
        (snapshot(livemode=1), "livemode"),
        (snapshot(account="acct_another"), "another account"),
        (snapshot(id="evt_" + "x" * 300), "'id'"),
        (snapshot(id="evt_\n1"), "'id'"),
        (snapshot(id=7), "'id'"),
        (snapshot(type="A B"), "'type'"),
        (snapshot(type="x" * 121), "'type'"),
        (snapshot(created="1790000000"), "'created'"),
        (snapshot(created=True), "'created'"),
        (snapshot(created=10**30), "'created'"),
        (snapshot(created=-1), "'created'"),
        (snapshot(data=[]), "'data.object'"),
        (snapshot(data={"object": "sub_1"}), "'data.object'"),
        (snapshot(data={"object": {"id": "s" * 256}}), "id"),
        (snapshot(data={"object": {"id": "x", "customer": ["cus_1"]}}), "id"),
        (snapshot(data={"object": {"id": "x", "price": float("nan")}}), "number"),
        (snapshot(object="customer"), "'object'"),
        ({}, "'object'"),
    ],
)
def test_a_signed_body_that_is_no_event_for_us_is_refused(db: None, body: Any, detail: str) -> None:
    before = StripeEvent.objects.count()
    assert detail in refused(post(body))
    assert StripeEvent.objects.count() == before


@pytest.mark.parametrize(
    "body",
    [
        thin(context="acct_another"), thin(created=1_790_000_000), thin(created="yesterday"),
        thin(created="2026-11-24T10:00:00"), thin(related_object=[1]), thin(livemode=True),
    ],
)  # fmt: skip
def test_a_signed_thin_body_that_is_no_event_for_us_is_refused(db: None, body: Any) -> None:
    refused(post(body, path=THIN))


@pytest.mark.parametrize(
    "payload",
    [
        b" ", b"null", b"[]", b'"evt_1"', b"{", b"\xff\xfe", b"1" * 5_000, b"[" * 100_000, b'{"a":' * 100_000,
        json.dumps(snapshot()).encode("utf-16"), b'{"id": 1e999}', b'{"id": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda payload: f"{len(payload)}-{payload[:8].hex()}",  # the same in every worker of a parallel run
)  # fmt: skip
def test_signed_bytes_that_are_no_json_object_are_refused(db: None, payload: bytes) -> None:
    refused(post(payload))


def test_a_deep_event_is_refused(db: None) -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    assert "deep" in refused(post(snapshot(data={"object": {"id": "x", "more": deep}})))


@pytest.mark.parametrize("method", ["get", "put", "delete", "patch", "head", "options"])
@pytest.mark.parametrize("path", [SNAPSHOTS, THIN])
def test_other_methods_are_refused(method: str, path: str) -> None:
    answer = getattr(Client(), method)(path)
    assert (answer.status_code, answer["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_other_types_of_content_are_refused(content_type: str) -> None:
    refused(post(snapshot(), content_type=content_type), 415)


class Unread:
    """A body that must not be read."""

    def read(self, *_: object) -> bytes:
        raise AssertionError("The body was read.")


@pytest.mark.parametrize(
    ("length", "status"), [(512 * 1024 + 1, 413), (10**12, 413), ("", 411), ("-1", 411), ("1e3", 411), ("٣", 411)]
)
def test_too_much_is_refused_unread(length: object, status: int) -> None:
    request = RequestFactory().generic("POST", SNAPSHOTS, b"{}", content_type=JSON)
    request.META["CONTENT_LENGTH"] = str(length)
    request.__dict__["_stream"] = Unread()
    refused(view(SNAPSHOTS)(request), status)


def test_the_largest_that_is_taken_is_taken(db: None) -> None:
    body = snapshot()
    body["padding"] = "x" * (512 * 1024 - len(json.dumps(body).encode()) - len(', "padding": ""'))
    payload = json.dumps(body).encode()
    assert len(payload) == 512 * 1024
    assert post(payload).status_code == 200
    refused(post(payload + b" "), 413)


def test_without_a_secret_nothing_is_accepted(db: None, settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = []
    payload = json.dumps(snapshot()).encode()
    refused(post(payload, secret=""))
    settings.STRIPE_WEBHOOK_SECRETS = [""]
    refused(post(payload, secret=""))
    assert "STRIPE_WEBHOOK_SECRETS" in caplog.text


def test_no_secret_is_in_the_answer_or_the_log(db: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answers = [post(snapshot()), post(snapshot(livemode=True)), post(snapshot(), secret="whsec_wrong")]
    shown = caplog.text + "".join(answer.content.decode() for answer in answers)
    assert not [secret for secret in (SECRET, THIN_SECRET, "whsec_") if secret in shown]


# -- ten thousand of them ----------------------------------------------------------------------------------------------


def view(path: str) -> Callable[[HttpRequest], HttpResponse]:
    found: Callable[[HttpRequest], HttpResponse] = resolve(path).func
    return found


def hostile(chance: random.Random) -> Iterator[tuple[bytes, str, str]]:
    """Endless posts that no one of ours signed, or not now, or that were altered: payload, header, content type."""
    while True:
        body = snapshot(created=chance.randrange(1, 2**31))
        payload = json.dumps(body).encode()
        now = datetime.now(UTC).timestamp()
        genuine = signature(payload)
        second, _, digest = genuine.partition(",v1=")
        yield payload, "", JSON
        yield payload, signature(payload, secret=f"whsec_{chance.random()}"), JSON
        yield payload, signature(payload, secret=THIN_SECRET), JSON
        yield payload, signature(payload, at=now - chance.randrange(301, 10**8)), JSON
        yield payload, signature(payload, at=now + chance.randrange(301, 10**8)), JSON
        yield payload.replace(b"false", b"true "), genuine, JSON
        cut = chance.randrange(len(payload))
        yield payload[:cut], genuine, JSON
        yield payload[:cut] + bytes([payload[cut] ^ 1]) + payload[cut + 1 :], genuine, JSON
        yield payload, f"t={int(now) + 1},v1={digest}", JSON
        yield payload, f"{second},v0={digest}", JSON
        yield payload, f"{second},v1={digest[:-1]}", JSON
        yield payload, f"{second},v1={digest.upper()}x", JSON
        yield payload, f"v1={digest}", JSON
        yield payload, f"{genuine},{second}", JSON
        yield payload, "".join(chance.choices("tv10=,. abcdef\x00é", k=chance.randrange(200))), JSON
        yield payload, genuine + "," * 3_000, JSON
        yield chance.randbytes(chance.randrange(300)), genuine, JSON
        yield b"x" * (512 * 1024 + 1), genuine, JSON
        yield payload, genuine, chance.choice(["text/plain", "multipart/form-data; boundary=x", "application/xml"])
        live = json.dumps({**body, "livemode": True}).encode()
        yield live, signature(live), JSON
        foreign = json.dumps({**body, "account": "acct_another"}).encode()
        yield foreign, signature(foreign), JSON
        broken = payload[:-1]
        yield broken, signature(broken), JSON
        lacking = json.dumps(
            {name: value for name, value in body.items() if name != chance.choice(["id", "type", "object"])}
        )
        yield lacking.encode(), signature(lacking.encode()) if '"id"' not in lacking else "", JSON


def test_ten_thousand_hostile_posts_write_no_row_and_ask_postgresql_nothing(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="billing.webhooks")
    before, make, receive = StripeEvent.objects.count(), RequestFactory(), view(SNAPSHOTS)
    wrong = []
    with CaptureQueriesContext(connection) as asked:
        for payload, header, content_type in itertools.islice(hostile(random.Random(4)), 10_000):
            request = make.post(SNAPSHOTS, payload, content_type=content_type, headers={"stripe-signature": header})
            status = receive(request).status_code
            if not 400 <= status < 500:
                wrong.append((status, header))
    assert wrong == []
    assert len(asked) == 0
    assert StripeEvent.objects.count() == before


@hypothesis_settings(deadline=None, max_examples=300)
@given(
    header=st.text(max_size=300) | st.lists(st.sampled_from(["t=", "1", "v1=", ",", "=", "a" * 64, " "])).map("".join)
)
def test_no_header_that_somebody_makes_up_is_accepted(header: str) -> None:
    request = RequestFactory().post(SNAPSHOTS, json.dumps(snapshot()).encode(), content_type=JSON)
    request.META["HTTP_STRIPE_SIGNATURE"] = header
    assert view(SNAPSHOTS)(request).status_code == 400


# -- servers that are away ---------------------------------------------------------------------------------------------


def test_a_broker_that_is_away_costs_nothing_but_the_queue(
    committed: None, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    body = snapshot()
    assert post(body).status_code == 200
    assert StripeEvent.objects.get(pk=body["id"]).state == "received"
    assert f"{body['id']} could not be queued and waits in the inbox" in caplog.text
