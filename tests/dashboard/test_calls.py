"""Single calls: found, told in words, and with what they do to the bill. The API and the CSV say the same."""

import csv
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from dashboard.call_words import REASONS
from metering import adjustments, call_log, partitions
from metering.call_log import Filter
from metering.models import Outcome
from tenants.models import Role

from .conftest import Visit, Visitor, add_call
from .test_pages import HTMX, words
from .test_usage import second_key

Api = Callable[..., Any]


def keep_since(at: datetime) -> None:
    """The log has its partitions from this day on."""
    partitions.ensure(calls_from=at, hours_from=timezone.now(), now=timezone.now())


def story(visit: Visit) -> tuple[Visitor, dict[str, UUID]]:
    acme, now = visit(plan="scale"), timezone.now()
    keep_since(now - timedelta(days=4))
    key, other = acme.owned.key, second_key(acme)
    return acme, {
        "served": add_call(key, now - timedelta(minutes=1)),
        "missing": add_call(other, now - timedelta(hours=5), status=404),
        "broken": add_call(key, now - timedelta(days=2), outcome="failed", status=503),
        "refused": add_call(key, now - timedelta(days=3), outcome="refused", status=429, reason="daily_cap", calls=37),
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["served", "missing", "broken", "refused"]),
        ("outcome=failed", ["broken"]),
        ("outcome=rejected", ["refused"]),
        ("outcome=billable", ["served", "missing"]),
        ("status=404", ["missing"]),
        ("status=5xx", ["broken"]),
        ("project=other", ["missing"]),
        ("capability=storage&project=default", ["served", "broken", "refused"]),
        ("from={two_days}", ["served", "missing", "broken"]),
        ("to={two_days}", ["refused"]),
        ("capability=nothing", []),
    ],
)
def test_page_api_and_csv_find_the_same_calls(visit: Visit, call: Api, query: str, names: list[str]) -> None:
    acme, ids = story(visit)
    at = f"{timezone.now() - timedelta(days=2, minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    query = query.format(two_days=at)
    wanted = [str(ids[name]) for name in names]
    answer = call(acme.owned.api_key, f"/api/v1/calls?{query}").json()
    assert [one["id"] for one in answer["calls"]] == wanted
    html = acme.page(f"calls?{query}")
    assert [name for name, id_ in ids.items() if str(id_) in html] == names
    downloaded = b"".join(acme.client.get(f"/t/{acme.slug}/calls.csv?{query}")).decode()
    rows = list(csv.DictReader(StringIO(downloaded)))
    assert [row["id"] for row in rows] == wanted
    for row, one in zip(rows, answer["calls"], strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in one.items()}


def test_the_api_pages_through_every_call_once(visit: Visit, call: Api) -> None:
    acme = visit(plan="scale")
    keep_since(timezone.now() - timedelta(days=1))
    ids = [str(add_call(acme.owned.key, timezone.now() - timedelta(minutes=37 * number))) for number in range(13)]
    found, cursor = [], ""
    for _ in range(20):
        answer = call(acme.owned.api_key, f"/api/v1/calls?limit=3{cursor}").json()
        found += [one["id"] for one in answer["calls"]]
        if answer["next"] is None:
            break
        cursor = f"&cursor={answer['next']}"
    assert found == ids


def test_rare_calls_are_found_behind_many_hours_of_others(visit: Visit) -> None:
    acme, now = visit(plan="scale"), timezone.now()
    rare = add_call(acme.owned.key, now - timedelta(days=19), status=418)
    for hours in range(120):
        add_call(acme.owned.key, now - timedelta(hours=hours))
    wanted = Filter(acme.owned.tenant.pk, now - timedelta(days=25), now + timedelta(seconds=1), status=418)
    assert [row.id for row in call_log.stream(wanted, limit=5)] == [rare]
    assert len(list(call_log.stream(Filter(wanted.tenant_id, wanted.start, wanted.end), limit=7))) == 121


def test_calls_of_one_instant_are_neither_lost_nor_doubled(visit: Visit) -> None:
    acme, at = visit(), timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    ids = {add_call(acme.owned.key, at) for _ in range(9)}
    wanted = Filter(acme.owned.tenant.pk, at, at + timedelta(hours=1))
    found = [row.id for row in call_log.stream(wanted, limit=2)]
    assert len(found) == 9
    assert set(found) == ids


@pytest.mark.parametrize(
    ("name", "sentences"),
    [
        (
            "served",
            ["Admitted: no limit was reached.", "Billable: it was answered with 200", "counts among the 2 units"],
        ),
        ("missing", ["Billable: it was answered with 404; below 500 and not 401, 403 or 429 is billed."]),
        ("broken", ["Not billed: the server failed (503).", "It costs nothing, and is on no invoice."]),
        (
            "refused",
            ["your daily cap (UTC day) was reached.", "refused calls never are", "37: a flood of refused calls"],
        ),
    ],
)
def test_a_call_says_why_it_was_admitted_and_billed(visit: Visit, name: str, sentences: list[str]) -> None:
    acme, ids = story(visit)
    text = words(acme.page(f"calls/{ids[name]}"))
    for sentence in sentences:
        assert sentence in text


def test_an_id_leads_to_its_call(visit: Visit) -> None:
    acme, ids = story(visit)
    address = f"/t/{acme.slug}/calls/{ids['broken']}"
    assert acme.client.get(f"/t/{acme.slug}/calls?id={ids['broken']}")["Location"] == address
    filtering = acme.client.get(f"/t/{acme.slug}/calls?id={ids['broken']}", headers={**HTMX, "HX-Target": "region"})
    assert filtering["HX-Redirect"] == address
    for unknown in ("nonsense", str(uuid4())):
        assert "The call log has no call with this id" in words(acme.page(f"calls?id={unknown}"))


def test_a_correction_shows_with_its_call(visit: Visit, call: Api) -> None:
    acme, ids = story(visit)
    change = adjustments.planned_void(tenant=acme.owned.tenant, call_id=ids["served"])
    adjustments.apply(change, actor="operator@example.com", reason="A test of ours")
    html = acme.page(f"calls/{ids['served']}")
    assert "Not billed any more: a correction took it off." in words(html)
    assert "A test of ours" in html
    assert "operator@example.com" not in html
    told = call(acme.owned.api_key, f"/api/v1/calls/{ids['served']}").json()
    assert told["billed_units"] == 0
    assert [(one["kind"], one["units"]) for one in told["corrections"]] == [("void", -1)]


def test_another_tenant_finds_no_call_of_acme(visit: Visit, call: Api) -> None:
    acme, ids = story(visit)
    initech = visit("Initech")
    for id_ in ids.values():
        assert initech.client.get(f"/t/{acme.slug}/calls/{id_}").status_code == 404
        assert initech.client.get(f"/t/{initech.slug}/calls/{id_}").status_code == 404
        assert call(initech.owned.api_key, f"/api/v1/calls/{id_}").status_code == 404
        assert initech.client.get(f"/t/{initech.slug}/calls?id={id_}").status_code == 200
    assert call(initech.owned.api_key, "/api/v1/calls").json()["calls"] == []


def test_a_restricted_member_sees_calls_of_its_projects_only(visit: Visit) -> None:
    acme, ids = story(visit)
    acme.becomes(Role.DEVELOPER, projects=[acme.owned.key.project])
    listed = acme.page("calls") + acme.page("calls", headers={**HTMX, "HX-Target": "region"})
    downloaded = b"".join(acme.client.get(f"/t/{acme.slug}/calls.csv")).decode()
    for text in (listed, downloaded):
        assert str(ids["served"]) in text
        assert str(ids["missing"]) not in text
    assert acme.client.get(f"/t/{acme.slug}/calls/{ids['missing']}").status_code == 404
    assert "What the period costs" not in acme.page(f"calls/{ids['served']}")


def test_a_call_leads_to_what_its_period_costs(visit: Visit) -> None:
    acme, now = visit(plan="scale", into=timedelta(days=1)), timezone.now()
    keep_since(now - timedelta(days=4))
    running, ended = add_call(acme.owned.key, now), add_call(acme.owned.key, now - timedelta(days=3))
    addresses = []
    for call_id in (running, ended):
        (address,) = re.findall(rf'href="(/t/{acme.slug}/why[^"]*)"', acme.page(f"calls/{call_id}"))
        addresses.append(address.removeprefix(f"/t/{acme.slug}/"))
    assert addresses[0] == "why"
    assert addresses[1].startswith("why?period=")
    assert "estimate" not in words(acme.page(addresses[1]))  # the period that is over
    acme.becomes(Role.DEVELOPER)
    assert f"/t/{acme.slug}/why" not in acme.page(f"calls/{running}")


@pytest.mark.parametrize(
    "query",
    ["status=9xx", "status=x", "cursor=nonsense", "cursor=====", "limit=0", "limit=201", "outcome=nice",
     "from=2026-01-01&to=2024-01-01", "from=2020-01-01&to=2026-01-01", "project=not-ours", "colour=red",
     "from=0001-01-01&to=0001-01-02"],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused(visit: Visit, call: Api, query: str) -> None:
    acme, _ = story(visit)
    answer = call(acme.owned.api_key, f"/api/v1/calls?{query}")
    assert answer.status_code in ({200} if query.startswith("from=0001") else {400})
    assert acme.client.get(f"/t/{acme.slug}/calls?{query}").status_code == 200


def test_the_api_needs_the_scope_to_read_usage(visit: Visit, call: Api) -> None:
    acme, ids = story(visit)
    acme.owned.key.scopes = ["limits:write"]
    acme.owned.key.save(update_fields=["scopes"])
    for path in ("calls", f"calls/{ids['served']}"):
        assert call(acme.owned.api_key, f"/api/v1/{path}").status_code == 403


def test_every_reason_to_refuse_has_its_words(visit: Visit) -> None:
    acme, now = visit(plan="scale"), timezone.now()
    for number, reason in enumerate([*REASONS, "something_new"]):
        id_ = add_call(
            acme.owned.key, now - timedelta(hours=number), outcome=Outcome.REFUSED, status=429, reason=reason
        )
        text = words(acme.page(f"calls/{id_}"))
        assert "Refused: " in text
        assert (f"({reason})" in text) == (reason == "something_new")


def test_the_log_says_how_long_it_keeps_calls(visit: Visit, settings: Any) -> None:
    settings.CALL_LOG_DAYS = 41
    acme, _ = story(visit)
    text = words(acme.page("calls"))
    assert "The log keeps every call for 41 days." in text
    assert "Of older calls only the totals of each hour are kept" in text


def test_an_answer_is_plain_json(visit: Visit, call: Api) -> None:
    acme, ids = story(visit)
    found = json.loads(call(acme.owned.api_key, f"/api/v1/calls/{ids['refused']}").content)
    assert (found["outcome"], found["reason"], found["calls"], found["key"]) == (
        "rejected", "daily_cap", 37, acme.owned.key.prefix,
    )  # fmt: skip
