"""What a process keeps of a tenant between grants, and for how long."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from django.utils import timezone
from pytest_django import Settings

from metering import allowances, engine
from metering.holdings import Refused
from metering.models import Allowance, Policy
from tests.conftest import MakeTenant

pytestmark = pytest.mark.usefixtures("committed")


def test_bounds_are_kept_while_nothing_of_them_changes(make_tenant: MakeTenant) -> None:
    acme, meter = make_tenant(), engine.Engine()
    meter._tend()
    known = meter.leases.admit(acme.tenant.id).bounds
    assert known == replace(known, policy_text="made for the first answer")
    assert known != replace(known, burst_per_second=known.burst_per_second + 1)
    meter.flush(everything=True)
    assert meter.leases.admit(acme.tenant.id).bounds is known
    meter.flush(everything=True)
    meter.database.close()


def with_a_lease(tenant_id: UUID) -> engine.Engine:
    """A process that has units of the tenant to spare."""
    meter = engine.Engine()
    meter._tend()
    while (lease := meter.holding(tenant_id).whole.lease) is None or lease.left < 3:
        meter.leases.admit(tenant_id)
    return meter


def test_a_change_that_was_missed_is_noticed_when_the_lease_is_old(make_tenant: MakeTenant, settings: Settings) -> None:
    settings.METERING = {**settings.METERING, "IDLE_SECONDS": 60.0}
    acme = make_tenant(included=10**6)
    meter = with_a_lease(acme.tenant.id)
    slot, now = meter.holding(acme.tenant.id).whole, timezone.now()
    nothing_more = allowances.Terms("Free", 0, None, Policy.BLOCK, 50, acme.tenant.allowance.anchor)
    allowances.push(tenant_id=acme.tenant.id, terms=nothing_more, now=now)
    # A transaction that stayed open for a minute: when it is seen, it lies further back than anybody looks.
    Allowance.objects.filter(tenant=acme.tenant).update(changed_at=now - timedelta(minutes=1))
    meter._renewed_at = float("-inf")
    meter._tend()
    slot.granted_at -= settings.METERING["LEASE_SECONDS"] / 2
    meter.flush()
    meter.leases.admit(acme.tenant.id)
    slot.granted_at -= settings.METERING["LEASE_SECONDS"] / 2
    meter.flush()
    with pytest.raises(Refused):
        meter.leases.admit(acme.tenant.id)
    meter.database.close()


def test_old_leases_serve_on_while_postgresql_is_away(make_tenant: MakeTenant, settings: Settings) -> None:
    settings.METERING = {**settings.METERING, "IDLE_SECONDS": 60.0}
    acme = make_tenant(included=10**6)
    meter = with_a_lease(acme.tenant.id)
    slot = meter.holding(acme.tenant.id).whole
    slot.granted_at -= settings.METERING["LEASE_SECONDS"]
    lease = slot.lease
    assert lease is not None
    left = lease.left
    assert meter.leases.take_returns(is_reachable=False) == {}
    assert slot.lease is lease
    assert meter.leases.take_returns() == {(acme.tenant.id, lease.id): left}
    assert slot.lease is None
    meter.database.close()
