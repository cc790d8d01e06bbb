"""Events that other services send: recorded once for ever, each answered for itself, whatever the rest of its request is like."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billing.onboarding import Onboarded
from metering import engine, invariants
from metering.events import ingest, shapes
from metering.models import Call
from tenants import keys
from tests.conftest import MakeTenant
from tests.metering.ledger import books

BATCH, STRUCTURED, PLAIN = shapes.BATCH, shapes.STRUCTURED, shapes.PLAIN


class Sender:
    """A service of a tenant, with a key that may send events."""

    def __init__(self, owned: Onboarded) -> None:
        self.owned = owned
        _, self.key = keys.issue(
            project=owned.key.project, name="s", actor="test", scopes=frozenset({"events:write", "usage:read"})
        )

    def post(self, body: Any, content_type: str = PLAIN, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        client = Client(headers={"authorization": f"Bearer {self.key}", **headers})
        return client.post("/api/v1/events", data, content_type=content_type)

    def states(self, body: Any, content_type: str = PLAIN) -> list[str]:
        answer = self.post(body, content_type)
        assert answer.status_code == 200, answer.content
        return [entry["status"] for entry in answer.json()["events"]]

    def settled(self) -> Any:
        engine.stop()
        kept = books(self.owned.tenant.id)
        kept.assert_balanced()
        assert kept.reserved == 0
        assert invariants.broken(tenant_id=self.owned.tenant.id) == {}
        return kept


MakeSender = Callable[..., Sender]


@pytest.fixture
def make_sender(committed: None, make_tenant: MakeTenant) -> MakeSender:
    def make(**options: Any) -> Sender:
        begun = timezone.now() - timedelta(days=20)  # what the tests send is of this period, at whatever time they run
        return Sender(make_tenant(**{"burst_per_second": 10**6, "anchor": begun, **options}))

    return make


def plain(event_id: str = "1", **members: Any) -> dict[str, Any]:
    return {"id": event_id, "capability": "storage", **members}


def cloud(event_id: str = "1", **attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "type": "storage", "source": "/jobs", "id": event_id, **attributes}


# -- what is taken -----------------------------------------------------------------------------------------------------


def test_an_event_is_a_call_in_the_ledger(make_sender: MakeSender) -> None:
    sender, at = make_sender(), timezone.now() - timedelta(hours=3)
    event = plain(quantity=4, latency_ms=12.5, status=201, occurred_at=at.isoformat())
    answer = sender.post(event)
    assert answer.status_code == 200
    document = answer.json()
    assert (document["accepted"], document["limit"]["used"], document["limit"]["exceeded"]) == (1, 4, False)
    call = Call.objects.get(tenant=sender.owned.tenant)
    assert (call.capability, call.units, call.status, call.latency_us, call.outcome) == (
        "storage",
        4,
        201,
        12_500,
        "billable",
    )
    assert (call.occurred_at, str(call.id)) == (at, document["events"][0]["call_id"])
    assert sender.settled().used == 4


def test_cloud_events_come_alone_or_in_batches(make_sender: MakeSender) -> None:
    sender = make_sender()
    assert sender.states(cloud("1", data={"quantity": 2, "model": "x"}), STRUCTURED) == ["accepted"]
    batch = [cloud("2", time="2026-01-01T00:00:00Z"), cloud("3", data={"capability": "auth"}, traceparent="00-1")]
    assert sender.states(batch, BATCH) == ["rejected", "accepted"]
    assert sender.states([cloud("4"), plain("5")]) == ["accepted", "accepted"]
    assert sorted(Call.objects.filter(tenant=sender.owned.tenant).values_list("capability", flat=True)) == [
        "auth", "storage", "storage", "storage",
    ]  # fmt: skip


def test_a_client_of_the_specification_is_understood(make_sender: MakeSender) -> None:
    """The CloudEvents SDK's own encoding, structured and batched."""
    from cloudevents.core.bindings.http import to_structured
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    sender = make_sender()
    attributes = {
        "type": "storage",
        "source": "/sdk",
        "id": "a",
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    event = CloudEvent(attributes={**attributes, "time": datetime.now(UTC)}, data={"quantity": 3})
    message = to_structured(event, JSONFormat())
    assert sender.states(message.body, message.headers["content-type"]) == ["accepted"]
    assert sender.settled().used == 3


def test_what_failed_is_counted_and_not_billed(make_sender: MakeSender) -> None:
    sender = make_sender()
    assert sender.states([plain("1", outcome="failed"), plain("2", status=403), plain("3")]) == ["accepted"] * 3
    assert sender.settled().rolled_up == {"billable": 1, "failed": 2, "refused": 0}


# -- once for ever -----------------------------------------------------------------------------------------------------


def test_a_name_counts_once_for_ever(make_sender: MakeSender) -> None:
    sender, globex = make_sender(), make_sender(name="Globex")
    assert sender.states([plain("1"), plain("1"), plain("2")]) == ["accepted", "duplicate", "accepted"]
    again = sender.post([plain("2", quantity=9), plain("3"), plain("1", source="/other")]).json()
    assert [entry["status"] for entry in again["events"]] == ["duplicate", "accepted", "accepted"]
    known = Call.objects.filter(tenant=sender.owned.tenant).values_list("id", flat=True)
    assert again["events"][0]["call_id"] in {str(one) for one in known}
    assert globex.states([plain("1")]) == ["accepted"]
    assert (sender.settled().used, globex.settled().used) == (4, 1)


def test_many_at_once_record_each_name_once(make_sender: MakeSender) -> None:
    sender, gate, answers = make_sender(), threading.Barrier(6), []

    def run(turn: int) -> None:
        names = [f"{number}" for number in range(40)]
        names = names if turn % 2 else names[::-1]
        try:
            gate.wait()
            answers.append(sender.states([plain(name, admit=turn == 0) for name in names]))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(states.count("accepted") for states in answers) == 40
    assert sum(states.count("duplicate") for states in answers) == 200
    assert sender.settled().used == 40


# -- limits ------------------------------------------------------------------------------------------------------------


def test_what_has_happened_is_recorded_beyond_a_limit_and_said_to_be(make_sender: MakeSender) -> None:
    sender = make_sender(included=3)
    document = sender.post([plain(f"{number}") for number in range(5)]).json()
    assert (document["accepted"], document["limit"]) == (5, {"used": 5, "admits": 3, "exceeded": True})
    assert sender.settled().used == 5


def test_what_asks_is_admitted_to_the_limit_and_may_ask_again(make_sender: MakeSender) -> None:
    sender = make_sender(included=3)
    document = sender.post([plain(f"{number}", admit=True) for number in range(5)]).json()
    states = [entry["status"] for entry in document["events"]]
    assert states == ["accepted"] * 3 + ["refused"] * 2
    refused = document["events"][-1]
    assert refused["type"].endswith("/problems/quota-exceeded")
    assert "call_id" not in refused
    assert sender.states([plain("0", admit=True), plain("4", admit=True)]) == ["duplicate", "refused"]
    kept = sender.settled()
    assert (kept.used, kept.rolled_up["refused"]) == (3, 3)


def test_a_single_event_that_is_refused_is_answered_as_a_call_is(make_sender: MakeSender) -> None:
    sender = make_sender(included=0)
    answer = sender.post(plain(admit=True))
    assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["ratelimit"].startswith('"month";r=0')


def test_the_other_units_come_back_when_one_cannot_be_asked(
    make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metering import calls

    sender, asked = make_sender(included=10), []

    def admit(**call: Any) -> Any:
        asked.append(call)
        if len(asked) == 3:
            raise calls.LimitUnavailable
        return opened(**call)

    opened = calls.open_call
    monkeypatch.setattr(calls, "open_call", admit)
    assert sender.post([plain(f"{number}", admit=True) for number in range(5)]).status_code == 503
    assert sender.settled().used == 0


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "state"),
    [
        (timedelta(minutes=4), "accepted"),
        (timedelta(minutes=6), "rejected"),
        (timedelta(days=-5, hours=-23), "accepted"),
        (timedelta(days=-6, minutes=-1), "rejected"),  # the call log keeps seven days in tests
    ],
)
def test_late_and_early_events(make_sender: MakeSender, offset: timedelta, state: str) -> None:
    sender, at = make_sender(), timezone.now() + offset
    assert sender.states([plain(occurred_at=at.isoformat())]) == [state]
    for call in Call.objects.filter(tenant=sender.owned.tenant):
        assert call.occurred_at == at if offset < timedelta(0) else call.occurred_at <= call.recorded_at
    sender.settled()


def test_a_late_event_counts_in_the_period_that_it_happened_in(make_sender: MakeSender) -> None:
    sender = make_sender(anchor=timezone.now() - timedelta(days=2))
    assert sender.states([plain(occurred_at=(timezone.now() - timedelta(days=3)).isoformat())]) == ["accepted"]
    assert sender.post([]).json()["limit"]["used"] == 0
    assert sender.settled().used == 1


# -- what is not taken -------------------------------------------------------------------------------------------------


def test_faulty_entries_stop_nobody(make_sender: MakeSender) -> None:
    entries = [
        plain("1"), 7, {}, plain("2", quantity=0), plain("3", quantity=True), plain("4", capability="No Such"), plain(""),
        plain("5", quantitiy=3), plain("6", outcome="great"), plain("7", occurred_at="yesterday"),
        plain("8", occurred_at="2026-11-01T13:00:00"), plain("9", admit="yes"), plain("a\x00"), plain("10", latency_ms=-1),
        plain("11", status=200, outcome="billable"), cloud("12", specversion="0.3"), cloud("13", data="text"),
        cloud("14", datacontenttype="text/plain", data="x"), plain("x" * 256), plain("15"),
    ]  # fmt: skip
    sender = make_sender()
    document = sender.post(entries).json()
    assert [entry["status"] for entry in document["events"]] == ["accepted", *["rejected"] * 18, "accepted"]
    assert all(entry["detail"] for entry in document["events"][1:-1])
    assert document["events"][7]["detail"].startswith("quantitiy: there is no such member.")
    assert sender.settled().used == 2


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", PLAIN, 400),
        (b"[" * 100_000, PLAIN, 400),
        ([cloud()], STRUCTURED, 400),
        (cloud(), BATCH, 400),
        (plain("1", quantity=-1), PLAIN, 400),
        (plain(), "text/plain", 415),
        ([plain(f"{number}") for number in range(1001)], PLAIN, 413),
        (b" " * (1024 * 1024 + 1), PLAIN, 413),
    ],
)
def test_a_request_that_is_none_is_refused_whole(
    make_sender: MakeSender, body: Any, content_type: str, status: int
) -> None:
    sender = make_sender()
    answer = sender.post(body, content_type)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert sender.settled().used == 0


def test_the_scope_is_asked_for(make_sender: MakeSender) -> None:
    sender = make_sender()
    sender.key = sender.owned.api_key
    assert sender.post(plain()).status_code == 403
    assert Client().post("/api/v1/events", {}, content_type=PLAIN).status_code == 401


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
members = st.sampled_from(sorted(shapes.PLAIN_MEMBERS | {"specversion", "type", "data", "time", "datacontenttype"}))


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries=st.lists(st.dictionaries(members, json_values, max_size=8) | json_values, max_size=4))
def test_anything_is_an_event_or_a_fault_with_its_reason(entries: list[Any]) -> None:
    body = json.dumps(entries).encode()
    found, _ = shapes.read(body, content_type=PLAIN, source="s")
    assert len(found) == len(entries)
    for one in found:
        assert isinstance(one, shapes.Event) or one.why


# -- cut off -----------------------------------------------------------------------------------------------------------


def test_a_commit_whose_end_nobody_saw_is_sent_again_without_harm(
    make_sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it was carried out or not: nothing is counted twice, and the units of what was not come back."""
    from metering.database import Unreachable

    sender, recorded = make_sender(included=4), ingest._recorded

    def cut_before(*arguments: Any) -> Any:
        raise Unreachable("cut")

    def cut_after(*arguments: Any) -> Any:
        recorded(*arguments)
        raise Unreachable("cut")

    events = [plain("1", admit=True), plain("2", admit=True)]
    for cut in (cut_before, cut_after):
        monkeypatch.setattr(ingest, "_recorded", cut)
        assert sender.post(events).status_code == 503
    monkeypatch.setattr(ingest, "_recorded", recorded)
    assert sender.states(events) == ["duplicate", "duplicate"]
    monkeypatch.setattr(ingest, "SURELY_OVER_SECONDS", 0.0)
    sender.post([])
    engine.engine().flush()  # their lease may have gone back meanwhile
    assert sender.states([plain("3", admit=True), plain("4", admit=True)]) == ["accepted", "accepted"]
    assert sender.states([plain("5", admit=True)]) == ["refused"]
    assert sender.settled().used == 4
