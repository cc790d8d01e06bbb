"""Outgoing webhooks against a real receiver: signed, tried again, at least once under one id, each endpoint by itself."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone
from standardwebhooks import Webhook, WebhookVerificationError

from billing.onboarding import Onboarded
from tenants import deliveries, egress, endpoints, events, notices
from tenants.models import AuditEntry, Delivery, DeliveryAttempt, Event, EventType, WebhookEndpoint
from tests.conftest import ROOT, MakeTenant, environment

DAY = timedelta(days=1)


@dataclass
class Receiver:
    """A customer's server: answers what it is told to, and keeps what it got."""

    status: int = 200
    answer: bytes = b"thanks"
    location: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(kept.status)
            if kept.location:
                self.send_header("Location", kept.location)
            self.send_header("Content-Length", str(len(kept.answer)))
            self.end_headers()
            self.wfile.write(kept.answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept.url = f"http://localhost:{server.server_address[1]}/hook?of=acme"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield kept
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _may_call_this_machine(settings: Any) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = True


Listen = Callable[..., tuple[Onboarded, WebhookEndpoint, str]]


@pytest.fixture
def listen(db: None, make_tenant: MakeTenant, receiver: Receiver) -> Listen:
    """A tenant with an endpoint, and its secret."""

    def make(name: str = "Acme", url: str = "") -> tuple[Onboarded, WebhookEndpoint, str]:
        made = make_tenant(name)
        endpoint, secret = endpoints.add(
            tenant=made.tenant, url=url or receiver.url, events=[EventType.PLAN_CHANGED.value], actor="olivia"
        )
        WebhookEndpoint.objects.filter(pk=endpoint.pk).update(busy_until=timezone.now() - DAY)  # `now` is before it
        return made, endpoint, secret

    return make


def emit(made: Onboarded, key: str = "1") -> Event:
    events.emit(tenant=made.tenant, event=EventType.PLAN_CHANGED, key=key, data={"plan": "scale"})
    return Event.objects.get(tenant=made.tenant, type=EventType.PLAN_CHANGED, key=key)


def run(at: datetime) -> int:
    """What the task does at this instant."""
    deliveries.spread(now=at)
    return deliveries.send_due(clock=lambda: at, at_once=1)


# -- What arrives ----------------------------------------------------------------------------------------------------------------
def test_an_event_arrives_once_signed_as_the_standard_says(listen: Listen, receiver: Receiver, now: datetime) -> None:
    acme, endpoint, secret = listen()
    event = emit(acme)
    emit(acme)
    assert (run(now), run(now + DAY)) == (1, 0)
    ((headers, body),) = receiver.got
    said = Webhook(secret).verify(body, headers)
    assert (said["type"], said["tenant"], said["data"]) == ("plan.changed", acme.tenant.slug, {"plan": "scale"})
    assert headers["webhook-id"] == f"msg_{event.pk.hex}"
    assert headers["host"] == endpoint.url.split("/")[2]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body.replace(b"scale", b"free!"), headers)
    delivery = Delivery.objects.get(endpoint=endpoint)
    attempt = DeliveryAttempt.objects.get(delivery=delivery)
    assert (delivery.state, attempt.status, attempt.answer, attempt.error) == ("delivered", 200, "thanks", "")


def test_an_endpoint_gets_what_it_listens_to_of_its_own_tenant(
    listen: Listen, receiver: Receiver, now: datetime
) -> None:
    acme, _, _ = listen()
    initech, _, _ = listen("Initech")
    events.emit(tenant=acme.tenant, event=EventType.INVOICE_PAID, key="in_1", data={})
    emit(acme)
    assert run(now) == 1
    assert json.loads(receiver.got[0][1])["tenant"] == acme.tenant.slug
    assert not Delivery.objects.filter(tenant=initech.tenant).exists()


def test_while_secrets_overlap_both_verify(listen: Listen, receiver: Receiver, now: datetime) -> None:
    acme, endpoint, old = listen()
    new = endpoints.rotate(endpoint=endpoint, actor="olivia", now=now)
    emit(acme)
    run(now)
    headers, body = receiver.got[0]
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    endpoint.refresh_from_db()
    assert endpoints.signing(endpoint, now=now + endpoints.OVERLAP) == [new]


def test_no_secret_is_stored_or_audited(listen: Listen, now: datetime) -> None:
    acme, endpoint, secret = listen()
    again = endpoints.rotate(endpoint=endpoint, actor="olivia", now=now)
    endpoint.refresh_from_db()
    entries = str(list(AuditEntry.objects.filter(tenant=acme.tenant).values()))
    for one in (secret, again):
        assert one not in entries + str(endpoint.__dict__)
    assert {"webhook.added", "webhook.secret_rotated"} <= set(
        AuditEntry.objects.filter(tenant=acme.tenant, actor="olivia").values_list("action", flat=True)
    )


# -- What does not ----------------------------------------------------------------------------------------------------------------
def test_a_failed_delivery_is_tried_again_for_about_a_day_under_one_id(
    listen: Listen, receiver: Receiver, now: datetime
) -> None:
    acme, endpoint, _ = listen()
    emit(acme)
    receiver.status = 503
    run(now)
    assert run(now) == 0  # not due yet
    delivery, begun = Delivery.objects.get(endpoint=endpoint), now
    while delivery.state == Delivery.State.WAITING:
        now = max(delivery.due_at, now + deliveries.REST_AFTER_FAILURE)
        run(now)
        delivery.refresh_from_db()
    assert delivery.state == Delivery.State.GIVEN_UP
    assert timedelta(hours=18) < now - begun < timedelta(hours=32)
    assert len(receiver.got) == len(deliveries.WAITS) + 1
    assert len(set(receiver.ids)) == 1
    receiver.status = 200
    endpoints.redeliver(delivery=delivery, actor="olivia", now=now)
    assert run(now + deliveries.REST_AFTER_FAILURE) == 1
    assert len(set(receiver.ids)) == 1
    endpoint.refresh_from_db()
    assert endpoint.failing_since is None


def test_an_endpoint_that_fails_for_days_is_turned_off_and_told_of_once(
    listen: Listen, receiver: Receiver, now: datetime
) -> None:
    acme, endpoint, _ = listen()
    receiver.status = 500
    for day in range(7):
        emit(acme, str(day))
        run(now + day * DAY)
    endpoint.refresh_from_db()
    assert not endpoint.is_on
    assert len(receiver.got) == 6
    assert notices.send_due(now=now + 8 * DAY) >= 1
    told = [message for message in mail.outbox if "webhook endpoint was turned off" in message.subject]
    assert [receiver.url in message.body for message in told] == [True]
    endpoints.change(endpoint=endpoint, url=receiver.url, events=endpoint.events, is_on=True, actor="olivia")
    receiver.status = 200
    assert run(now + 9 * DAY) > 0


@pytest.mark.parametrize("status", [302, 307, 404])
def test_no_redirect_is_followed(listen: Listen, receiver: Receiver, now: datetime, status: int) -> None:
    acme, endpoint, _ = listen()
    receiver.status, receiver.location = status, receiver.url + "&again"
    emit(acme)
    assert run(now) == 0
    assert len(receiver.got) == 1
    assert DeliveryAttempt.objects.get(delivery__endpoint=endpoint).status == status


def test_a_dead_endpoint_holds_up_nobody(listen: Listen, receiver: Receiver, now: datetime) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    acme, endpoint, _ = listen(url=dead)
    globex, _, _ = listen("Globex")
    emit(acme)
    emit(acme, "2")
    emit(globex)
    assert run(now) == 1
    assert DeliveryAttempt.objects.filter(delivery__endpoint=endpoint).count() == 1  # the second waits its turn
    assert "Refused" in DeliveryAttempt.objects.get(delivery__endpoint=endpoint).error


def test_a_long_answer_is_cut_and_nul_is_stored_as_text(listen: Listen, receiver: Receiver, now: datetime) -> None:
    acme, endpoint, _ = listen()
    receiver.answer = b"\x00\xff" + b"x" * 100_000
    emit(acme)
    assert run(now) == 1
    assert len(DeliveryAttempt.objects.get(delivery__endpoint=endpoint).answer) == egress.ANSWER_CHARACTERS


def test_proxies_of_the_environment_are_not_used(
    listen: Listen, receiver: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    acme, _, _ = listen()
    emit(acme)
    assert run(now) == 1


KILLED = """
import os
import django
django.setup()
from tenants import deliveries
deliveries._settle = lambda *_: os._exit(9)
while deliveries.spread(now=deliveries.timezone.now()):
    pass
deliveries.take_turn(os.environ["ENDPOINT"])
"""


@pytest.mark.usefixtures("committed")
def test_a_worker_killed_between_sending_and_recording_sends_again_under_the_same_id(
    make_tenant: MakeTenant, receiver: Receiver
) -> None:
    acme = make_tenant()
    endpoint, secret = endpoints.add(
        tenant=acme.tenant, url=receiver.url, events=[EventType.PLAN_CHANGED.value], actor="olivia"
    )
    emit(acme)
    env = {**environment(1), "WEBHOOK_ALLOW_PRIVATE": "true", "DJANGO_SETTINGS_MODULE": "config.settings"}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=ROOT, env={**os.environ, **env, "ENDPOINT": str(endpoint.pk)}, check=False
    )
    assert killed.returncode == 9
    assert not DeliveryAttempt.objects.filter(delivery__endpoint=endpoint).exists()
    assert len(receiver.got) == 1
    later = timezone.now() + deliveries.TURN + timedelta(seconds=1)  # its turn ends by itself
    assert deliveries.take_turn(endpoint.pk, clock=lambda: later) == 1
    assert len(receiver.got) == 2
    assert len(set(receiver.ids)) == 1
    assert receiver.got[0][1] == receiver.got[1][1]
    Webhook(secret).verify(receiver.got[0][1], receiver.got[0][0])


def test_two_workers_never_send_to_one_endpoint_at_once(listen: Listen, receiver: Receiver, now: datetime) -> None:
    acme, endpoint, _ = listen()
    emit(acme)
    deliveries.spread(now=now)
    WebhookEndpoint.objects.filter(pk=endpoint.pk).update(busy_until=now + deliveries.TURN)
    assert deliveries.take_turn(endpoint.pk, clock=lambda: now) == 0
    assert receiver.got == []


# -- The guard --------------------------------------------------------------------------------------------------------------------
REFUSED = [
    "127.0.0.1", "127.1.2.3", "0.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "192.88.99.1", "224.0.0.1", "239.1.1.1",
    "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::", "3fff::1", "fc00::1",
    "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "100::1", "5f00::1", "nonsense", "",
]  # fmt: skip


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not egress.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450::1"])
def test_a_public_address_is_not(address: str) -> None:
    assert egress.is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com", "https://",
        "https:///x", "https://user@example.com/", "https://user:pw@example.com/", "https://example.com/#x",
        "https://example.com:0x50/", "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\r\nX: y",
        "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/", "https://169.254.169.254/latest/meta-data",
        "https://ex\u00e4mple.com/", "https://example.com/" + "x" * 2000,
    ],
)  # fmt: skip
def test_an_address_that_may_not_be_asked_is_refused_when_it_is_set(settings: Any, url: str) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    with pytest.raises(egress.NotAllowed):
        egress.target(url)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "localhost", "017700000001"])
def test_other_ways_to_write_this_machine_are_refused_when_it_is_asked(settings: Any, host: str) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    with pytest.raises(egress.NotAllowed):
        egress.post(url=f"https://{host}/", body=b"{}", headers={})


def found(*addresses: str) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.WEBHOOK_ALLOW_PRIVATE = False
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found("8.8.8.8", "10.0.0.1"))
    with pytest.raises(egress.NotAllowed, match=r"10\.0\.0\.1"):
        egress.post(url="https://hooks.example.com/", body=b"{}", headers={})


def test_a_name_that_changes_its_meaning_reaches_only_what_was_checked(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is checked, this machine a moment later. It is asked once, and the answer is connected to."""
    settings.WEBHOOK_ALLOW_PRIVATE = False
    answers = [found("8.8.8.8"), found("127.0.0.1"), found("127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.pop(0))
    asked: list[Any] = []

    def connect(_: socket.socket, where: Any) -> None:
        asked.append(where)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(egress.Unreachable):
        egress.post(url="https://hooks.example.com/", body=b"{}", headers={})
    assert asked == [("8.8.8.8", 443)]
    assert len(answers) == 2


def test_a_slow_drip_ends_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "WHOLE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = threading.Event()

        def drip() -> None:
            taken, _ = server.accept()
            with taken:
                while not ended.wait(0.02):
                    try:
                        taken.sendall(b"H")
                    except OSError:
                        return

        threading.Thread(target=drip, daemon=True).start()
        try:
            with pytest.raises(egress.Unreachable):
                egress.post(url=f"http://127.0.0.1:{server.getsockname()[1]}/", body=b"{}", headers={})
        finally:
            ended.set()
