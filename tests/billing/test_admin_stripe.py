"""Operators' pages about Stripe: the inbox and its replay, accounts that pay by subscription, prices that are typed."""

import io
import json
import re
import shlex
import uuid
from datetime import datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing import accounts
from billing.models import Account, PlanVersion, StripeEvent
from billing.onboarding import Onboarded
from metering.models import Allowance
from tenants.models import AuditEntry, Notice, User
from tests.conftest import ROOT, MakeTenant

EVENTS = reverse("admin:billing_stripeevent_changelist")


@pytest.fixture
def olivia(db: None) -> User:
    return User.objects.create_superuser(f"olivia-{uuid.uuid4().hex}@meterhouse.example")


@pytest.fixture
def operator(olivia: User) -> Client:
    client = Client()
    client.force_login(olivia)
    return client


@pytest.fixture
def acme(db: None, make_tenant: MakeTenant) -> Onboarded:
    """A tenant that Stripe knows as a customer."""
    made = make_tenant(plan="launch")
    made.account.customer_id = f"cus_{uuid.uuid4().hex}"
    made.account.save()
    return made


def event(customer_id: str = "", **values: Any) -> StripeEvent:
    """An event of no meaning here unless another type is said: handling it asks nobody."""
    about = {"id": "ba_1", "object": "balance", "customer": customer_id}
    row = {
        "kind": "snapshot", "type": "balance.available", "is_live": False, "created_at": datetime.fromisoformat("2026-11-01T00Z"),
        "customer_id": customer_id, "state": "failed", "attempts": 12, "error": "RuntimeError: gone",
        "body": {"data": {"object": about}},
    }  # fmt: skip
    return StripeEvent.objects.create(id=f"evt_{uuid.uuid4().hex}", **{**row, **values})


def replay(client: Client, *events: StripeEvent, follow: bool = True) -> Any:
    fields = {"action": "replay", "_selected_action": [one.pk for one in events]}
    return client.post(f"{EVENTS}?when=all", fields, follow=follow)


def audited(row: StripeEvent) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(action="stripe_event.replayed", subject=row.pk))


def test_a_replay_handles_the_event_and_is_on_record(operator: Client, olivia: User, acme: Onboarded) -> None:
    failed, other = event(str(acme.account.customer_id)), event()
    said = replay(operator, failed)
    assert "Replayed: 1." in said.content.decode()
    failed.refresh_from_db()
    assert (failed.state, failed.attempts, failed.error) == ("ignored", 1, "")
    (entry,) = audited(failed)
    assert (entry.actor, entry.tenant, entry.detail["before"]) == (olivia.email, acme.tenant, "failed")
    other.refresh_from_db()
    assert (other.state, audited(other)) == ("failed", [])


def test_nothing_in_the_inbox_is_changed_or_deleted_by_hand(operator: Client) -> None:
    failed = event()
    for name in ("change", "delete"):
        address = reverse(f"admin:billing_stripeevent_{name}", args=[failed.pk])
        assert operator.post(address, {"post": "yes"}).status_code == 403
    operator.post(EVENTS, {"action": "delete_selected", "_selected_action": [failed.pk], "post": "yes"})
    failed.refresh_from_db()
    assert failed.state == "failed"


def test_who_may_only_look_cannot_replay(acme: Onboarded, make_tenant: MakeTenant) -> None:
    failed = event()
    looker = User.objects.create_user(f"lou-{uuid.uuid4().hex}@meterhouse.example", is_staff=True)
    looker.user_permissions.add(Permission.objects.get(codename="view_stripeevent"))
    for user, status in ((looker, 403), (acme.user, 302), (make_tenant("Initech").user, 302)):
        client = Client()
        client.force_login(user)
        assert replay(client, failed, follow=False).status_code == status
    failed.refresh_from_db()
    assert (failed.state, audited(failed)) == ("failed", [])


def test_the_inbox_says_whose_event_it_is_with_one_query(
    operator: Client, acme: Onboarded, make_tenant: MakeTenant
) -> None:
    event(str(acme.account.customer_id), state="received")
    event("cus_of_nobody")
    with CaptureQueriesContext(connection) as one:
        text = operator.get(EVENTS).content.decode()
    assert acme.tenant.name in text
    for _ in range(3):
        globex = make_tenant("Globex")
        Account.objects.filter(pk=globex.account.pk).update(customer_id=f"cus_{uuid.uuid4().hex}")
        globex.account.refresh_from_db()
        event(str(globex.account.customer_id))
    with CaptureQueriesContext(connection) as many:
        assert "Globex" in operator.get(EVENTS).content.decode()
    assert len(many) <= len(one)


def test_events_are_found_by_state_customer_type_and_id(operator: Client, acme: Onboarded) -> None:
    mine = event(str(acme.account.customer_id), type="invoice.paid", state="handled", error="")
    event(type="invoice.created", state="handled", error="")

    def found(**query: str) -> set[str]:
        return {row.pk for row in operator.get(EVENTS, query).context["cl"].result_list}

    assert found(q=mine.pk) == found(q=str(mine.customer_id)) == found(q="invoice.paid") == {mine.pk}
    assert mine.pk in found(state__exact="handled")
    assert mine.pk not in found(state__exact="failed")
    shown = operator.get(reverse("admin:billing_stripeevent_change", args=[mine.pk])).content.decode()
    assert "&quot;object&quot;: &quot;balance&quot;" in shown
    assert acme.tenant.name in shown


# -- by command --------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    call_command("replay_stripe_events", *arguments, "--actor", "olivia@meterhouse.example", "--json", stdout=out)
    said: dict[str, Any] = json.loads(out.getvalue())
    return said


def test_the_command_replays_what_failed_or_what_is_named(acme: Onboarded) -> None:
    failed, done = event(str(acme.account.customer_id)), event(state="handled", error="")
    assert command("--dry-run")["events"] == [failed.pk]
    assert audited(failed) == []
    assert command() == {"found": 1, "replayed": 1, "events": [failed.pk]}
    assert command()["found"] == 0
    assert command(done.pk)["replayed"] == 1
    assert audited(done)[0].actor == "olivia@meterhouse.example"


def test_the_command_chooses_by_type_and_time(db: None) -> None:
    paid, created = (
        event(type="balance.available"),
        event(type="payout.paid", received_at=datetime.fromisoformat("2026-11-02T00Z")),
    )
    assert command("--type", "payout.", "--dry-run")["events"] == [created.pk]
    assert command("--since", "2026-11-03", "--dry-run")["events"] == [paid.pk]


def test_the_command_names_what_it_does_not_find(db: None) -> None:
    with pytest.raises(CommandError, match="evt_nowhere"):
        command("evt_nowhere")


# -- accounts and plans ------------------------------------------------------------------------------------------------


def account_page(acme: Onboarded) -> str:
    return reverse("admin:billing_account_change", args=[acme.tenant.pk])


def test_the_plan_of_a_subscriber_is_stripes_to_say(operator: Client, acme: Onboarded) -> None:
    Account.objects.filter(pk=acme.tenant.pk).update(state="active", subscription_id=f"sub_{uuid.uuid4().hex}")
    scale = accounts.public_version(plan_code="scale")
    answer = operator.post(account_page(acme), {"plan_version": scale.pk, "hard_limit": "", "reason": "By phone"})
    assert "pays by subscription" in str(answer.context["adminform"].form.errors)
    acme.account.refresh_from_db()
    assert acme.account.plan_version.plan.code == "launch"


def test_a_hard_limit_in_money_is_enforced_in_calls(operator: Client, acme: Onboarded) -> None:
    fields = {
        "plan_version": acme.account.plan_version_id,
        "hard_limit": "",
        "hard_limit_minor": 2_500,
        "reason": "Ticket",
    }
    assert operator.post(account_page(acme), fields).status_code == 302
    assert Allowance.objects.get(tenant=acme.tenant).hard_limit == 200_019  # included, and 100,019 at 0.025: 2,500.475


def test_money_is_no_limit_where_calls_have_no_price(operator: Client, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex")
    fields = {"plan_version": globex.account.plan_version_id, "hard_limit_minor": 5, "reason": "Ticket"}
    answer = operator.post(account_page(globex), fields)
    assert "only a limit in calls" in str(answer.context["adminform"].form.errors)


@pytest.fixture
def terms(acme: Onboarded) -> dict[str, Any]:
    source = acme.account.plan_version
    names = (
        "currency",
        "fee_minor",
        "included",
        "policy",
        "burst_per_second",
        "support",
        "minimum_minor",
        "trial_days",
    )
    return {
        **{name: getattr(source, name) for name in names}, "plan": source.plan_id, "tenant": acme.tenant.pk, "number": 901,
        "unit_price_minor": "0.025",
    }  # fmt: skip


def test_steps_are_typed_and_tried(operator: Client, acme: Onboarded, terms: dict[str, Any]) -> None:
    add = reverse("admin:billing_planversion_add")
    steps = [{"up_to": 1_000, "unit_price_minor": "0.02"}, {"up_to": None, "unit_price_minor": "0.01"}]
    for wrong in ('[{"up_to": 5}]', '["x"]', '{"a": 1}', '[{"up_to": null, "unit_price_minor": "cheap"}]'):
        answer = operator.post(add, {**terms, "steps": wrong, "currency_options": "{}"})
        assert answer.status_code == 200, wrong
        assert "cannot be read" in str(answer.context["adminform"].form.errors), wrong
    answer = operator.post(add, {**terms, "steps": json.dumps(steps), "currency_options": ""})
    assert answer.status_code == 302
    made = PlanVersion.objects.get(tenant=acme.tenant, number=901)
    assert (made.steps, made.currency_options) == (steps, {})


def test_notices_show_what_the_customer_was_told(operator: Client, acme: Onboarded) -> None:
    Notice.objects.create(
        tenant=acme.tenant, kind="payment.failed", key="in_77", title="A payment has failed", text="Look."
    )
    listed = operator.get(reverse("admin:tenants_notice_changelist"), {"q": "in_77"})
    assert [row.tenant for row in listed.context["cl"].result_list] == [acme.tenant]


def test_every_command_of_the_page_on_webhooks_is_understood() -> None:
    lines = re.findall(r"^uv run manage\.py (\w+) ?(.*)$", (ROOT / "docs" / "webhooks.md").read_text(), re.MULTILINE)
    assert {name for name, _ in lines} == {"replay_stripe_events"}
    for name, arguments in lines:
        load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args(
            shlex.split(arguments)
        )
