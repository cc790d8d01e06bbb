"""`manage.py adjust`: the dry run in calls and money, and the correction."""

import io
import json
import re
import shlex
from typing import Any

import pytest
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError

from billing.onboarding import Onboarded
from metering import engine, invariants
from metering.models import Adjustment, Call, SetAside
from tests.conftest import ROOT, MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of
from tests.metering.test_recovery import entry

pytestmark = pytest.mark.usefixtures("committed")
WHY = ("--reason", "Served twice", "--actor", "olivia@meterhouse.example")


@pytest.fixture
def acme(make_tenant: MakeTenant) -> Onboarded:
    """Launch with 10 included calls and 15 used: the calls beyond are priced."""
    made = make_tenant(plan="launch", included=10, burst_per_second=10**6)
    attempt(caller_of(made.api_key), 15)
    engine.stop()
    return made


def adjust(tenant: Onboarded, *arguments: object) -> dict[str, Any]:
    out = io.StringIO()
    call_command("adjust", "--tenant", tenant.tenant.slug, *map(str, arguments), *WHY, "--json", stdout=out)
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


def call_id(tenant: Onboarded) -> Any:
    return Call.objects.filter(tenant=tenant.tenant)[0].id


def test_a_dry_run_says_units_and_money_and_writes_nothing(acme: Onboarded) -> None:
    said = adjust(acme, "--amend", call_id(acme), "--units", 10_001, "--dry-run")
    assert (said["applied"], said["units_before"], said["units_after"], said["currency"]) == (False, 15, 10_015, "usd")
    assert said["total_after_minor"] > said["total_before_minor"]
    assert not Adjustment.objects.filter(tenant=acme.tenant).exists()


def test_a_correction_that_is_sent_again_says_what_it_did(acme: Onboarded) -> None:
    first, second = (call.id for call in Call.objects.filter(tenant=acme.tenant)[:2])
    again = "01890000-0000-7000-8000-000000000002"
    assert adjust(acme, "--void", first, "--id", again)["units_after"] == 14
    assert adjust(acme, "--void", first, "--id", again) == {
        "id": again, "applied": True, "kind": "void", "calls": -1, "units": -1,
    }  # fmt: skip
    with pytest.raises(CommandError, match="another correction already"):
        adjust(acme, "--void", second, "--id", again)
    assert Adjustment.objects.filter(tenant=acme.tenant).count() == 1


def test_what_was_set_aside_is_priced_and_then_backfilled_or_dismissed(acme: Onboarded) -> None:
    for _ in range(2):
        engine.engine().record(entry(acme, status=10**9, units=5_000))
        engine.engine().flush()
    engine.stop()
    first, second = SetAside.objects.filter(tenant_id=acme.tenant.id)
    said = adjust(acme, "--set-aside", first.id, "--dry-run")
    (period,) = said["periods"]
    assert (said["applied"], said["backfilled"], period["calls_after"], period["units_after"]) == (False, 1, 16, 5_015)
    assert period["total_after_minor"] > period["total_before_minor"]
    assert adjust(acme, "--set-aside", first.id)["applied"]
    assert adjust(acme, "--dismiss", second.id)["backfilled"] == 0
    assert not SetAside.objects.filter(tenant_id=acme.tenant.id).exists()
    assert Adjustment.objects.get(tenant=acme.tenant).units == 5_000
    with pytest.raises(CommandError, match="nothing set aside"):
        adjust(acme, "--dismiss", second.id)


def test_a_void_and_a_backfill_are_applied_once_for_each_id(acme: Onboarded) -> None:
    voided = call_id(acme)
    first = adjust(acme, "--void", voided)
    assert (first["units_after"], first["applied"]) == (14, True)
    at = Call.objects.filter(tenant=acme.tenant)[0].occurred_at
    backfill = ("--backfill", "storage", "--key", acme.key.prefix, "--at", at.isoformat(), "--calls", 7)
    again = "01890000-0000-7000-8000-000000000001"
    assert adjust(acme, *backfill, "--id", again)["id"] == adjust(acme, *backfill, "--id", again)["id"] == again
    assert Adjustment.objects.filter(tenant=acme.tenant).count() == 2
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--amend", "CALL"), "--units"),
        (("--backfill", "storage", "--calls", "3"), "needs --calls, --key and --at"),
        (("--backfill", "storage", "--calls", "3", "--key", "nope", "--at", "2026-11-01"), "no API key 'nope'"),
        (("--void", "01890000-0000-7000-8000-000000000001"), "no call"),
        (("--set-aside", "01890000-0000-7000-8000-000000000001"), "nothing set aside"),
    ],
)
def test_a_mistake_is_named(acme: Onboarded, arguments: tuple[str, ...], message: str) -> None:
    given = [str(call_id(acme)) if argument == "CALL" else argument for argument in arguments]
    with pytest.raises(CommandError, match=message):
        adjust(acme, *given)


def test_every_command_of_the_page_on_corrections_is_understood() -> None:
    lines = re.findall(r"^uv run manage\.py (\w+) ?(.*)$", (ROOT / "docs" / "corrections.md").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == {"adjust", "rebuild_usage"}
    for name, arguments in lines:
        command = load_command_class(get_commands()[name], name)
        command.create_parser("manage.py", name).parse_args(shlex.split(arguments))


def test_an_unknown_tenant_is_named() -> None:
    with pytest.raises(CommandError, match="no tenant 'nobody'"):
        call_command("adjust", "--tenant", "nobody", "--void", "01890000-0000-7000-8000-000000000001", *WHY)
