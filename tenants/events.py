"""What happened, for those who listen: written in the transaction that made it so. `deliveries.py` carries it out."""

from typing import Any

from .models import Event, EventType, Tenant


def emit(*, tenant: Tenant, event: EventType, key: str, data: dict[str, Any]) -> bool:
    """The event is on record once for each `key`; False when it was. Part of the caller's transaction."""
    _, is_new = Event.objects.get_or_create(tenant=tenant, type=event, key=key[:200], defaults={"data": data})
    return is_new
