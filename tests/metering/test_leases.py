"""What a process keeps of a tenant between grants, and for how long."""

from dataclasses import replace

import pytest

from metering import engine
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
