"""The inbox of webhooks: every event once, handled until that worked, whatever order they come in.

An event is a hint that something changed at Stripe. What changed is read from Stripe (`reactions.py`), so that doubled,
late and shuffled events end in the same state. An event that is being handled has its next attempt in the future: it needs
no lock, and is tried again by itself when the worker was killed.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from tenants import audit
from tenants.models import Tenant

from . import event_bodies, reactions, stripe_api
from .errors import StripeNotConfigured, StripeUnavailable
from .models import StripeEvent

logger = logging.getLogger(__name__)
CLAIMED = timedelta(seconds=60)  # how long one attempt may take before another worker tries
FIRST_WAIT = timedelta(seconds=30)  # after a failure of ours, doubled with each attempt
LONGEST_WAIT = timedelta(hours=6)
OUTAGE_WAITS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
)  # Stripe is away: half as long as it has lasted, within these
CLOCKS_DIFFER = timedelta(minutes=5)  # between the machine that stores an event and the one that handles it
KEPT_AT_STRIPE = timedelta(days=30)
OUTAGES_IN_A_ROW = 3  # then a run ends: the rest waits for the next one instead of for its own timeout
RUN_SECONDS = 50.0

INSERT = """
INSERT INTO billing_stripeevent
    (id, kind, type, object_id, customer_id, is_live, created_at, received_at, due_at, body, state, attempts, error)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'received', 0, '')
ON CONFLICT (id) DO NOTHING
"""


class Outcome(Enum):
    """What became of one attempt."""

    DONE = "done"
    WAITS = "waits"  # failed, tried again later
    OUTAGE = "outage"  # Stripe is away
    NOT_OURS = "not ours"  # another worker has it, or nothing is due


def store(*, kind: StripeEvent.Kind, body: Mapping[str, Any], now: datetime) -> bool:
    """The event is in the inbox; False when it was before. Raises `event_bodies.EventRefused`, having written nothing."""
    event = event_bodies.read(kind=kind, body=body, is_live=settings.STRIPE_LIVE_MODE)
    row = (
        event.id, kind.value, event.type, event.object_id, event.customer_id, event.is_live, event.created_at, now,
        now - CLOCKS_DIFFER, json.dumps(event.body),
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(INSERT, row)
        return bool(cursor.rowcount)


def handle(*, event_id: str, now: datetime) -> None:
    """What the event is about is known here as Stripe has it now, or will be tried again; calling twice is harmless."""
    _attempt(event_id, now)


def handle_due(*, now: datetime, limit: int = 500) -> int:
    """Every event that is due was handled or has its next attempt ahead; how many were handled."""
    due = StripeEvent.objects.filter(state=StripeEvent.State.RECEIVED, due_at__lte=now).order_by("due_at")
    return _attempt_all(due.values_list("id", flat=True)[:limit], now)


def catch_up(*, now: datetime) -> int:
    """What Stripe could not deliver is in the inbox, as far back as Stripe keeps it; how many events were unknown."""
    known_types = (
        event for event in stripe_api.undelivered_events(since=now - KEPT_AT_STRIPE) if reactions.concerns(event.type)
    )
    new = 0
    for event in known_types:
        try:
            new += store(kind=StripeEvent.Kind.SNAPSHOT, body=event.body, now=now)
        except event_bodies.EventRefused as error:
            logger.error("Stripe lists an event %s that cannot be stored: %s", event.id, error)
    return new


def replay(*, event_ids: Iterable[str], actor: str, now: datetime) -> int:
    """The events were handled once more, whatever became of them before, and who asked is on record; how many worked."""
    asked = []
    for event in StripeEvent.objects.filter(pk__in=list(event_ids)).order_by("created_at"):
        with transaction.atomic():
            audit.record(
                tenant=tenant_of(event), actor=actor, action="stripe_event.replayed",
                subject=event.pk, type=event.type, before=event.state,
            )  # fmt: skip
            StripeEvent.objects.filter(pk=event.pk).update(
                state=StripeEvent.State.RECEIVED, attempts=0, due_at=now, handled_at=None, error=""
            )
        asked.append(event.pk)
    return _attempt_all(asked, now)


def tenant_of(event: StripeEvent) -> Tenant | None:
    """Whose customer the event names, if it is one of ours."""
    return Tenant.objects.filter(account__customer_id=event.customer_id).first() if event.customer_id else None


def _attempt_all(event_ids: Iterable[str], now: datetime) -> int:
    """Each in turn, at its own instant: a reading of Stripe must not carry an earlier one's time. Ends early in an outage."""
    started, handled, outages = time.monotonic(), 0, 0
    for event_id in event_ids:
        passed = time.monotonic() - started
        outcome = _attempt(event_id, now + timedelta(seconds=passed))
        handled += outcome is Outcome.DONE
        outages = outages + 1 if outcome is Outcome.OUTAGE else 0
        if outages == OUTAGES_IN_A_ROW or passed > RUN_SECONDS:
            break
    return handled


def _attempt(event_id: str, now: datetime) -> Outcome:
    event = _claim(event_id, now)
    if event is None:
        return Outcome.NOT_OURS
    try:
        is_ours = reactions.react(event=event, now=now)
    except (StripeUnavailable, StripeNotConfigured) as error:
        return _wait_for_stripe(event, error, now)
    except Exception as error:  # noqa: BLE001 -- an event that cannot be handled holds up no other
        return _fail(event, error, now)
    state = StripeEvent.State.HANDLED if is_ours else StripeEvent.State.IGNORED
    _received(event).update(state=state, handled_at=now, error="")
    return Outcome.DONE


def _claim(event_id: str, now: datetime) -> StripeEvent | None:
    """The event, if it is due and nobody else is at it; its next attempt is then in the future."""
    due = StripeEvent.objects.filter(pk=event_id, state=StripeEvent.State.RECEIVED, due_at__lte=now)
    if not due.update(attempts=F("attempts") + 1, due_at=now + CLAIMED):
        return None
    event = StripeEvent.objects.get(pk=event_id)
    if event.attempts > settings.BILLING["EVENT_ATTEMPTS"]:
        _give_up(event, event.error or "Each attempt ended without a word: the worker was killed.")
        return None
    return event


def _received(event: StripeEvent) -> Any:
    return StripeEvent.objects.filter(pk=event.pk, state=StripeEvent.State.RECEIVED)


def _wait_for_stripe(event: StripeEvent, error: Exception, now: datetime) -> Outcome:
    """An outage is no fault of the event: it waits for as long as it takes, and no attempt is spent."""
    shortest, longest = OUTAGE_WAITS
    wait = min(max((now - event.received_at) / 2, shortest), longest)
    _received(event).update(attempts=F("attempts") - 1, due_at=now + wait, error=_said(error))
    logger.warning("Stripe event %s (%s) waits for Stripe: %s", event.pk, event.type, error)
    return Outcome.OUTAGE


def _fail(event: StripeEvent, error: Exception, now: datetime) -> Outcome:
    if event.attempts >= settings.BILLING["EVENT_ATTEMPTS"]:
        _give_up(event, _said(error))
        return Outcome.WAITS
    wait = min(FIRST_WAIT * 2 ** (event.attempts - 1), LONGEST_WAIT)
    _received(event).update(due_at=now + wait, error=_said(error))
    logger.warning("Stripe event %s (%s) failed, tried again: %s", event.pk, event.type, error, exc_info=error)
    return Outcome.WAITS


def _give_up(event: StripeEvent, why: str) -> None:
    _received(event).update(state=StripeEvent.State.FAILED, error=why)
    logger.error(
        "Stripe event %s (%s) has failed for good. Replay it when the cause is gone: %s", event.pk, event.type, why
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]
