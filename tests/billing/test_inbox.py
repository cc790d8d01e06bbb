"""The inbox: an event leads to what Stripe says now, once, and what fails comes right by itself."""

import threading
import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from pytest_django import Settings

from billing import inbox, payment_mails, reactions, rejections, stripe_api
from billing.models import Account, PaymentState, StripeEvent, UsageReport
from tenants.models import AuditEntry, Notice
from tests.billing.conftest import Stripe, Subscribe
from tests.billing.test_webhooks import new_id, snapshot, thin
from tests.conftest import ROOT, MakeTenant

State = StripeEvent.State
MINUTE = timedelta(minutes=1)


def put(body: dict[str, Any], now: datetime, kind: StripeEvent.Kind = StripeEvent.Kind.SNAPSHOT) -> str:
    """The event is in the inbox as if it had just been delivered."""
    assert inbox.store(kind=kind, body=body, now=now)
    return str(body["id"])


def about(customer_id: str, event_type: str = "customer.subscription.updated", **about: Any) -> dict[str, Any]:
    return snapshot(
        type=event_type, data={"object": {"id": "sub_1", "object": "subscription", "customer": customer_id, **about}}
    )


def latest(stripe: Stripe, event_type: str, customer_id: str) -> dict[str, Any]:
    """The newest event of this type about this customer, as Stripe would deliver it."""
    found = [event for event in stripe.simulator.events if event["type"] == event_type]
    mine = [event for event in found if customer_id in str(event["data"])]
    body: dict[str, Any] = mine[-1]
    return body


def told(account: Account) -> list[str]:
    return sorted(
        Notice.objects.filter(tenant=account.tenant, kind__startswith="payment.").values_list("kind", flat=True)
    )


# -- one event ---------------------------------------------------------------------------------------------------------


def test_an_event_leads_to_what_stripe_says_now(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe("launch")
    stripe.client.v1.subscriptions.update(str(account.subscription_id), {"cancel_at_period_end": True})
    event_id = put(about(str(account.customer_id), cancel_at_period_end=False), stripe.now)
    inbox.handle(event_id=event_id, now=stripe.now)
    event = StripeEvent.objects.get(pk=event_id)
    assert (event.state, event.attempts, event.error) == (State.HANDLED, 1, "")
    account.refresh_from_db()
    assert account.cancels_at == account.period_end


def test_it_is_handled_once(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe("launch")
    event_id = put(about(str(account.customer_id)), stripe.now)
    inbox.handle(event_id=event_id, now=stripe.now)
    asked = len(stripe.simulator.requests)
    inbox.handle(event_id=event_id, now=stripe.now + timedelta(hours=1))
    assert inbox.handle_due(now=stripe.now + timedelta(days=1)) == 0
    assert len(stripe.simulator.requests) == asked


def test_32_workers_at_one_event_have_one_effect(committed: None, stripe: Stripe, make_tenant: MakeTenant) -> None:
    acme, gate = make_tenant(), threading.Barrier(32)
    customer_id = stripe.customer_of(acme.account)
    stripe.client.v1.customers.delete(customer_id)  # nothing to follow: the question is who asks
    event_id, now = put(about(customer_id), stripe.now), stripe.now
    asked = len(stripe.simulator.requests)

    def run() -> None:
        try:
            gate.wait()
            inbox.handle(event_id=event_id, now=now)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    event = StripeEvent.objects.get(pk=event_id)
    assert (event.state, event.attempts) == (State.HANDLED, 1)
    requests = stripe.simulator.requests
    paths = [line.path.partition("?")[0] for line in requests[: len(requests) - asked]]
    assert paths.count("/v1/subscriptions") == 1
    Account.objects.filter(pk=acme.account.pk).update(
        customer_id=None
    )  # committed, and the next Stripe's ids begin anew


def test_events_of_strangers_and_of_other_kinds_are_ignored(stripe: Stripe, db: None, now: datetime) -> None:
    unknown = put(snapshot(type="payout.paid"), now)
    anonymous = put(snapshot(type="invoice.created", data={"object": {"object": "invoice"}}), now)
    inbox.handle_due(now=now)
    assert stripe.simulator.requests == []
    foreign = put(about("cus_of_nobody"), now)
    inbox.handle_due(now=now)
    states = StripeEvent.objects.in_bulk([unknown, anonymous, foreign])
    assert {event.state for event in states.values()} == {State.IGNORED}


def test_another_tenants_event_touches_nobody_else(stripe: Stripe, subscribe: Subscribe) -> None:
    acme, globex = subscribe("launch"), subscribe("launch", name="Globex")
    before = Account.objects.filter(pk=globex.pk).values().get()
    stripe.client.v1.subscriptions.cancel(str(acme.subscription_id))
    put(about(str(acme.customer_id)), stripe.now)
    assert inbox.handle_due(now=stripe.now) == 1
    assert Account.objects.filter(pk=globex.pk).values().get() == before
    acme.refresh_from_db()
    assert acme.state == PaymentState.NONE


def test_a_worker_whose_clock_is_ahead_hides_no_later_change(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe("launch")
    Account.objects.filter(pk=account.pk).update(fetched_at=stripe.now + MINUTE)
    stripe.client.v1.subscriptions.cancel(str(account.subscription_id))
    put(about(str(account.customer_id)), stripe.now)
    assert inbox.handle_due(now=stripe.now) == 1
    account.refresh_from_db()
    assert account.state == PaymentState.NONE


def test_a_worker_with_a_slow_clock_handles_it_at_once(stripe: Stripe, db: None, now: datetime) -> None:
    put(about("cus_of_nobody"), now)
    assert inbox.handle_due(now=now - 4 * MINUTE) == 1


# -- what fails --------------------------------------------------------------------------------------------------------


def test_an_outage_of_30_hours_costs_no_attempt(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe("launch")
    start = now = stripe.now
    stripe.faults.add("error_500_before", probability=1.0, count=10_000)
    event_id = put(about(str(account.customer_id)), now)
    waits: list[float] = []
    while not waits or waits[-1] < 300:
        inbox.handle(event_id=event_id, now=now)
        event = StripeEvent.objects.get(pk=event_id)
        assert (event.state, event.attempts) == (State.RECEIVED, 0)
        waits.append((event.due_at - now).total_seconds())
        now = event.due_at
    assert (waits[0], waits) == (5, sorted(waits))
    now = start + timedelta(hours=30)
    inbox.handle(event_id=event_id, now=now)
    event = StripeEvent.objects.get(pk=event_id)
    assert (event.state, event.attempts, event.due_at) == (State.RECEIVED, 0, now + 5 * MINUTE)
    stripe.faults.clear()
    assert inbox.handle_due(now=event.due_at) == 1
    assert StripeEvent.objects.get(pk=event_id).state == State.HANDLED


def test_what_fails_by_itself_is_tried_twelve_times_and_named(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    account = subscribe("launch")
    event_id = broken(account, stripe.now)
    now, waits = stripe.now, []
    for _ in range(12):
        inbox.handle(event_id=event_id, now=now)
        event = StripeEvent.objects.get(pk=event_id)
        waits.append((event.due_at - now).total_seconds())
        now = event.due_at
    assert waits[:4] == [30, 60, 120, 240]
    assert max(waits) == 6 * 3600
    assert (event.state, event.attempts) == (State.FAILED, 12)
    assert event.error.startswith(("TypeError", "KeyError"))
    assert f"{event_id} (customer.updated) has failed for good" in caplog.text
    assert inbox.handle_due(now=now + timedelta(days=9)) == 0


def broken(account: Account, now: datetime) -> str:
    """An event whose body cannot be read, as no webhook is stored."""
    return StripeEvent.objects.create(
        id=new_id(), kind="snapshot", type="customer.updated", customer_id=account.customer_id or "", is_live=False,
        created_at=now, received_at=now, due_at=now, body={"data": None},
    ).pk  # fmt: skip


def test_one_that_fails_holds_up_no_other(stripe: Stripe, subscribe: Subscribe) -> None:
    acme, globex = subscribe("launch"), subscribe("launch", name="Globex")
    now = stripe.now
    stuck = [broken(acme, now - MINUTE) for _ in range(5)]
    fine = put(about(str(globex.customer_id)), now)
    assert inbox.handle_due(now=now) == 1
    assert StripeEvent.objects.get(pk=fine).state == State.HANDLED
    assert set(StripeEvent.objects.filter(pk__in=stuck).values_list("state", "attempts")) == {(State.RECEIVED, 1)}


def test_in_an_outage_a_run_ends_early(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe("launch")
    stripe.faults.add("error_500_before", probability=1.0, count=10_000)
    for _ in range(10):
        put(about(str(account.customer_id)), stripe.now)
    asked = len(stripe.simulator.requests)
    assert inbox.handle_due(now=stripe.now) == 0
    assert len(stripe.simulator.requests) - asked == inbox.OUTAGES_IN_A_ROW
    stripe.faults.clear()
    assert inbox.handle_due(now=stripe.now + MINUTE) == 10


@pytest.mark.parametrize(
    "fault", ["drop_before", "drop_after", "error_500_after", "rate_limit_429", "garbage", "timeout"]
)
def test_whatever_stripe_answers_it_comes_right(
    stripe: Stripe, subscribe: Subscribe, settings: Settings, fault: str
) -> None:
    account = subscribe("launch")
    settings.STRIPE_TIMEOUT_SECONDS = 0.15
    stripe.client.v1.subscriptions.cancel(str(account.subscription_id))
    event_id, now = put(about(str(account.customer_id)), stripe.now), stripe.now
    stripe.faults.add(fault, method="GET", path="/v1/subscriptions", count=2, seconds=0.3)
    for _ in range(3):
        inbox.handle_due(now=now)
        now += MINUTE
    account.refresh_from_db()
    assert (account.state, account.plan_version.plan.code) == (PaymentState.NONE, "free")
    assert StripeEvent.objects.get(pk=event_id).state == State.HANDLED


def test_a_killed_worker_s_event_is_another_s_after_a_minute(stripe: Stripe, db: None, now: datetime) -> None:
    event_id = put(about("cus_of_nobody"), now)
    assert inbox._claim(event_id, now) is not None  # and killed
    assert inbox.handle_due(now=now + timedelta(seconds=59)) == 0
    assert inbox.handle_due(now=now + timedelta(seconds=60)) == 1


def test_an_event_that_kills_every_worker_is_given_up(
    stripe: Stripe, db: None, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:
    event_id = put(about("cus_of_nobody"), now)
    for attempt in range(13):
        inbox._claim(event_id, now + attempt * MINUTE)
    event = StripeEvent.objects.get(pk=event_id)
    assert event.state == State.FAILED
    assert "killed" in event.error
    assert "has failed for good" in caplog.text
    assert inbox.replay(event_ids=[event_id], actor="olivia@meterhouse.example", now=now) == 1


def test_a_missing_key_waits_for_the_operator(stripe: Stripe, subscribe: Subscribe, settings: Settings) -> None:
    account = subscribe("launch")
    event_id = put(about(str(account.customer_id)), stripe.now)
    key, settings.STRIPE_TEST_SECRET_KEY = settings.STRIPE_TEST_SECRET_KEY, ""
    inbox.handle(event_id=event_id, now=stripe.now)
    event = StripeEvent.objects.get(pk=event_id)
    assert (event.state, event.attempts) == (State.RECEIVED, 0)
    assert "STRIPE_TEST_SECRET_KEY" in event.error
    settings.STRIPE_TEST_SECRET_KEY = key
    assert inbox.handle_due(now=stripe.now + MINUTE) == 1


# -- what was never delivered ------------------------------------------------------------------------------------------


def test_what_stripe_could_not_deliver_is_caught_up(stripe: Stripe, subscribe: Subscribe) -> None:
    stripe.simulator.add_webhook("http://127.0.0.1:9/nobody-listens")
    account = subscribe("launch")
    stripe.client.v1.subscriptions.cancel(str(account.subscription_id))
    new = inbox.catch_up(now=stripe.now)
    types = set(StripeEvent.objects.values_list("type", flat=True))
    assert new == StripeEvent.objects.count() > 2
    assert {"customer.subscription.created", "customer.subscription.deleted"} <= types <= set(reactions.FOLLOWED)
    assert inbox.catch_up(now=stripe.now) == 0
    assert inbox.handle_due(now=stripe.now) == new
    account.refresh_from_db()
    assert account.state == PaymentState.NONE


# -- mails -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(stripe: Stripe, subscribe: Subscribe) -> Account:
    """acme, whose renewal was refused by the bank."""
    account = subscribe("launch")
    stripe.use_card(str(account.customer_id), "pm_card_chargeCustomerFail")
    stripe.advance((account.period_end or stripe.now) + timedelta(hours=2))
    return account


def deliver(stripe: Stripe, event_type: str, account: Account) -> None:
    body = latest(stripe, event_type, str(account.customer_id))
    put({**body, "id": new_id()}, stripe.now)
    assert inbox.handle_due(now=stripe.now) == 1


def test_a_failed_payment_is_told_with_its_dates(stripe: Stripe, behind: Account, make_tenant: MakeTenant) -> None:
    initech = make_tenant("Initech")
    for _ in range(2):
        deliver(stripe, "invoice.payment_failed", behind)
    behind.refresh_from_db()
    assert behind.state == PaymentState.PAST_DUE
    (notice,) = Notice.objects.filter(tenant=behind.tenant, kind="payment.failed")
    (invoice,) = stripe_api.open_invoices(str(behind.customer_id))
    assert notice.key == f"{invoice.id}:1"
    assert notice.title == "A payment of 19.00 USD has failed"
    assert invoice.pay_url in notice.text
    assert invoice.next_attempt_at is not None
    assert f"tried again on {invoice.next_attempt_at:%d %B %Y, %H:%M} (UTC)" in notice.text
    since = behind.past_due_since
    assert since is not None
    assert f"served until {since + timedelta(days=7):%d %B %Y, %H:%M} (UTC)" in notice.text
    assert not Notice.objects.filter(tenant=initech.tenant).exists()


def test_what_was_paid_meanwhile_is_not_complained_about(stripe: Stripe, behind: Account) -> None:
    stripe.use_card(str(behind.customer_id), "pm_card_visa")
    stripe.pay_all(str(behind.customer_id))
    deliver(stripe, "invoice.payment_failed", behind)
    deliver(stripe, "invoice.paid", behind)
    behind.refresh_from_db()
    assert (behind.state, told(behind)) == (PaymentState.ACTIVE, [])


def test_that_it_is_paid_is_told_after_a_failure(stripe: Stripe, behind: Account) -> None:
    deliver(stripe, "invoice.payment_failed", behind)
    stripe.use_card(str(behind.customer_id), "pm_card_visa")
    stripe.pay_all(str(behind.customer_id))
    deliver(stripe, "invoice.paid", behind)
    behind.refresh_from_db()
    assert (behind.state, told(behind)) == (PaymentState.ACTIVE, ["payment.failed", "payment.recovered"])


def test_a_refund_and_a_dispute_are_told_to_the_payer_alone(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    acme, globex = subscribe("launch"), subscribe("launch", name="Globex")
    (charge,) = stripe.simulator.charges.all(customer=acme.customer_id)
    stripe.simulator.refund(charge["id"], amount=500)
    deliver(stripe, "charge.refunded", acme)
    stripe.simulator.dispute(charge["id"])
    put(
        {
            **[event for event in stripe.simulator.events if event["type"] == "charge.dispute.created"][-1],
            "id": new_id(),
        },
        stripe.now,
    )
    assert inbox.handle_due(now=stripe.now) == 1
    assert told(acme) == ["payment.disputed", "payment.refunded"]
    assert told(globex) == []
    assert "is disputed" in caplog.text
    texts = " ".join(Notice.objects.filter(tenant=acme.tenant).values_list("text", flat=True))
    assert "Of your payment of 19.00 USD, 5.00 USD have been refunded in all." in texts


def test_an_object_of_another_customer_is_never_told(stripe: Stripe, subscribe: Subscribe) -> None:
    acme, globex = subscribe("launch"), subscribe("launch", name="Globex")
    (charge,) = stripe.simulator.charges.all(customer=globex.customer_id)
    stripe.simulator.refund(charge["id"])
    payment_mails.tell_refunded(account=acme, charge_id=charge["id"])
    assert told(acme) == []


# -- rejected meter events ---------------------------------------------------------------------------------------------


def report(account: Account, state: UsageReport.State = UsageReport.State.DELIVERED) -> UsageReport:
    start = datetime.fromisoformat("2026-11-01T00Z")
    return UsageReport.objects.create(
        account=account, subscription_id="sub_1", meter_id="mtr_1", period_start=start, window_start=start,
        window_end=start + MINUTE, quantity=5, stamped_at=start, state=state, revision=UsageReport.objects.count() + 1,
    )  # fmt: skip


def test_a_rejected_meter_event_is_never_silent(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    acme, globex = subscribe("launch"), subscribe("launch", name="Globex")
    rejected, confirmed, others = report(acme), report(acme, UsageReport.State.CONFIRMED), report(globex)
    stripe.faults.add("reject", count=2, code="timestamp_too_far_in_past")
    for one in (rejected, confirmed):
        stripe_api.send_meter_event(identifier=str(one.pk), customer_id=str(acme.customer_id), value=5, at=stripe.now)
    stripe.advance(timedelta(hours=1))
    events = list(stripe.simulator.objects("v2.core.event"))
    for body in events:
        notification = {name: value for name, value in body.items() if name not in {"data", "changes"}}
        put(notification, stripe.now, StripeEvent.Kind.THIN)
    assert inbox.handle_due(now=stripe.now) == len(events) > 0
    for one in (rejected, confirmed, others):
        one.refresh_from_db()
    assert (rejected.state, confirmed.state, others.state) == ("rejected", "confirmed", "delivered")
    assert rejected.error.startswith("timestamp_too_far_in_past: ")
    assert f"Usage report {rejected.pk} of tenant {acme.pk} was rejected" in caplog.text
    assert "Stripe rejected" in caplog.text


def test_an_identifier_is_found_in_an_idempotency_key() -> None:
    report_id = uuid.uuid4()
    data = {
        "reason": {"error_types": [
            {"code": "no_meter", "error_count": 3, "sample_errors": [
                {"error_message": "x", "request": {"identifier": f"{report_id}-2"}}, {"request": {"identifier": "by hand"}}, {},
            ]}, {},
        ]},
    }  # fmt: skip
    assert list(rejections._reasons(data)) == [("no_meter", 3, [(report_id, "x")]), ("unknown", 0, [])]


# -- what the pages say ------------------------------------------------------------------------------------------------


def test_the_documented_types_are_those_that_are_handled() -> None:
    text = (ROOT / "docs" / "webhooks.md").read_text()
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `") and "." in line.split("`")[1]}
    assert listed == set(reactions.FOLLOWED) | set(reactions.THIN)


def test_every_replay_is_on_record(stripe: Stripe, db: None, now: datetime) -> None:
    ids = [put(about("cus_of_nobody"), now), put(thin(type="v1.something.else"), now, StripeEvent.Kind.THIN)]
    inbox.handle_due(now=now)
    assert inbox.replay(event_ids=[*ids, "evt_unknown"], actor="olivia@meterhouse.example", now=now) == 2
    found = AuditEntry.objects.filter(action="stripe_event.replayed", subject__in=ids)
    assert sorted(entry.detail["before"] for entry in found) == ["ignored", "ignored"]
