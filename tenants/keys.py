"""API keys: how they are made, read and verified.

A key is `mh_live_<id>_<secret><checksum>`: a public id of 12 characters, a secret of 32 (190.5 random bits), and a
CRC-32 of both in 6, all base 62. The checksum lets anybody (and secret scanners) tell a mistyped key from a wrong one
without asking the database; it proves nothing. Stored is only HMAC-SHA-256(API_KEY_SECRET, key).
"""

import hmac
import re
import secrets
import string
import threading
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils.translation import gettext_lazy as _

from . import audit
from .errors import TenantsError
from .models import ApiKey, Project, User

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 32, 6
SHAPE = re.compile(
    rf"mh_live_([0-9A-Za-z]{{{ID_LENGTH}}})_([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)
SCOPES = {
    "calls": _("Call the metered product API"),
    "usage:read": _("Read usage, limits and estimates"),
    "events:write": _("Send events: usage of services that are not called through us"),
    "money:read": _("Read invoices, the next one, and what they are made of"),
    "audit:read": _("Read who changed what"),
    "limits:write": _("Set the daily cap and the limits of projects and keys"),
    "projects:write": _("Create, rename, archive and restore projects"),
    "keys:write": _("Create, rotate and revoke API keys, with no more scopes than its own"),
}
DEFAULT_SCOPES = frozenset({"calls", "usage:read"})  # a key that calls must not be able to lift its own limit
USED_RESOLUTION = timedelta(minutes=1)
CACHED_KEYS = 50_000
ASK_AGAIN_SECONDS = 0.5  # while PostgreSQL is away, one request in so long pays for asking


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a verified key speaks for. Stands in for `request.user` and `request.auth` in the API."""

    tenant_id: UUID
    tenant_slug: str
    project_id: int
    key_id: int
    prefix: str
    scopes: frozenset[str]
    expires_at: datetime | None

    is_authenticated = True
    is_active = True
    is_anonymous = False


class ScopesBeyond(TenantsError):
    """Whoever makes the key may not give it these `scopes`."""

    def __init__(self, scopes: frozenset[str]) -> None:
        super().__init__(f"You may not give a key the scope {', '.join(sorted(scopes))}.")
        self.scopes = scopes


class ProjectArchived(TenantsError):
    """An archived project has no keys that work, and gets none."""

    def __init__(self, project: Project) -> None:
        super().__init__(f"The project '{project.name}' is archived. Restore it first.")


class KeyRefused(Exception):
    """The key is malformed, unknown, expired or revoked. Deliberately one error for all of them."""


class KeysUnavailable(Exception):
    """PostgreSQL cannot be asked, and this key was not verified recently."""


def digest(key: str) -> bytes:
    """What is stored of a key."""
    return hmac.digest(settings.API_KEY_SECRET.encode(), key.encode(), "sha256")


def checksum(text: str) -> str:
    """CRC-32 of the text in six base 62 characters."""
    value, letters = zlib.crc32(text.encode()), ""
    for _letter in range(CHECKSUM_LENGTH):
        value, index = divmod(value, 62)
        letters = ALPHABET[index] + letters
    return letters


def is_well_formed(key: str) -> bool:
    """Whether the key has the shape and the checksum of one that we could have issued."""
    match = SHAPE.fullmatch(key)
    return bool(match) and checksum(match[1] + match[2]) == match[3]  # type: ignore[index]


def issue(
    *,
    project: Project,
    name: str,
    actor: str,
    scopes: frozenset[str] = DEFAULT_SCOPES,
    expires_at: datetime | None = None,
    created_by: User | None = None,
    within: frozenset[str] | None = None,
) -> tuple[ApiKey, str]:
    """A new key of the project, and its full text, which exists nowhere else afterwards.

    `within` are the scopes that its maker may give, None for all. Raises ValueError for a scope that does not exist,
    ScopesBeyond and ProjectArchived.
    """
    check_scopes(scopes, within=within)
    public_id = "".join(secrets.choice(ALPHABET) for _letter in range(ID_LENGTH))
    secret = "".join(secrets.choice(ALPHABET) for _letter in range(SECRET_LENGTH))
    key = f"mh_live_{public_id}_{secret}{checksum(public_id + secret)}"
    with transaction.atomic():
        check_open(project)
        row = ApiKey.objects.create(
            tenant=project.tenant,
            project=project,
            name=name,
            public_id=public_id,
            last_four=key[-4:],
            digest=digest(key),
            scopes=sorted(scopes),
            expires_at=expires_at,
            created_by=created_by,
        )
        audit.record(
            tenant=project.tenant, actor=actor, action="key.issued", subject=row, project=project.slug, name=name,
            scopes=row.scopes, expires_at=expires_at.isoformat() if expires_at else None,
        )  # fmt: skip
    return row, key


def check_scopes(scopes: frozenset[str], *, within: frozenset[str] | None) -> None:
    """The scopes exist and may be given; raises ValueError and ScopesBeyond."""
    unknown = scopes - SCOPES.keys()
    if unknown:
        raise ValueError(f"Unknown scope: {', '.join(sorted(unknown))}. Known: {', '.join(SCOPES)}.")
    if within is not None and scopes - within:
        raise ScopesBeyond(scopes - within)


def check_open(project: Project) -> None:
    """The project is not archived, nor will be until the transaction ends; raises ProjectArchived."""
    if Project.objects.select_for_update(no_key=True).get(pk=project.pk).is_archived:
        raise ProjectArchived(project)


def revoke(*, key: ApiKey, actor: str, now: datetime) -> bool:
    """The key is refused everywhere within a second; False if it was revoked before."""
    with transaction.atomic():
        changed = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now)
        if changed:
            audit.record(tenant=key.tenant, actor=actor, action="key.revoked", subject=key)
    return bool(changed)


# One round trip; the inner UPDATE touches a row at most once a minute.
LOOKUP = """
WITH found AS (
    SELECT k.id, k.tenant_id, t.slug, k.project_id, k.public_id, k.digest, k.scopes, k.expires_at, k.last_used_at
    FROM tenants_apikey k JOIN tenants_tenant t ON t.id = k.tenant_id
    WHERE k.public_id = %(public_id)s AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
), used AS (
    UPDATE tenants_apikey k SET last_used_at = %(now)s FROM found f
    WHERE k.id = f.id AND f.digest = %(digest)s AND (f.last_used_at IS NULL OR f.last_used_at < %(used_before)s)
)
SELECT id, tenant_id, slug, project_id, public_id, digest, scopes, expires_at FROM found
"""


class KeyCache:
    """Verified keys of this process, by digest (never by key). Bounded; safe for threads."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._outage_until = 0.0
        self._is_asked = False

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._outage_until = 0.0

    def verify(self, key: str, *, now: datetime) -> Caller:
        """Whom the key speaks for; raises KeyRefused or KeysUnavailable.

        A hot key is served from memory for at most METERING["KEY_CACHE_SECONDS"]. While PostgreSQL is unreachable a key
        that was verified within METERING["KEY_OUTAGE_SECONDS"] stays valid: fails open for known keys only.
        """
        fingerprint = digest(key)
        entry = self._entries.get(fingerprint)
        if entry and time.monotonic() - entry[1] < settings.METERING["KEY_CACHE_SECONDS"]:
            return self._unexpired(entry[0], now)
        if not is_well_formed(key):
            raise KeyRefused
        if self._outage_until and not self._may_ask():
            return self._remembered(fingerprint, now)
        try:
            caller = self._ask(key, fingerprint, now)
        except (OperationalError, InterfaceError):
            self._outage_until = time.monotonic() + ASK_AGAIN_SECONDS
            return self._remembered(fingerprint, now)
        finally:
            self._is_asked = False
        self._outage_until = 0.0
        self._remember(fingerprint, caller)
        return caller

    def _may_ask(self) -> bool:
        """Whether this caller finds out if the outage is over: one in ASK_AGAIN_SECONDS, and one at a time."""
        with self._lock:
            if self._is_asked or time.monotonic() < self._outage_until:
                return False
            self._is_asked = True
            return True

    def _ask(self, key: str, fingerprint: bytes, now: datetime) -> Caller:
        parameters: dict[str, Any] = {
            "public_id": key[8 : 8 + ID_LENGTH],
            "digest": fingerprint,
            "now": now,
            "used_before": now - USED_RESOLUTION,
        }
        with connection.cursor() as cursor:
            cursor.execute(LOOKUP, parameters)
            row: tuple[Any, ...] | None = cursor.fetchone()
        if row is None or not hmac.compare_digest(bytes(row[5]), fingerprint):
            with self._lock:
                self._entries.pop(fingerprint, None)
            raise KeyRefused
        return Caller(row[1], row[2], row[3], row[0], f"mh_live_{row[4]}", frozenset(row[6]), row[7])

    def _remembered(self, fingerprint: bytes, now: datetime) -> Caller:
        entry = self._entries.get(fingerprint)
        if entry is None or time.monotonic() - entry[1] > settings.METERING["KEY_OUTAGE_SECONDS"]:
            raise KeysUnavailable
        return self._unexpired(entry[0], now)

    def _remember(self, fingerprint: bytes, caller: Caller) -> None:
        with self._lock:
            self._entries[fingerprint] = (caller, time.monotonic())
            self._entries.move_to_end(fingerprint)
            if len(self._entries) > CACHED_KEYS:
                self._entries.popitem(last=False)

    @staticmethod
    def _unexpired(caller: Caller, now: datetime) -> Caller:
        if caller.expires_at is not None and caller.expires_at <= now:
            raise KeyRefused
        return caller


cache = KeyCache()
