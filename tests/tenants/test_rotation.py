"""Keys give way to new ones; nobody gets hold of more scopes than they may give."""

from datetime import datetime, timedelta

import pytest

from tenants import keys, projects, rotation
from tenants.access import RESTRICTED_RIGHTS, RIGHTS, Right, scopes_to_give
from tenants.models import ApiKey, AuditEntry, Role
from tests.conftest import MakeTenant

HOUR = timedelta(hours=1)


def works(key: str, now: datetime) -> bool:
    keys.cache.clear()
    try:
        keys.cache.verify(key, now=now)
    except keys.KeyRefused:
        return False
    return True


def test_both_keys_work_during_the_overlap_and_one_after_it(
    committed: None, make_tenant: MakeTenant, now: datetime
) -> None:
    acme = make_tenant()
    new, text = rotation.rotate(key=acme.key, overlap=HOUR, actor="test", now=now, created_by=acme.user)
    assert (new.project, new.name, new.scopes) == (acme.key.project, acme.key.name, acme.key.scopes)
    assert (new.expires_at, new.created_by) == (None, acme.user)
    assert works(acme.api_key, now + HOUR - timedelta(seconds=1))
    assert not works(acme.api_key, now + HOUR)
    assert works(text, now + HOUR)
    assert ApiKey.objects.get(pk=acme.key.pk).replaced_by == new
    entry = AuditEntry.objects.get(tenant=acme.tenant, action="key.rotated")
    assert (entry.subject, entry.detail["by"]) == (str(acme.key), str(new))
    assert text not in str(entry.detail)


def test_without_overlap_the_old_key_ends_at_once(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    rotation.rotate(key=acme.key, overlap=timedelta(0), actor="test", now=now)
    assert not works(acme.api_key, now)


def test_the_new_key_lives_as_long_as_the_old_was_meant_to(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    ends_at = acme.key.created_at + timedelta(days=30)
    ApiKey.objects.filter(pk=acme.key.pk).update(expires_at=ends_at)
    later = ends_at - timedelta(minutes=1)
    new, _ = rotation.rotate(key=acme.key, overlap=HOUR, actor="test", now=later)
    assert new.expires_at == later + timedelta(days=30)
    assert ApiKey.objects.get(pk=acme.key.pk).expires_at == ends_at, "an overlap never makes a key live longer"


def test_what_has_ended_is_not_rotated(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme, globex, hooli = make_tenant(), make_tenant("Globex"), make_tenant("Hooli")
    keys.revoke(key=acme.key, actor="test", now=now)
    ApiKey.objects.filter(pk=globex.key.pk).update(expires_at=now)
    rotation.rotate(key=hooli.key, overlap=HOUR, actor="test", now=now)
    for key, is_replaced in ((acme.key, False), (globex.key, False), (hooli.key, True)):
        with pytest.raises(rotation.KeyHasEnded) as refusal:
            rotation.rotate(key=key, overlap=HOUR, actor="test", now=now)
        assert refusal.value.is_replaced is is_replaced
    assert hooli.tenant.api_keys.count() == 2


def test_a_key_of_an_archived_project_is_not_rotated(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    projects.archive(project=acme.key.project, actor="test", now=now)
    with pytest.raises(keys.ProjectArchived):
        rotation.rotate(key=acme.key, overlap=HOUR, actor="test", now=now)


@pytest.mark.parametrize("overlap", [timedelta(seconds=-1), timedelta(days=7, seconds=1)])
def test_an_overlap_has_bounds(db: None, make_tenant: MakeTenant, now: datetime, overlap: timedelta) -> None:
    with pytest.raises(ValueError, match="7 days"):
        rotation.rotate(key=make_tenant().key, overlap=overlap, actor="test", now=now)


def test_nobody_gives_more_than_they_may(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    within = frozenset({"calls"})
    with pytest.raises(keys.ScopesBeyond, match="usage:read"):
        keys.issue(project=acme.key.project, name="x", actor="test", within=within)
    with pytest.raises(keys.ScopesBeyond):
        rotation.rotate(key=acme.key, overlap=HOUR, actor="test", now=now, within=within)
    assert acme.tenant.api_keys.count() == 1
    assert ApiKey.objects.get(pk=acme.key.pk).replaced_by is None


@pytest.mark.parametrize(
    ("role", "is_restricted", "missing"),
    [
        (Role.OWNER, False, set()),
        (Role.DEVELOPER, False, {"limits:write", "money:read", "audit:read"}),
        (Role.DEVELOPER, True, set(keys.SCOPES) - {"calls"}),
        (Role.BILLING, False, set(keys.SCOPES)),
        (Role.VIEWER, False, set(keys.SCOPES)),
    ],
)
def test_what_each_role_may_let_a_key_do(role: Role, is_restricted: bool, missing: set[str]) -> None:
    assert (
        set(keys.SCOPES) - scopes_to_give(RIGHTS[role] & (RESTRICTED_RIGHTS if is_restricted else frozenset(Right)))
        == missing
    )
