"""A key gives way to a new one: both work for a while, so that programs can change over without a refused call."""

from datetime import datetime, timedelta

from django.db import transaction

from . import audit, keys
from .errors import TenantsError
from .models import ApiKey, User

LONGEST_OVERLAP = timedelta(days=7)


class KeyHasEnded(TenantsError):
    """The key was revoked, has expired or was replaced already: there is nothing to take over from."""

    def __init__(self, key: ApiKey, *, is_replaced: bool) -> None:
        words = "was replaced already" if is_replaced else "was revoked or has expired"
        super().__init__(f"The key {key} {words}. Create a new one.")
        self.is_replaced = is_replaced


def rotate(
    *,
    key: ApiKey,
    overlap: timedelta,
    actor: str,
    now: datetime,
    created_by: User | None = None,
    within: frozenset[str] | None = None,
) -> tuple[ApiKey, str]:
    """A new key of the same project, name, scopes and length of life, and its full text; the old one ends after `overlap`.

    Raises KeyHasEnded, keys.ScopesBeyond for a key with more scopes than may be given, ProjectArchived, and ValueError for
    an overlap that cannot be.
    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise ValueError(f"The old key may work for up to {LONGEST_OVERLAP.days} days.")
    with transaction.atomic():
        keys.check_open(key.project)  # the same order of locks as archiving
        old = ApiKey.objects.select_for_update(no_key=True).get(pk=key.pk)
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise KeyHasEnded(key, is_replaced=False)
        if old.replaced_by_id is not None:
            raise KeyHasEnded(key, is_replaced=True)
        new, text = keys.issue(
            project=key.project, name=old.name, actor=actor, scopes=frozenset(old.scopes), created_by=created_by, within=within,
            expires_at=None if old.expires_at is None else now + (old.expires_at - old.created_at),
        )  # fmt: skip
        ends_at = now + overlap if old.expires_at is None else min(old.expires_at, now + overlap)
        ApiKey.objects.filter(pk=old.pk).update(expires_at=ends_at, replaced_by=new)
        audit.record(
            tenant=key.tenant, actor=actor, action="key.rotated", subject=old, by=str(new), ends_at=ends_at.isoformat()
        )
    return new, text
