"""Webhook endpoints as people see them: where events go, and what became of each delivery."""

from dataclasses import dataclass
from datetime import datetime

from django.core.paginator import Page, Paginator
from django.utils.translation import gettext as _

from tenants.endpoints import message_id
from tenants.models import Delivery, DeliveryAttempt, EventType, Tenant, WebhookEndpoint

A_PAGE = 50
STYLES = {Delivery.State.DELIVERED: "ok", Delivery.State.GIVEN_UP: "warn", Delivery.State.WAITING: ""}


@dataclass(frozen=True, slots=True)
class EventChoice:
    """An event that an endpoint may listen to."""

    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One delivery with its last attempt."""

    id: str
    message_id: str
    type: str
    at: datetime
    state: str
    style: str
    attempts: int
    due_at: datetime | None
    status: str
    latency_ms: int | None
    said: str


@dataclass(frozen=True, slots=True)
class Log:
    """A page of the deliveries of an endpoint, the newest first."""

    rows: tuple[Row, ...]
    page: Page[Delivery]


def of(tenant: Tenant) -> list[WebhookEndpoint]:
    return list(WebhookEndpoint.objects.filter(tenant=tenant))


def choices(chosen: list[str]) -> tuple[EventChoice, ...]:
    return tuple(EventChoice(one.value, str(one.label), one.value in chosen) for one in EventType)


def log(*, endpoint: WebhookEndpoint, number: str) -> Log:
    """Two queries more than the page's: the last attempts of all its deliveries are read at once."""
    found = Delivery.objects.filter(endpoint=endpoint).select_related("event")
    page = Paginator(found, A_PAGE).get_page(number)
    deliveries = list(page.object_list)
    tries = DeliveryAttempt.objects.filter(delivery__in=deliveries).order_by("delivery_id", "-at", "-id")
    last = {one.delivery_id: one for one in tries.distinct("delivery_id")}
    return Log(tuple(_row(one, last.get(one.pk)) for one in deliveries), page)


def _row(delivery: Delivery, last: DeliveryAttempt | None) -> Row:
    state = Delivery.State(delivery.state)
    return Row(
        id=str(delivery.pk),
        message_id=message_id(delivery.event),
        type=delivery.event.type,
        at=delivery.created_at,
        state=str(state.label),
        style=STYLES[state],
        attempts=delivery.attempts,
        due_at=delivery.due_at if state == Delivery.State.WAITING and delivery.attempts else None,
        status="" if last is None else str(last.status or _("no answer")),
        latency_ms=None if last is None else last.latency_ms,
        said="" if last is None else last.error or last.answer,
    )
