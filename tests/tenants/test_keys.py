from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, connection
from hypothesis import given
from hypothesis import strategies as st

from tenants import keys
from tenants.models import ApiKey, AuditEntry
from tests.conftest import MakeTenant


def test_a_key_has_the_promised_shape(committed: None, make_tenant: MakeTenant) -> None:
    key = make_tenant().api_key
    assert key.startswith("mh_live_")
    assert keys.is_well_formed(key)
    assert len(keys.ALPHABET) ** keys.SECRET_LENGTH >= 2**190


@given(st.text())
def test_other_texts_are_not_keys(text: str) -> None:
    assert not keys.is_well_formed(text)


def test_one_wrong_letter_is_noticed_without_asking(committed: None, make_tenant: MakeTenant) -> None:
    key = make_tenant().api_key
    for place in range(8, len(key)):
        if key[place] != "_":
            other = "a" if key[place] != "a" else "b"
            assert not keys.is_well_formed(key[:place] + other + key[place + 1 :])


def test_the_database_holds_neither_key_nor_secret(committed: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    secret = acme.api_key.split("_")[3]
    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(k)::text FROM tenants_apikey k WHERE id = %s", [acme.key.id])
        (row,) = cursor.fetchone()
        cursor.execute(
            "SELECT string_agg(row_to_json(a)::text, '') FROM tenants_auditentry a WHERE tenant_id = %s",
            [acme.tenant.id],
        )
        (audit,) = cursor.fetchone()
    for place in range(len(secret) - 8):
        assert secret[place : place + 9] not in row + audit


def test_a_key_speaks_for_its_project(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    caller = keys.cache.verify(acme.api_key, now=now)
    assert (caller.tenant_id, caller.project_id, caller.key_id) == (acme.tenant.id, acme.key.project_id, acme.key.id)


def test_last_used_is_noted_once_a_minute(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()

    def used_after(seconds: int) -> datetime | None:
        keys.cache.clear()
        keys.cache.verify(acme.api_key, now=now + timedelta(seconds=seconds))
        return ApiKey.objects.get(pk=acme.key.pk).last_used_at

    assert [used_after(seconds) for seconds in (0, 30, 90)] == [now, now, now + timedelta(seconds=90)]


def test_expired_revoked_and_unknown_keys_are_refused(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    ApiKey.objects.filter(pk=acme.key.pk).update(expires_at=now)
    assert keys.revoke(key=globex.key, actor="test", now=now)
    unknown = "mh_live_" + "0" * 12 + "_" + "0" * 32 + keys.checksum("0" * 44)
    for key in (acme.api_key, globex.api_key, unknown):
        with pytest.raises(keys.KeyRefused):
            keys.cache.verify(key, now=now)


def test_a_key_expires_while_it_is_in_the_cache(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    ApiKey.objects.filter(pk=acme.key.pk).update(expires_at=now + timedelta(microseconds=5))
    keys.cache.verify(acme.api_key, now=now)
    with pytest.raises(keys.KeyRefused):
        keys.cache.verify(acme.api_key, now=now + timedelta(microseconds=5))


def test_another_secret_under_a_known_id_is_refused(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    public_id = make_tenant().api_key.split("_")[2]
    forged = f"mh_live_{public_id}_{'1' * 32}{keys.checksum(public_id + '1' * 32)}"
    assert keys.is_well_formed(forged)
    with pytest.raises(keys.KeyRefused):
        keys.cache.verify(forged, now=now)


def test_revoking_twice_is_noted_once(committed: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    assert [keys.revoke(key=acme.key, actor="test", now=now) for _ in range(2)] == [True, False]
    assert AuditEntry.objects.filter(tenant=acme.tenant, action="key.revoked").count() == 1


class Away:
    """The part of a database connection that the cache uses, while PostgreSQL is unreachable."""

    def cursor(self) -> None:
        raise OperationalError("connection refused")


def test_a_verified_key_outlives_an_outage_for_five_minutes_and_no_longer(
    committed: None, make_tenant: MakeTenant, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    cache = keys.KeyCache()
    seconds = 1000.0
    monkeypatch.setattr("tenants.keys.time.monotonic", lambda: seconds)
    cache.verify(acme.api_key, now=now)
    monkeypatch.setattr(keys, "connection", Away())
    seconds += 299
    assert cache.verify(acme.api_key, now=now).tenant_id == acme.tenant.id
    with pytest.raises(keys.KeysUnavailable):
        cache.verify(globex.api_key, now=now)
    seconds += 2
    with pytest.raises(keys.KeysUnavailable):
        cache.verify(acme.api_key, now=now)


def test_a_steady_stream_of_unknown_keys_does_not_prolong_an_outage(
    committed: None, make_tenant: MakeTenant, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = make_tenant()
    cache = keys.KeyCache()
    seconds = 1000.0
    monkeypatch.setattr("tenants.keys.time.monotonic", lambda: seconds)
    with monkeypatch.context() as away:
        away.setattr(keys, "connection", Away())
        with pytest.raises(keys.KeysUnavailable):
            cache.verify(acme.api_key, now=now)
    for _ in range(4):
        seconds += 0.1
        with pytest.raises(keys.KeysUnavailable):
            cache.verify(acme.api_key, now=now)
    seconds += 0.2
    assert cache.verify(acme.api_key, now=now).tenant_id == acme.tenant.id


def test_a_hot_key_needs_no_sql_and_a_cold_one_a_single_statement(
    committed: None, make_tenant: MakeTenant, now: datetime, django_assert_num_queries: object
) -> None:
    acme = make_tenant()
    with django_assert_num_queries(1):  # type: ignore[operator]
        keys.cache.verify(acme.api_key, now=now)
        keys.cache.verify(acme.api_key, now=now)


def test_unknown_scopes_are_refused(committed: None, make_tenant: MakeTenant) -> None:
    with pytest.raises(ValueError, match="Unknown scope: admin"):
        keys.issue(project=make_tenant().key.project, name="x", actor="test", scopes=frozenset({"admin"}))


def test_a_key_without_the_scope_gets_403(committed: None, make_tenant: MakeTenant, call: object) -> None:
    acme = make_tenant()
    _, key = keys.issue(project=acme.key.project, name="reader", actor="test", scopes=frozenset({"usage:read"}))
    assert call(key, "/api/v1/usage").status_code == 200  # type: ignore[operator]
    refused = call(key, "/sandbox/v1/auth/session")  # type: ignore[operator]
    assert (refused.status_code, refused.json()["detail"]) == (403, "This key lacks the scope 'calls'.")


def test_times_are_utc(committed: None, make_tenant: MakeTenant) -> None:
    assert make_tenant().key.created_at.tzinfo is UTC
