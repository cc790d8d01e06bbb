"""The usage page: what it is asked, what it answers, and what it says where there is no honest number."""

import csv
import re
import shlex
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.http import HttpResponseBase
from django.test import Client
from django.utils import timezone

from tenants import directory, keys
from tenants.models import ApiKey, Role

from .conftest import Visit, Visitor, add_days, add_usage
from .test_pages import HTMX, busy, words

FILTERING = {**HTMX, "HX-Target": "region"}


def second_key(visitor: Visitor, name: str = "Other") -> ApiKey:
    project = directory.add_project(tenant=visitor.owned.tenant, name=name, actor="test")
    return keys.issue(project=project, name=f"key of {name}", actor="test")[0]


def rows_of(answer: HttpResponseBase) -> list[dict[str, str]]:
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(StringIO(b"".join(answer).decode())))


def test_a_tenant_that_never_made_a_call_is_told_how(visit: Visit) -> None:
    assert "Waiting for the first call" in words(visit().page("usage"))


def test_a_filter_that_nothing_fits_says_so_and_leads_back(visit: Visit) -> None:
    acme = busy(visit)
    html = acme.page("usage?capability=nothing")
    assert "No calls match" in words(html)
    assert f'href="/t/{acme.slug}/usage"' in html
    assert '<option value="nothing" selected>' in html  # the form keeps what was asked


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("from=2026-01-01&to=2026-06-01&granularity=hour", "By hour at most 62 days are answered."),
        ("from=2026-06-01&to=2026-01-01", "It must be later than 'from'."),
        ("from=soon", "Write it as 2026-11-01"),
        ("project=not-ours", "There is no such project."),
        ("key=mh_live_notours", "There is no such key."),
        ("period=0001-01-01", "The year is out of range."),
        ("show=money&from=2026-10-01&to=2026-10-09", "money is told for whole periods"),
        ("show=money&granularity=hour", "Money is told by day or month"),
        ("show=money&group_by=outcome", "there is no money by outcome"),
        ("show=money&outcome=failed", "Failed and refused calls cost nothing"),
        ("group_by=nonsense", "is not a valid choice"),
    ],
)
def test_what_has_no_honest_number_is_refused_in_words(visit: Visit, query: str, reason: str) -> None:
    acme = busy(visit)
    html = acme.page(f"usage?{query}")
    assert reason in words(html)
    assert 'aria-invalid="true"' in html
    assert 'id="buckets-table"' not in html
    answer = acme.client.get(f"/t/{acme.slug}/usage.csv?{query}")
    if "hour" not in query or "money" in query:  # a download may reach further by the hour
        assert answer.status_code == 302


def test_a_download_by_the_hour_reaches_over_thirteen_months(visit: Visit) -> None:
    acme = busy(visit)
    start = timezone.now() - timedelta(days=390)
    query = f"granularity=hour&from={start:%Y-%m-%d}&to={timezone.now() + timedelta(days=1):%Y-%m-%d}"
    rows = rows_of(acme.client.get(f"/t/{acme.slug}/usage.csv?{query}"))
    add_usage(acme.owned.key, start + timedelta(days=1), billable=7)
    more = rows_of(acme.client.get(f"/t/{acme.slug}/usage.csv?{query}"))
    assert len(more) == len(rows) + 1
    assert [row["start"] for row in more] == sorted(row["start"] for row in more)


def test_earlier_periods_are_there_by_name(visit: Visit) -> None:
    acme = busy(visit)
    html = acme.page("usage")
    earlier = re.findall(r'<option value="(\d[^"]+)"', html)
    assert len(earlier) == 12
    add_usage(acme.owned.key, timezone.now() - timedelta(days=30), capability="archive", billable=31)
    text = words(acme.page(f"usage?period={earlier[0].replace(':', '%3A')}"))
    assert "archive" in text
    assert "archive" not in words(html)


def test_only_ranges_that_include_now_are_asked_for_again(visit: Visit) -> None:
    acme = busy(visit)
    polled = re.compile(r'id="live"[^>]* hx-get="')
    assert polled.search(acme.page("usage"))
    past = timezone.now() - timedelta(days=9)
    query = f"from={past - timedelta(days=5):%Y-%m-%d}&to={past:%Y-%m-%d}"
    assert not polled.search(acme.page(f"usage?{query}"))


def test_a_changed_filter_gets_the_region_and_the_shortest_address(visit: Visit) -> None:
    acme = busy(visit)
    query = "period=current&from=&to=&granularity=day&group_by=key&capability=auth&project=&key=&outcome=&show=calls"
    answer = acme.client.get(f"/t/{acme.slug}/usage?{query}", headers=FILTERING)
    assert answer["HX-Push-Url"] == f"/t/{acme.slug}/usage?group_by=key&capability=auth"
    assert 'id="filters"' in answer.content.decode()
    assert "<html" not in answer.content.decode()
    assert 'id="filters"' not in acme.page(f"usage?{query}", headers={**HTMX, "HX-Target": "live"})


def test_who_writes_a_date_means_a_range(visit: Visit) -> None:
    acme = busy(visit)
    query = f"period=current&from={timezone.now() - timedelta(days=3):%Y-%m-%d}&to="
    wanted = acme.client.get(f"/t/{acme.slug}/usage?{query}", headers={**FILTERING, "HX-Trigger-Name": "from"})
    assert "from=" in wanted["HX-Push-Url"]
    assert "from=" not in acme.client.get(f"/t/{acme.slug}/usage?{query}", headers=FILTERING)["HX-Push-Url"]


def test_the_api_request_on_the_page_answers_the_pages_numbers(visit: Visit, call: Callable[..., Any]) -> None:
    acme = busy(visit)
    html = acme.page("usage?outcome=failed&group_by=key")
    command = unescape(re.search(r'id="api-request">(.*?)</code>', html)[1])  # type: ignore[index]
    address = urlsplit(shlex.split(command)[-1])
    answer = call(acme.owned.api_key, f"{address.path}?{address.query}").json()
    failed = sum(point["failed"] for point in answer["series"])
    assert failed > 0
    assert sum(point["billable"] for point in answer["series"]) == 0
    total = re.search(r'id="buckets-table".*?<tfoot>(.*?)</tfoot>', html, re.DOTALL)
    assert total
    assert f"{failed:,}" in words(total[1])


def test_money_is_the_share_of_the_overage_in_the_order_of_the_calls(visit: Visit, call: Callable[..., Any]) -> None:
    acme = visit(plan="launch")  # 100,000 included, then $0.25 per 1,000
    other = second_key(acme)
    for days, key, billable in ((6, acme.owned.key, 90_000), (4, other, 30_000), (2, acme.owned.key, 20_000)):
        add_usage(key, timezone.now() - timedelta(days=days), billable=billable)
    text = words(acme.page("usage?show=money&group_by=project"))
    assert "Total $5.00 $5.00 $10.00" in text
    assert "Calls are priced in the order in which they were made" in text
    answer = call(acme.owned.api_key, "/api/v1/usage/series?show=money&granularity=month&group_by=project").json()
    assert answer["currency"] == "usd"
    amounts: dict[str, float] = {}
    for point in answer["series"]:
        amounts[point["group"]] = amounts.get(point["group"], 0) + float(point["exact_minor"])
    assert set(amounts.values()) == {500.0}


def test_nothing_beyond_the_included_calls_costs_nothing_in_words(visit: Visit) -> None:
    text = words(busy(visit).page("usage?show=money"))
    assert "these calls are among the included ones" in text


def test_who_sees_no_amounts_has_no_money_to_choose(visit: Visit) -> None:
    acme = busy(visit)
    assert 'name="show"' in acme.page("usage")
    acme.becomes(Role.DEVELOPER)
    assert 'name="show"' not in acme.page("usage")
    assert "Your role does not see amounts." in words(acme.page("usage?show=money"))
    assert acme.client.get(f"/t/{acme.slug}/usage.csv?show=money").status_code == 302


def test_a_restricted_member_sees_its_projects_only(visit: Visit) -> None:
    acme = busy(visit)
    secret = second_key(acme, "Zeppelin")
    add_usage(secret, timezone.now(), capability="hydrogen", billable=777_777)
    assert "Zeppelin" in acme.page("usage")
    acme.becomes(Role.DEVELOPER, projects=[acme.owned.key.project])
    answers = [
        acme.page(f"usage{query}", headers=headers)
        for query in ("", "?group_by=project", "?group_by=key", "?group_by=outcome", f"?key={secret.prefix}", "?project=zeppelin")
        for headers in ({}, {**HTMX, "HX-Target": "live"}, FILTERING)
    ]  # fmt: skip
    answers += [
        "".join(map(str, rows_of(acme.client.get(f"/t/{acme.slug}/usage.csv?group_by={by}"))))
        for by in ("capability", "project", "key")
    ]
    for text in answers:
        assert "777,777" not in text
        assert "777777" not in text
        assert "hydrogen" not in text
        assert "Zeppelin" not in text
        assert secret.name not in text
    acme.becomes(Role.DEVELOPER, projects=[])
    assert "No calls match" in words(acme.page("usage"))


CANARIES = [
    '=HYPERLINK("http://x","<b>")',
    "+1<script>alert(1)</script>",
    "@SUM(A1)",
    "\N{RIGHT-TO-LEFT OVERRIDE}evil",
    "x" * 110,
]


@pytest.mark.parametrize("canary", CANARIES)
def test_names_are_shown_as_they_are_and_run_nowhere(visit: Visit, canary: str) -> None:
    acme = busy(visit, plan="scale")
    key = acme.owned.key
    for named in (key, key.project):
        named.name = canary
        named.save(update_fields=["name"])
    for page in ("usage?group_by=project", "usage?group_by=key", "usage"):
        html = acme.page(page)
        assert canary in unescape(html)
        assert "<script>alert" not in html
        assert "<b>" not in html
    add_usage(key, timezone.now(), capability="=cmd|' /C calc'!A0", billable=1)
    cells = {row["group"] for row in rows_of(acme.client.get(f"/t/{acme.slug}/usage.csv?group_by=capability"))}
    assert "'=cmd|' /C calc'!A0" in cells


def test_long_ranges_are_shown_a_page_at_a_time_with_the_total_of_all(visit: Visit) -> None:
    acme = busy(visit)
    query = f"from={timezone.now() - timedelta(days=80):%Y-%m-%d}&to={timezone.now() + timedelta(days=1):%Y-%m-%d}"
    first, second, beyond = (acme.page(f"usage?{query}&page={page}") for page in ("1", "2", "99"))
    for html, count in ((first, 50), (second, 31), (beyond, 31)):
        body = re.search(r'id="buckets-table".*?<tbody>(.*?)</tbody>', html, re.DOTALL)
        assert body
        assert body[1].count("<tr>") == count
    footer = re.compile(r'id="buckets-table".*?(<tfoot>.*?</tfoot>)', re.DOTALL)
    assert footer.search(first)[1] == footer.search(second)[1]  # type: ignore[index]


def test_other_tenants_keys_and_projects_cannot_be_asked_for(visit: Visit) -> None:
    acme, initech = busy(visit), visit("Initech", plan="scale")
    skunkworks = second_key(acme, "Skunkworks")
    for query in (f"key={skunkworks.prefix}", f"project={skunkworks.project.slug}"):
        assert "There is no such" in words(initech.page(f"usage?{query}"))
        assert Client().get(f"/t/{acme.slug}/usage.csv?{query}").status_code == 302
        assert initech.client.get(f"/t/{acme.slug}/usage.csv?{query}").status_code == 404


@pytest.mark.parametrize(
    "name",
    ["", "usage", "usage?group_by=key&capability=auth&outcome=failed&project={project}&key={key}", "usage?show=money", "trends",
     "calls", "calls?status=500&project={project}"],
)  # fmt: skip
def test_a_page_asks_few_questions(visit: Visit, name: str, django_assert_max_num_queries: Any) -> None:
    acme = busy(visit)
    address = name.format(project=acme.owned.key.project.slug, key=acme.owned.key.prefix)
    acme.page(address)  # the first visit is remembered in the session
    with django_assert_max_num_queries(12):
        acme.page(address)


def test_trends_name_what_drove_each_period(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_days(acme.owned.key, now=timezone.now(), days=90, calls=600)
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), capability="storage", billable=90_000)
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), capability="auth", failed=1)
    assert re.search(r"running .*? storage \+(89|90),\d{3}", words(acme.page("trends")))
