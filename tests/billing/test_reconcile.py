"""Reconciliation over a simulated Stripe: what agrees is silent, what does not is named, and an outage blames nobody."""

import io
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from django.urls import reverse

from billing import accounts, changes, consents, invariants, reconcile, reporting, stops
from billing.models import Account, Drift, ReportingStop, UsageReport
from config import doctor_stripe
from metering import adjustments
from metering.models import Call, Policy
from tenants.models import AuditEntry, User
from tests.billing.beats import (
    add_to_reports,
    add_to_stripe,
    add_to_usage_hours,
    beat,
    kinds,
    reconciled,
    settle,
)
from tests.billing.plan_story import METER, Story, simulated_stripe, subscribed
from tests.conftest import MakeTenant

State = UsageReport.State
HOURS = timedelta(hours=1)


@pytest.fixture
def story(settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    settings.BILLING = {**settings.BILLING, "REPORT_SENDERS": 1}
    with simulated_stripe(settings) as simulator:
        yield subscribed(simulator, make_tenant)


@pytest.fixture
def at_rest(story: Story) -> Story:
    """Twelve calls of some hours ago are in the ledger, in our reports and at Stripe."""
    story.record(7, at=story.now - 5 * HOURS)
    story.record(5, at=story.now - 3 * HOURS)
    settle(story)
    story.move(2 * HOURS)
    assert story.accepted == 12
    return story


def command(*arguments: str) -> tuple[int, str, str]:
    """`manage.py reconcile`: exit code, stdout, stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        call_command("reconcile", *arguments, stdout=out, stderr=err)
    except SystemExit as exit_:
        code = int(str(exit_.code))
    return code, out.getvalue(), err.getvalue()


def test_three_sides_that_agree_are_silent(at_rest: Story) -> None:
    result = reconciled(at_rest)
    assert (result.checked, kinds(result), result.unread) == (1, [], [])
    (drift,) = Drift.objects.filter(account=at_rest.account)
    assert (drift.kind, drift.ledger, drift.reported, drift.stripe, drift.invoiced) == ("", 12, 12, 12, None)
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)


def test_what_is_on_its_way_is_in_flight(at_rest: Story) -> None:
    at_rest.record(2)
    assert kinds(reconciled(at_rest)) == [("in_flight", 2, "")]  # the hour is not over
    at_rest.move(HOURS)
    at_rest.simulator.faults.add("drop_before", method="POST", path="/v1/billing/meter_events", count=2)
    beat(at_rest.now)
    assert kinds(reconciled(at_rest)) == [("in_flight", 2, "")]  # the answer was lost
    at_rest.move(5 * HOURS)
    assert kinds(reconciled(at_rest)) == [("in_flight", 2, "")]
    settle(at_rest)
    assert kinds(reconciled(at_rest)) == []


PLANTED: dict[str, Callable[[Story, int], None]] = {
    "ledger": lambda story, units: add_to_usage_hours(story, units, period_start=begun(story)),
    "reports": lambda story, units: add_to_reports(story, units, period_start=begun(story)),
    "stripe": lambda story, units: add_to_stripe(story, units, at=story.now - 4 * HOURS),
}  # fmt: skip


def begun(story: Story) -> Any:
    return story.account.period_start


@pytest.mark.parametrize("units", [1, -1])
@pytest.mark.parametrize("side", PLANTED)
def test_one_unit_in_one_side_is_found_and_named_and_reporting_stops(
    at_rest: Story, caplog: pytest.LogCaptureFixture, side: str, units: int
) -> None:
    PLANTED[side](at_rest, units)
    at_rest.move(2 * HOURS)
    result = reconciled(at_rest)
    expected = "duplicated" if (side, units) == ("stripe", 1) else "unexplained"
    assert kinds(result) == [(expected, units, side)]
    assert reconcile.is_stopped(at_rest.acme.tenant.pk)
    assert at_rest.acme.tenant.slug in caplog.text
    (drift,) = Drift.objects.filter(account=at_rest.account)
    assert (drift.kind, drift.units, bool(drift.mend)) == (expected, units, True)
    assert invariants.broken(tenant_id=at_rest.acme.tenant.pk)


def test_an_operator_releases_with_a_reason_and_the_same_is_not_said_again(at_rest: Story) -> None:
    add_to_stripe(at_rest, 1, at=at_rest.now - 4 * HOURS)
    reconciled(at_rest)
    about: dict[str, Any] = {"account": at_rest.account, "actor": "olivia@meterhouse.example", "now": at_rest.now}
    with pytest.raises(stops.SayWhy):
        reconcile.release(**about, reason=" ")
    assert reconcile.release(**about, reason="A test event of ours.")
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)
    entry = AuditEntry.objects.get(tenant=at_rest.acme.tenant, action="reporting.released")
    assert (entry.actor, entry.detail["reason"]) == ("olivia@meterhouse.example", "A test event of ours.")
    again = reconciled(at_rest)
    assert again.of(Drift.Kind.DUPLICATED) == []
    assert [one.acknowledged_by for one in again.acknowledged] == ["olivia@meterhouse.example"]
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)
    assert not invariants.broken(tenant_id=at_rest.acme.tenant.pk)
    add_to_stripe(at_rest, 1, at=at_rest.now - 4 * HOURS)  # another one
    assert kinds(reconciled(at_rest)) == [("duplicated", 2, "stripe")]
    assert reconcile.is_stopped(at_rest.acme.tenant.pk)
    assert ReportingStop.objects.filter(account=at_rest.account).count() == 2


def test_a_rejected_report_is_rejected_until_its_units_are_carried_anew(at_rest: Story) -> None:
    at_rest.record(3, at=at_rest.now - 3 * HOURS)
    at_rest.simulator.faults.add("reject", event=METER)
    beat(at_rest.now)
    lost = UsageReport.objects.filter(account=at_rest.account).latest("created_at")
    UsageReport.objects.filter(pk=lost.pk).update(state=State.REJECTED, error="meter_event_customer_not_found")
    assert kinds(reconciled(at_rest)) == [("rejected", 3, "")]
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)


def test_a_correction_that_waits_stops_nobody(at_rest: Story) -> None:
    call = Call.objects.filter(tenant=at_rest.acme.tenant)[0]
    change = adjustments.planned_void(tenant=at_rest.acme.tenant, call_id=call.id)
    adjustments.apply(change, actor="test", reason="twice")
    (one,) = reconciled(at_rest).found
    assert (one.difference.units, one.difference.stops) == (-1, False)
    assert not invariants.broken(tenant_id=at_rest.acme.tenant.pk).get(invariants.I1)
    settle(at_rest)
    at_rest.move(HOURS)
    assert kinds(reconciled(at_rest)) == []


def test_calls_that_are_held_back_are_in_flight_however_old(at_rest: Story) -> None:
    offered = consents.offer(account=at_rest.account, now=at_rest.now)
    assert offered is not None
    consents.give(account=at_rest.account, offered=offered, fallback=Policy.RATE, actor="owner", now=at_rest.now)
    at_rest.record(4, at=at_rest.now - 2 * HOURS)
    settle(at_rest)
    at_rest.move(5 * HOURS)
    assert reporting.held_from(account=at_rest.account, now=at_rest.now)
    assert [kind for kind, _, _ in kinds(reconciled(at_rest))] == ["in_flight"]
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)


def test_a_change_of_plan_makes_two_periods_that_both_agree(at_rest: Story) -> None:
    scale = accounts.public_version(plan_code="scale")
    change = changes.request(account=at_rest.account, version=scale, actor="owner", now=at_rest.now)
    assert change.cut_at is not None
    at_rest.record(4, at=change.cut_at)
    at_rest.move(timedelta(minutes=5))
    assert at_rest.advance().state == "applied"
    at_rest.record(5)
    at_rest.move(HOURS)
    settle(at_rest)
    at_rest.move(2 * HOURS)
    result = reconciled(at_rest)
    assert (result.checked, kinds(result)) == (2, [])
    sides = {drift.stripe: drift.invoiced for drift in Drift.objects.filter(account=at_rest.account)}
    assert sides == {12: 12, 9: None}


def test_nothing_is_judged_while_stripe_is_away(at_rest: Story, settings: Any) -> None:
    add_to_usage_hours(at_rest, 1, period_start=begun(at_rest))
    settings.STRIPE_API_BASE = "http://127.0.0.1:1"
    code, said, why = command("--tenant", at_rest.acme.tenant.slug, "--json")
    answer = json.loads(said.splitlines()[-1])
    assert (code, answer["checked"], answer["unexplained"], len(answer["unread"])) == (0, 0, [], 1)
    assert "cannot be reached" in why
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)
    assert not Drift.objects.filter(account=at_rest.account).exists()


def test_the_command_answers_with_one_json_object(at_rest: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: at_rest.now)
    slug = at_rest.acme.tenant.slug
    code, said, _ = command("--tenant", slug, "--json")
    empty: dict[str, object] = {name: [] for name in ("in_flight", "late", "rejected", "duplicated", "unexplained")}
    assert (code, json.loads(said.splitlines()[-1])) == (0, {"checked": 1, **empty})
    add_to_stripe(at_rest, -1, at=at_rest.now - 4 * HOURS)
    code, said, _ = command("--tenant", str(at_rest.acme.tenant.pk), "--json")
    (one,) = json.loads(said.splitlines()[-1])["unexplained"]
    assert (code, one["tenant"], one["side"], one["ledger"], one["stripe"]) == (1, slug, "stripe", 12, 11)
    code, said, _ = command("--tenant", slug)
    assert code == 1
    for word in (slug, "unexplained", "mend:", "Stripe shows 1 less"):
        assert word in said
    with pytest.raises(CommandError) as refusal:
        command("--tenant", "nobody")
    assert refusal.value.returncode == 2


def test_who_is_not_billed_by_stripe_is_not_asked_about(story: Story, make_tenant: MakeTenant) -> None:
    globex = make_tenant("Globex")
    Account.objects.filter(pk=globex.tenant.pk).update(customer_id="cus_without_subscription")
    assert reconcile.run(now=story.now, tenant=globex.tenant).checked == 0


def test_one_tenants_error_is_no_other_tenants(at_rest: Story, make_tenant: MakeTenant) -> None:
    other = subscribed(at_rest.simulator, make_tenant, since=timedelta(minutes=1))
    add_to_stripe(at_rest, 1, at=at_rest.now - 4 * HOURS)
    result = reconcile.run(now=at_rest.now)
    assert kinds(result) == [("duplicated", 1, "stripe")]
    assert [one.tenant for one in result.found] == [at_rest.acme.tenant]
    assert (reconcile.is_stopped(at_rest.acme.tenant.pk), reconcile.is_stopped(other.acme.tenant.pk)) == (True, False)
    assert stops.stopped_ids() >= {at_rest.acme.tenant.pk}


def test_the_invariants_stop_who_was_told_too_much(at_rest: Story) -> None:
    assert not invariants.broken(tenant_id=at_rest.acme.tenant.pk)
    add_to_reports(at_rest, 1, period_start=begun(at_rest))
    assert [*invariants.broken(tenant_id=at_rest.acme.tenant.pk)] == [invariants.I1]
    assert invariants.enforce(now=at_rest.now) == 1
    assert invariants.enforce(now=at_rest.now) == 0
    assert reconcile.is_stopped(at_rest.acme.tenant.pk)


# -- The operators' pages ------------------------------------------------------------------------------------------------
DRIFTS = reverse("admin:billing_drift_changelist")


def signed_in(**rights: Any) -> Client:
    client = Client()
    client.force_login(User.objects.create_user(f"olivia-{uuid.uuid4().hex}@meterhouse.example", **rights))
    return client


def act(client: Client, drift: Drift, action: str, **fields: str) -> Any:
    return client.post(DRIFTS, {"action": action, "_selected_action": [drift.pk], **fields}, follow=True)


def test_operators_read_explain_and_release(at_rest: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    add_to_stripe(at_rest, 1, at=at_rest.now - 4 * HOURS)
    reconciled(at_rest)
    drift = Drift.objects.get(account=at_rest.account)
    operator = signed_in(is_staff=True, is_superuser=True)
    monkeypatch.setattr("django.utils.timezone.now", lambda: at_rest.now)
    assert "1 periods read, 1 differences." in act(operator, drift, "read_again").content.decode()
    shown = act(operator, drift, "explain").content.decode()
    for words in ("Stripe has 1 more than we reported", "usage reports", "its changes of plan", drift.mend[:40]):
        assert words in shown
    assert operator.get(reverse("admin:billing_drift_change", args=[drift.pk]), follow=True).status_code == 200
    assert "a release needs a reason" in act(operator, drift, "release").content.decode()
    assert reconcile.is_stopped(at_rest.acme.tenant.pk)
    assert "released" in act(operator, drift, "release", reason="A test event of ours.").content.decode()
    assert not reconcile.is_stopped(at_rest.acme.tenant.pk)


def test_who_may_only_look_and_who_is_a_customer_releases_nothing(at_rest: Story, make_tenant: MakeTenant) -> None:
    add_to_stripe(at_rest, 1, at=at_rest.now - 4 * HOURS)
    reconciled(at_rest)
    drift = Drift.objects.get(account=at_rest.account)
    looker = signed_in(is_staff=True)
    User.objects.latest("date_joined").user_permissions.add(Permission.objects.get(codename="view_drift"))
    initech = Client()
    initech.force_login(make_tenant("Initech").user)
    for client in (looker, initech):
        act(client, drift, "release", reason="please")
        act(client, drift, "read_again")
    assert at_rest.acme.tenant.name not in initech.get(DRIFTS, follow=True).content.decode()
    assert reconcile.is_stopped(at_rest.acme.tenant.pk)


def test_doctor_names_who_is_stopped_and_what_does_not_agree(at_rest: Story) -> None:
    add_to_stripe(at_rest, 1, at=at_rest.now - 4 * HOURS)
    reconciled(at_rest)
    (found,) = [one for one in doctor_stripe.in_database(now=at_rest.now) if one.name == "Reconciliation"]
    assert (found.grade, at_rest.acme.tenant.slug in found.detail) == ("problem", True)
    assert "reporting is stopped for" in found.detail
    assert doctor_stripe.reconciliation(stopped=[], broken=[]).grade == "ok"
