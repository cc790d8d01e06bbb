import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tenants.models import Tenant, User


def create(*arguments: str) -> Any:
    out = StringIO()
    call_command("create_tenant", "--name", "Acme", "--email", "Owner@Acme.example", "--json", *arguments, stdout=out)
    return json.loads(out.getvalue())


def test_a_tenant_can_sign_in_and_call(db: None) -> None:
    made = create("--plan", "free", "--included", "500", "--overage", "block", "--burst", "100000")
    assert set(made) == {"id", "slug", "plan", "email", "password", "api_key"}
    assert User.objects.get(email="owner@acme.example").check_password(made["password"])
    allowance = Tenant.objects.get(pk=made["id"]).allowance
    assert (allowance.included, allowance.policy, allowance.burst_per_second) == (500, "block", 100_000)


def test_a_second_tenant_of_the_same_person_keeps_the_password(db: None) -> None:
    first, second = create("--plan", "free"), create("--plan", "launch")
    assert second["password"] is None
    assert second["slug"] != first["slug"]
    assert User.objects.get(email=first["email"]).memberships.count() == 2


@pytest.mark.parametrize("value", ["unlimited", "1000000000000", "0"])
def test_generous_limits_are_accepted(db: None, value: str) -> None:
    made = create("--plan", "enterprise", "--included", value, "--burst", "10000000")
    assert str(Tenant.objects.get(pk=made["id"]).allowance.included) == {"unlimited": "None"}.get(value, value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "gold"], "There is no plan 'gold'. Plans: free, launch, scale, enterprise."),
        (["--plan", "free", "--included", "-1"], "'-1' is not a whole number from 0"),
        (["--plan", "free", "--included", "1000000000001"], "is not a whole number from 0 to 1,000,000,000,000"),
        (["--plan", "free", "--included", "many"], "or 'unlimited'"),
        (["--plan", "free", "--hard-limit", "1.5"], "'1.5' is not a whole number"),
        (["--plan", "free", "--burst", "0"], "'0' is not a whole number from 1"),
        (["--plan", "free", "--burst", "10000001"], "from 1 to 10,000,000"),
        (["--plan", "free", "--overage", "explode"], "invalid choice"),
        (["--plan", "free", "--email", "nobody"], "valid email"),
        (["--plan", "free", "--name", "  "], "--name is empty"),
        (["--plan", "free", "--name", "a" * 121], "at most 120 characters"),
        (["--plan", "free", "--name", "\udcff\udcfe"], "readable text"),
    ],
)
def test_bad_input_is_named_and_creates_nothing(db: None, arguments: list[str], message: str) -> None:
    before = Tenant.objects.count(), User.objects.count()
    with pytest.raises(CommandError) as refused:
        create(*arguments)
    assert message in str(refused.value)
    assert (Tenant.objects.count(), User.objects.count()) == before
