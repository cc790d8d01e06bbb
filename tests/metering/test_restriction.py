"""A tenant that does not pay is refused with a problem of its own, at once in every process, and served again at once."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from metering import allowances, engine
from metering.models import Restriction
from tests.conftest import MakeTenant, wait_until
from tests.metering.ledger import books
from tests.metering.test_allowances import terms

pytestmark = pytest.mark.usefixtures("committed")
PATH = "/sandbox/v1/auth/session"


def test_a_restricted_tenant_is_told_to_pay_and_served_again_at_once(
    make_tenant: MakeTenant, call: Callable[..., Any]
) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    assert call(acme.api_key, PATH).status_code == 200
    restricted = terms(acme, restriction=Restriction.PAYMENT.value)
    allowances.push(tenant_id=acme.tenant.id, terms=restricted, now=timezone.now())
    refused = wait_until(
        lambda: answer if (answer := call(acme.api_key, PATH)).status_code != 200 else None, what="refusal"
    )
    assert refused.status_code == 402
    assert "Retry-After" not in refused.headers
    assert '"month";r=0' in refused.headers["RateLimit"]
    problem = refused.json()
    assert problem["type"].endswith("/problems/payment-required")
    assert problem["refused_by"] == "restriction"
    assert problem["pay"].endswith(f"/t/{acme.tenant.slug}/plan")
    assert call(acme.api_key, "/api/v1/usage").status_code == 200, "its numbers stay readable"
    allowances.push(tenant_id=acme.tenant.id, terms=terms(acme), now=timezone.now())
    wait_until(lambda: call(acme.api_key, PATH).status_code == 200, seconds=2, what="service")
    engine.stop()
    kept = books(acme.tenant.id)
    kept.assert_balanced()
    assert kept.rolled_up["refused"] >= 1


def test_a_period_that_opens_while_restricted_admits_nothing(make_tenant: MakeTenant, call: Callable[..., Any]) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    now = timezone.now()
    restricted = terms(acme, restriction=Restriction.PAYMENT.value, anchor=now - timedelta(days=40))
    allowances.push(tenant_id=acme.tenant.id, terms=restricted, now=now)
    assert call(acme.api_key, PATH).status_code == 402
