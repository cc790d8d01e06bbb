"""Usage: what is sent to the meter, and what it has counted."""

from datetime import datetime
from typing import Any

from django.conf import settings

from .connection import PAGE, asking, client, every, options


def send_meter_event(*, identifier: str, customer_id: str, value: int, at: datetime, key: str | None = None) -> None:
    """Stripe has taken a quantity, counted at this instant. AlreadyDelivered: it had the identifier before."""
    params: Any = {
        "event_name": settings.BILLING["METER_EVENT_NAME"],
        "identifier": identifier,
        "timestamp": int(at.timestamp()),
        "payload": {"stripe_customer_id": customer_id, "value": str(value)},
    }
    with asking():
        client().v1.billing.meter_events.create(params, options(key or identifier))


def meter_total(*, meter_id: str, customer_id: str, start: datetime, end: datetime) -> int:
    """What Stripe has counted from start to end, both on whole minutes. It lags behind the events by a while."""
    params: Any = {
        "customer": customer_id, "start_time": int(start.timestamp()), "end_time": int(end.timestamp()), "limit": PAGE,
    }  # fmt: skip
    with asking():
        page = client().v1.billing.meters.event_summaries.list(meter_id, params)
        return sum(int(body["aggregated_value"]) for body in every(page))  # whole: only whole numbers are sent
