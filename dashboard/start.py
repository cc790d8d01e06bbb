"""From nothing to the first call that shows: one command with the key in it, then the call itself, then where to go on."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _

from metering.models import Call, Outcome
from tenants.models import Project


@dataclass(frozen=True, slots=True)
class Arrived:
    """The latest call, as the ledger has it."""

    at: datetime
    capability: str
    key: str
    status: int
    latency_us: int | None
    billed: str


@dataclass(frozen=True, slots=True)
class Start:
    """The page. `secret` is the whole key while it is at hand, `command` has it or dots in its place; empty: ask the operator."""

    secret: str
    command: str
    header: str
    arrived: Arrived | None
    project: Project | None
    shows_views: bool


def start(
    *, tenant_id: UUID, projects: tuple[Project, ...], visible: frozenset[int] | None, secret: str, prefix: str
) -> Start:
    """`projects` are those in use that the member sees, `visible` the ids of all they see, None for all there are."""
    header = f"Authorization: Bearer {secret or f'{prefix}_...'}"
    address = settings.FIRST_CALL_URL
    return Start(
        secret=secret,
        command=f'curl -i -H "{header}" {address}' if address else "",
        header=header,
        arrived=arrived(tenant_id=tenant_id, visible=visible),
        project=projects[0] if projects else None,
        shows_views=settings.SANDBOX,
    )


def arrived(*, tenant_id: UUID, visible: frozenset[int] | None) -> Arrived | None:
    """The latest call of the projects that the member sees; None while there is none in the call log."""
    found = Call.objects.filter(tenant_id=tenant_id)
    if visible is not None:
        found = found.filter(project_id__in=visible)
    call = found.select_related("api_key").order_by("-occurred_at").first()
    if call is None:
        return None
    return Arrived(
        at=call.occurred_at,
        capability=call.capability,
        key=call.api_key.name,
        status=call.status,
        latency_us=call.latency_us,
        billed=_billed(call),
    )


def _billed(call: Call) -> str:
    if call.outcome == Outcome.BILLABLE:
        return _("counted as a billable call")
    return _("refused, not billed") if call.outcome == Outcome.REFUSED else _("failed, not billed")
