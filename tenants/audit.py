"""The append-only record of who changed what."""

from .models import AuditEntry, Tenant


def record(*, tenant: Tenant | None, actor: str, action: str, subject: object, **detail: object) -> None:
    """The change is on record; call it inside the transaction that makes the change."""
    AuditEntry.objects.create(
        tenant=tenant, actor=actor[:254], action=action, subject=str(subject)[:200], detail=dict(detail)
    )
