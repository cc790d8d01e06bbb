"""Events on their way to webhook endpoints: at least once, each endpoint by itself, tried again for about a day.

An endpoint has one turn at a time, so a dead one costs a thread and holds up no other. A delivery's next attempt is moved on
before anything is sent: a worker that is killed in between sends it again, under the same id. An endpoint that has failed for
days is turned off, and its tenant's people are told.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

from django.db import connections, transaction
from django.db.models import F
from django.utils import timezone
from standardwebhooks import Webhook

from . import egress, endpoints, notices
from .models import Delivery, DeliveryAttempt, Event, WebhookEndpoint

logger = logging.getLogger(__name__)
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
# After the first, second ... failure; about a day in all.
WAITS = (
    5 * SECOND, 30 * SECOND, 120 * SECOND, 600 * SECOND, 1800 * SECOND, HOUR, 2 * HOUR, 4 * HOUR, 6 * HOUR, 10 * HOUR,
)  # fmt: skip
JITTER = 0.2
DISABLED_AFTER = timedelta(days=5)
GONE = 410  # the receiver says for good that it wants no more
SPREAD_AT_A_TIME = 500
ENDPOINTS_AT_A_TIME = 200
SENT_IN_A_TURN = 20
TURN = timedelta(seconds=120)  # a killed worker's turn ends by itself
REST_AFTER_FAILURE = timedelta(seconds=5)
RUN_SECONDS = 50.0
SENDERS = 8
KEPT = timedelta(days=90)
Clock = Callable[[], datetime]


def spread(*, now: datetime) -> int:
    """Every event that is new has a delivery to each endpoint that listens; how many events there were."""
    with transaction.atomic():
        waiting = Event.objects.filter(spread_at=None).order_by("created_at")
        found = list(waiting.select_for_update(skip_locked=True)[:SPREAD_AT_A_TIME])
        listening: dict[UUID, list[WebhookEndpoint]] = {}
        for endpoint in WebhookEndpoint.objects.filter(tenant__in={event.tenant_id for event in found}, is_on=True):
            listening.setdefault(endpoint.tenant_id, []).append(endpoint)
        Delivery.objects.bulk_create(
            [
                Delivery(tenant_id=event.tenant_id, endpoint=endpoint, event=event, due_at=now)
                for event in found
                for endpoint in listening.get(event.tenant_id, ())
                if event.type in endpoint.events
            ],
            ignore_conflicts=True,
        )
        Event.objects.filter(pk__in=[event.pk for event in found]).update(spread_at=now)
    return len(found)


def send_due(*, clock: Clock = timezone.now, at_once: int = SENDERS) -> int:
    """Every endpoint with something due had its turn, as far as a run's time goes; how many deliveries arrived."""
    now = clock()
    due = WebhookEndpoint.objects.filter(
        is_on=True, busy_until__lte=now, deliveries__state=Delivery.State.WAITING, deliveries__due_at__lte=now
    )
    # Those that work first: many dead ones fill a run, and the others have had their turn by then.
    ids = list(
        due.order_by(F("failing_since").desc(nulls_first=True)).values_list("pk", flat=True)[:ENDPOINTS_AT_A_TIME]
    )
    waiting = list(dict.fromkeys(ids))
    if at_once == 1 or len(waiting) <= 1:
        return sum(take_turn(one, clock=clock) for one in waiting)
    return _in_threads(waiting, clock, min(at_once, len(waiting)))


def _in_threads(waiting: list[UUID], clock: Clock, at_once: int) -> int:
    until, lock = time.monotonic() + RUN_SECONDS, threading.Lock()

    def run() -> int:
        arrived = 0
        try:
            while time.monotonic() < until:
                with lock:
                    one = waiting.pop(0) if waiting else None
                if one is None:
                    break
                arrived += take_turn(one, clock=clock)
        finally:
            connections.close_all()
        return arrived

    with ThreadPoolExecutor(at_once) as pool:
        return sum(future.result() for future in [pool.submit(run) for _ in range(at_once)])


def take_turn(endpoint_id: UUID, *, clock: Clock = timezone.now) -> int:
    """What is due to this endpoint was sent, oldest first, until one fails; how many arrived. 0 when another has the turn."""
    now = clock()
    unclaimed = WebhookEndpoint.objects.filter(pk=endpoint_id, is_on=True, busy_until__lte=now)
    if not unclaimed.update(busy_until=now + TURN):
        return 0
    arrived, rest = 0, timedelta(0)
    try:
        for delivery in _due(endpoint_id, now):
            if not _send(delivery, clock):
                rest = REST_AFTER_FAILURE
                break
            arrived += 1
            if clock() > now + TURN / 2:
                break
    except Exception:  # one endpoint holds up nobody
        logger.exception("Webhooks of endpoint %s", endpoint_id)
        rest = REST_AFTER_FAILURE
    WebhookEndpoint.objects.filter(pk=endpoint_id).update(busy_until=clock() + rest)
    return arrived


def _due(endpoint_id: UUID, now: datetime) -> Sequence[Delivery]:
    found = Delivery.objects.filter(endpoint=endpoint_id, state=Delivery.State.WAITING, due_at__lte=now)
    return list(found.select_related("event", "endpoint__tenant").order_by("due_at", "created_at")[:SENT_IN_A_TURN])


def _send(delivery: Delivery, clock: Clock) -> bool:
    """One attempt, and what came of it on record; whether it arrived."""
    now = clock()
    place = delivery.attempts
    delivery.attempts += 1
    wait = WAITS[min(place, len(WAITS) - 1)] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
    Delivery.objects.filter(pk=delivery.pk).update(attempts=delivery.attempts, due_at=now + wait)
    attempt = _attempt(delivery, now)
    with transaction.atomic():
        attempt.save()
        return _settle(delivery, attempt, clock())


def _attempt(delivery: Delivery, now: datetime) -> DeliveryAttempt:
    body = payload(delivery.event)
    started = time.monotonic()
    attempt = DeliveryAttempt(delivery=delivery, at=now, latency_ms=0)
    try:
        answer = egress.post(url=delivery.endpoint.url, body=body.encode(), headers=signed(delivery, body, now))
        attempt.status, attempt.answer = answer.status, answer.text
    except (egress.NotAllowed, egress.Unreachable) as error:
        attempt.error = str(error)[:300]
    attempt.latency_ms = int((time.monotonic() - started) * 1000)
    return attempt


def payload(event: Event) -> str:
    """The body: the same bytes in every attempt."""
    at = event.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = {"type": event.type, "timestamp": at, "tenant": event.tenant.slug, "data": event.data}
    return json.dumps(told, separators=(",", ":"))


def signed(delivery: Delivery, body: str, now: datetime) -> dict[str, str]:
    """The request's headers, with a signature by each secret that holds."""
    name = endpoints.message_id(delivery.event)
    keys = endpoints.signing(delivery.endpoint, now=now)
    return {
        "Content-Type": "application/json",
        "User-Agent": "Meterhouse-Webhooks/1",
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(msg_id=name, timestamp=now, data=body) for key in keys),
    }


def _settle(delivery: Delivery, attempt: DeliveryAttempt, now: datetime) -> bool:
    of_endpoint = WebhookEndpoint.objects.filter(pk=delivery.endpoint_id)
    of_delivery = Delivery.objects.filter(pk=delivery.pk)
    if attempt.status is not None and 200 <= attempt.status < 300:  # noqa: PLR2004
        of_delivery.update(state=Delivery.State.DELIVERED, ended_at=now)
        of_endpoint.filter(failing_since__isnull=False).update(failing_since=None)
        return True
    if delivery.attempts > len(WAITS):
        of_delivery.update(state=Delivery.State.GIVEN_UP, ended_at=now)
    of_endpoint.filter(failing_since=None).update(failing_since=now)
    since = of_endpoint.values_list("failing_since", flat=True).first() or now
    if attempt.status == GONE or now - since >= DISABLED_AFTER:
        _disable(delivery.endpoint, since, now)
    return False


def _disable(endpoint: WebhookEndpoint, since: datetime, now: datetime) -> None:
    """Nothing more is sent there, and the tenant's people are told once. What waits is sent when it is turned on again."""
    if not WebhookEndpoint.objects.filter(pk=endpoint.pk, is_on=True).update(is_on=False, disabled_at=now):
        return
    notices.tell(
        tenant=endpoint.tenant,
        kind="webhook.disabled",
        key=f"{endpoint.pk}:{now:%Y-%m-%dT%H:%M}",
        title="A webhook endpoint was turned off",
        text=(
            f"{endpoint.url}\n\nhas not taken our webhooks since {since:%d %B %Y, %H:%M} (UTC), so it was turned off. "
            "The delivery log on the webhooks page says what it answered.\n\n"
            "Turn it on again there once it works: what waits is sent then, and what was given up can be sent again."
        ),
    )


def forget_old(*, now: datetime) -> int:
    """Events that are older than the delivery log reaches are gone, with their deliveries; how many."""
    old = list(Event.objects.filter(created_at__lt=now - KEPT).values_list("pk", flat=True)[:5000])
    Event.objects.filter(pk__in=old).delete()
    return len(old)
