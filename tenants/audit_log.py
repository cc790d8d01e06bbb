"""Reading the audit log: filtered, newest first, page by page. Nothing here writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from .models import AuditEntry, Tenant

COLUMNS = ("at", "actor", "action", "subject", "detail")
CHUNK = 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of the log ends: the next one begins with what is older."""

    at: datetime
    id: UUID

    def __str__(self) -> str:
        return f"{self.at.isoformat().replace('+00:00', 'Z')}_{self.id.hex}"

    @classmethod
    def read(cls, text: str) -> "Place | None":
        """The place that this text names; None where it names none."""
        at, _, number = text.partition("_")
        try:
            found = cls(datetime.fromisoformat(at), UUID(number))
        except ValueError:
            return None
        return found if found.at.tzinfo is not None else None


@dataclass(frozen=True, slots=True)
class Filter:
    """What of the log is asked for; empty and None ask for all. `end` is exclusive."""

    actor: str = ""
    action: str = ""
    start: datetime | None = None
    end: datetime | None = None


def entries(tenant: Tenant, asked: Filter) -> QuerySet[AuditEntry]:
    """The tenant's entries that fit, newest first."""
    found = AuditEntry.objects.filter(tenant=tenant).order_by("-at", "-id")
    if asked.actor:
        found = found.filter(actor__icontains=asked.actor)
    if asked.action:
        found = found.filter(action=asked.action)
    if asked.start:
        found = found.filter(at__gte=asked.start)
    if asked.end:
        found = found.filter(at__lt=asked.end)
    return found


def page(tenant: Tenant, asked: Filter, *, after: Place | None, size: int) -> tuple[list[AuditEntry], Place | None]:
    """So many entries beyond the place, and the place where the next page begins, None when there is no more."""
    found = entries(tenant, asked)
    if after is not None:
        found = found.filter(Q(at__lt=after.at) | Q(at=after.at, id__lt=after.id), at__lte=after.at)
    rows = list(found[: size + 1])
    if len(rows) <= size:
        return rows, None
    last = rows[size - 1]
    return rows[:size], Place(last.at, last.id)


def streamed(tenant: Tenant, asked: Filter) -> Iterator[AuditEntry]:
    """All entries that fit, read as they are sent."""
    return entries(tenant, asked).iterator(chunk_size=CHUNK)


def actions(tenant: Tenant) -> list[str]:
    """What was done so far, by name."""
    found = AuditEntry.objects.filter(tenant=tenant).order_by("action")
    return list(found.values_list("action", flat=True).distinct())
