"""Records and objects: how they are checked, kept and read. Every query names the caller's tenant and project."""

import hashlib
import json
import re
from datetime import datetime
from http import HTTPStatus
from typing import Never

from django.db import transaction

from tenants.keys import Caller
from tenants.models import Project
from tenants.problems import Problem

from .models import Record, StoredObject

KEY = re.compile(r"[A-Za-z0-9_.-]{1,120}")
MAX_RECORD_BYTES = 64 * 1024
MAX_OBJECT_BYTES = 1024 * 1024
MAX_RECORDS = 1_000
MAX_OBJECTS = 200
MAX_CONTENT_TYPE = 200


class BadRequest(Problem):
    status_code = HTTPStatus.BAD_REQUEST
    slug = "invalid-request"
    title = "Invalid request"


class Missing(Problem):
    status_code = HTTPStatus.NOT_FOUND
    slug = "not-found"
    title = "Not found"


class ProjectFull(Problem):
    status_code = HTTPStatus.CONFLICT
    slug = "project-full"
    title = "The project is full"


def check_key(key: str) -> None:
    """Raises BadRequest unless the key can name a record or an object."""
    if not KEY.fullmatch(key):
        raise BadRequest("A key has 1 to 120 characters, each one of A-Z, a-z, 0-9, '_', '.' and '-'.")


def record(*, caller: Caller, key: str) -> Record:
    """The record; raises Missing."""
    found = Record.objects.filter(tenant_id=caller.tenant_id, project_id=caller.project_id, key=key).first()
    if found is None:
        raise Missing(f"This project has no record '{key}'.")
    return found


def keep_record(*, caller: Caller, key: str, body: bytes, now: datetime) -> tuple[Record, bool]:
    """The record holds this JSON document; True when it is new. Raises BadRequest or ProjectFull."""
    document = _json(body)
    row = Record(tenant_id=caller.tenant_id, project_id=caller.project_id, key=key, document=document, changed_at=now)
    return row, _keep(row, fields=("document", "changed_at"), most=MAX_RECORDS, noun="records")


def stored_object(*, caller: Caller, key: str) -> StoredObject:
    """The object; raises Missing."""
    found = StoredObject.objects.filter(tenant_id=caller.tenant_id, project_id=caller.project_id, key=key).first()
    if found is None:
        raise Missing(f"This project has no object '{key}'.")
    return found


def keep_object(
    *, caller: Caller, key: str, content: bytes, content_type: str, now: datetime
) -> tuple[StoredObject, bool]:
    """The object holds these bytes; True when it is new. Raises BadRequest or ProjectFull."""
    if len(content_type) > MAX_CONTENT_TYPE or not content_type.isprintable() or not content_type.isascii():
        raise BadRequest(f"A content type has at most {MAX_CONTENT_TYPE} printable ASCII characters.")
    row = StoredObject(
        tenant_id=caller.tenant_id,
        project_id=caller.project_id,
        key=key,
        content=content,
        content_type=content_type or "application/octet-stream",
        etag=f'"{hashlib.sha256(content).hexdigest()}"',
        changed_at=now,
    )
    return row, _keep(row, fields=("content", "content_type", "etag", "changed_at"), most=MAX_OBJECTS, noun="objects")


def _keep(row: Record | StoredObject, *, fields: tuple[str, ...], most: int, noun: str) -> bool:
    """The row is stored; True when it is new. Replacing is one statement; adding locks the project while it counts."""
    own = type(row)._default_manager.filter(tenant_id=row.tenant_id, project_id=row.project_id)
    values = {name: getattr(row, name) for name in fields}
    if own.filter(key=row.key).update(**values):
        return False
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(tenant_id=row.tenant_id, pk=row.project_id)
        if own.filter(key=row.key).update(**values):  # another call added it meanwhile
            return False
        if own.count() >= most:
            raise ProjectFull(f"A project keeps at most {most:,} {noun} in the sandbox. Replace one of them instead.")
        row.save(force_insert=True)
    return True


def _json(body: bytes) -> str:
    try:
        text = body.decode()
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body is not a JSON document: {error}.") from None
    return text


def _refuse_constant(name: str) -> Never:
    raise ValueError(f"{name} is not JSON")
