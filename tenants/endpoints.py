"""A tenant's webhook endpoints: where events are posted to, and the secrets that sign them (standardwebhooks.com).

A secret is shown once. It is derived from API_KEY_SECRET, the endpoint and a random salt, so none is stored; while one takes over
from another, both sign.
"""

import base64
import hmac
import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from . import audit, egress
from .models import Delivery, Event, EventType, Tenant, WebhookEndpoint
from .outbox_models import TEST_EVENT

OVERLAP = timedelta(hours=24)
MOST_ENDPOINTS = 10
LONGEST_AUDITED = 200


class UnusableEndpoint(Exception):
    """The endpoint cannot be set up so; the message says why."""


def add(*, tenant: Tenant, url: str, events: Sequence[str], actor: str) -> tuple[WebhookEndpoint, str]:
    """Events of these types are posted there from now on; returns the endpoint and its secret. Raises UnusableEndpoint."""
    _check(url, events)
    with transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)
        if WebhookEndpoint.objects.filter(tenant=tenant).count() >= MOST_ENDPOINTS:
            raise UnusableEndpoint(f"A tenant has at most {MOST_ENDPOINTS} endpoints: remove one first.")
        endpoint = WebhookEndpoint.objects.create(tenant=tenant, url=url, events=sorted(set(events)), salt=_salt())
        audit.record(
            tenant=tenant, actor=actor, action="webhook.added", subject=url, endpoint=str(endpoint.pk),
            events=endpoint.events,
        )  # fmt: skip
    return endpoint, secret(endpoint, endpoint.salt)


def change(
    *, endpoint: WebhookEndpoint, url: str, events: Sequence[str], is_on: bool, actor: str
) -> None:  # fmt: skip
    """The endpoint is this one; turned on, it counts as well again. Raises UnusableEndpoint."""
    _check(url, events)
    with transaction.atomic():
        endpoint = _locked(endpoint)
        before = {"before": endpoint.url, "events_before": endpoint.events, "was_on": endpoint.is_on}
        if is_on and not endpoint.is_on:
            endpoint.failing_since = endpoint.disabled_at = None
        endpoint.url, endpoint.events, endpoint.is_on = url, sorted(set(events)), is_on
        endpoint.save(update_fields=["url", "events", "is_on", "failing_since", "disabled_at"])
        audit.record(
            tenant=endpoint.tenant, actor=actor, action="webhook.changed", subject=url, endpoint=str(endpoint.pk),
            events=endpoint.events, is_on=is_on, **before,
        )  # fmt: skip


def rotate(*, endpoint: WebhookEndpoint, actor: str, now: datetime) -> str:
    """A new secret signs from now on, and the present one beside it for a day; returns the new one."""
    with transaction.atomic():
        endpoint = _locked(endpoint)
        endpoint.old_salt, endpoint.old_until, endpoint.salt = endpoint.salt, now + OVERLAP, _salt()
        endpoint.save(update_fields=["old_salt", "old_until", "salt"])
        audit.record(
            tenant=endpoint.tenant, actor=actor, action="webhook.secret_rotated", subject=endpoint.url,
            endpoint=str(endpoint.pk),
        )  # fmt: skip
    return secret(endpoint, endpoint.salt)


def remove(*, endpoint: WebhookEndpoint, actor: str) -> None:
    """Nothing is posted there any more; its delivery log is gone."""
    with transaction.atomic():
        audit.record(
            tenant=endpoint.tenant, actor=actor, action="webhook.removed", subject=endpoint.url,
            endpoint=str(endpoint.pk),
        )  # fmt: skip
        WebhookEndpoint.objects.filter(pk=endpoint.pk).delete()


def test(*, endpoint: WebhookEndpoint, actor: str, now: datetime) -> Delivery:
    """A test event is on its way to this endpoint; raises UnusableEndpoint when it is off."""
    _check_on(endpoint)
    with transaction.atomic():
        event = Event.objects.create(
            tenant=endpoint.tenant, type=TEST_EVENT, key=str(uuid.uuid4()), data={"endpoint": str(endpoint.pk)},
            spread_at=now,
        )  # fmt: skip
        audit.record(tenant=endpoint.tenant, actor=actor, action="webhook.tested", subject=endpoint.url)
        return Delivery.objects.create(tenant=endpoint.tenant, endpoint=endpoint, event=event, due_at=now)


def redeliver(*, delivery: Delivery, actor: str, now: datetime) -> None:
    """The delivery is on its way again, under the same id; raises UnusableEndpoint when its endpoint is off."""
    _check_on(delivery.endpoint)
    with transaction.atomic():
        Delivery.objects.filter(pk=delivery.pk).update(
            state=Delivery.State.WAITING, attempts=0, due_at=now, ended_at=None
        )
        audit.record(
            tenant=delivery.tenant, actor=actor, action="webhook.redelivered", subject=message_id(delivery.event),
            endpoint=str(delivery.endpoint_id),
        )  # fmt: skip


def message_id(event: Event) -> str:
    """The `webhook-id`: the same for each attempt and each endpoint, so that receivers know what they have had."""
    return f"msg_{event.pk.hex}"


def secret(endpoint: WebhookEndpoint, salt: str) -> str:
    """What signs, as receivers are given it."""
    derived = hmac.digest(settings.API_KEY_SECRET.encode(), f"webhook:{endpoint.pk}:{salt}".encode(), "sha256")
    return "whsec_" + base64.b64encode(derived).decode()


def signing(endpoint: WebhookEndpoint, *, now: datetime) -> list[str]:
    """The secrets that sign at this instant, the newest first."""
    salts = [endpoint.salt]
    if endpoint.old_until is not None and now < endpoint.old_until:
        salts.append(endpoint.old_salt)
    return [secret(endpoint, salt) for salt in salts]


def _salt() -> str:
    return secrets.token_hex(16)


def _locked(endpoint: WebhookEndpoint) -> WebhookEndpoint:
    return WebhookEndpoint.objects.select_for_update(of=("self",)).select_related("tenant").get(pk=endpoint.pk)


def _check(url: str, events: Sequence[str]) -> None:
    try:
        egress.target(url)
    except egress.NotAllowed as error:
        raise UnusableEndpoint(str(error)) from None
    if not events or not set(events) <= set(EventType.values):
        raise UnusableEndpoint("Choose at least one event.")


def _check_on(endpoint: WebhookEndpoint) -> None:
    if not endpoint.is_on:
        raise UnusableEndpoint("The endpoint is turned off: turn it on first.")
