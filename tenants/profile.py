"""The tenant's own name and billing address. Its place in addresses (the slug) stays."""

from datetime import datetime

from django.db import transaction

from . import audit, members, notices
from .directory import one_line
from .models import Tenant
from .wording import plain_address


def change(*, tenant: Tenant, name: str, email: str, actor: str, now: datetime) -> bool:
    """The tenant is called so, and its billing mail goes there; the address until now is told. False when nothing changed."""
    wanted = {"name": one_line(name), "email": email.strip()}
    with transaction.atomic():
        locked = members.lock(tenant)
        before = {"name": locked.name, "email": locked.email}
        changes = {
            field: {"before": before[field], "after": wanted[field]}
            for field in wanted
            if before[field] != wanted[field]
        }
        if not changes:
            return False
        Tenant.objects.filter(pk=tenant.pk).update(**wanted)
        audit.record(tenant=tenant, actor=actor, action="tenant.changed", subject=tenant.slug, changes=changes)
        if "email" in changes:
            _tell(tenant, before["email"], wanted["email"], actor, now)
    return True


def _tell(tenant: Tenant, old: str, new: str, actor: str, now: datetime) -> None:
    notices.tell(
        tenant=tenant,
        kind="tenant.email_changed",
        key=now.isoformat(),
        recipient=old,
        title="Billing mail goes to another address now",
        text=(
            f"{plain_address(actor)} has changed where mail about billing goes: from now on to {plain_address(new)}, no "
            "longer to this address. If this is not right, an owner can change it back on the page Settings."
        ),
    )
