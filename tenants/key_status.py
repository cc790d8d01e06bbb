"""Whether a key works, and if not, why: said in one word, and asked of the database by the same word."""

from datetime import datetime

from django.db import models
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _

from .models import ApiKey


class KeyStatus(models.TextChoices):
    ACTIVE = "active", _("Active")
    EXPIRED = "expired", _("Expired")
    REVOKED = "revoked", _("Revoked")


def status_of(key: ApiKey, now: datetime) -> KeyStatus:
    if key.revoked_at is not None:
        return KeyStatus.REVOKED
    return KeyStatus.EXPIRED if key.expires_at is not None and key.expires_at <= now else KeyStatus.ACTIVE


def working(now: datetime, path: str = "") -> Q:
    """The condition that a key works; `path` leads to it, for example "api_keys__"."""
    unexpired = Q(**{f"{path}expires_at": None}) | Q(**{f"{path}expires_at__gt": now})
    return Q(**{f"{path}revoked_at": None}) & unexpired


def with_status(keys: QuerySet[ApiKey], status: KeyStatus, now: datetime) -> QuerySet[ApiKey]:
    if status is KeyStatus.REVOKED:
        return keys.exclude(revoked_at=None)
    if status is KeyStatus.EXPIRED:
        return keys.filter(revoked_at=None, expires_at__lte=now)
    return keys.filter(working(now))
