"""The pages in their states, as a customer reads them."""

import gzip
import re
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from billing import estimates
from dashboard import daily
from dashboard.explanations import EXPLANATIONS
from dashboard.views import reading
from metering import usage
from tenants import keys
from tenants.problems import type_address
from tests.conftest import ROOT

from .conftest import MIDDLE, Visit, Visitor, add_days, add_usage

EVERY_PAGE = (
    "",
    "usage",
    "usage?group_by=project",
    "usage?group_by=key",
    "calls",
    "trends",
    "invoice",
    "plan",
    "limits",
)
HTMX = {"HX-Request": "true"}


def words(html: str) -> str:
    """What is read: no tags, single spaces."""
    return (
        re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))
        .replace("\N{NO-BREAK SPACE}", " ")
        .replace(" ,", ",")
        .replace(" .", ".")
    )


def busy(visit: Visit, **options: Any) -> Visitor:
    visitor = visit(**{"plan": "launch", **options})
    add_days(visitor.owned.key, now=timezone.now(), days=60, calls=5000)
    return visitor


# -- States of the overview ----------------------------------------------------------------------------------------------
def test_before_the_first_call_there_is_one_command(visit: Visit) -> None:
    acme = visit()
    text = acme.page()
    key = acme.owned.key
    assert f"Bearer {key.prefix}_..." in text
    assert f"{settings.PUBLIC_URL}/sandbox/v1/auth/session" in text
    assert "Waiting for the first call" in text


@pytest.mark.parametrize("outcome", ["billable", "failed", "refused"])
def test_the_first_call_replaces_the_command(visit: Visit, outcome: str) -> None:
    acme = visit()
    calls: dict[str, Any] = {outcome: 1}
    add_usage(acme.owned.key, timezone.now(), **calls)
    text = acme.page("", headers=HTMX)
    assert "Waiting for the first call" not in text
    assert "By capability" in text


def test_the_overview_shows_the_same_numbers_as_the_statement(visit: Visit) -> None:
    acme = busy(visit)
    statement = estimates.statement(account=acme.owned.account, now=timezone.now())
    text = words(acme.page())
    assert f"{statement.used:,} of 100,000" in text
    assert f"Not billed: {statement.total.counts.failed:,} failed calls, 0 refused." in text
    assert re.search(r"Counted to \d\d:\d\d:\d\d \(UTC\)", text)
    assert "$19.00" in text


def test_included_calls_that_run_out_are_told_with_the_price_beyond(visit: Visit) -> None:
    text = words(busy(visit).page())
    assert re.search(r"At this rate the included calls run out on \d+ \w+, \d\d:\d\d \(UTC\)", text)
    assert "After that each 1,000 calls cost $0.25." in text


def test_over_included_says_how_much_and_what_goes_on(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), billable=110_000)
    text = words(acme.page())
    assert "The included calls are used up: 10,000 calls over, $2.50 so far." in text
    assert "Each further 1,000 calls cost $0.25." in text
    assert "10,000 over the included" in text


def test_refusing_says_since_when_and_until_when(visit: Visit) -> None:
    globex = visit("Globex", plan="free")
    add_usage(globex.owned.key, timezone.now() - timedelta(days=2), billable=5000)
    add_usage(globex.owned.key, timezone.now(), refused=70)
    text = words(globex.page())
    assert "All 5,000 included calls are used." in text
    assert re.search(r"refused with 429 since \d+ \w+, \d\d:\d\d \(UTC\), until \d+ \w+, \d\d:\d\d \(UTC\)", text)
    assert "70 refused" in text


def test_a_hard_limit_that_is_reached_is_called_yours(visit: Visit) -> None:
    acme = visit(plan="launch", hard_limit=1000)
    add_usage(acme.owned.key, timezone.now() - timedelta(days=2), billable=1000)
    assert "Your hard limit of 1,000 calls is reached." in words(acme.page())


def test_a_hard_limit_that_is_near_warns(visit: Visit) -> None:
    acme = visit(plan="launch", hard_limit=1000)
    add_usage(acme.owned.key, timezone.now() - timedelta(days=2), billable=950)
    text = words(acme.page())
    assert "50 calls are left to your hard limit." in text
    assert "950 of 1,000" in text


def test_unlimited_plans_have_no_meter_and_no_warning(visit: Visit) -> None:
    acme = visit(plan="enterprise")
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), billable=9_000_000)
    html = acme.page()
    assert "9,000,000 unlimited" in words(html)
    assert 'class="meter"' not in html
    assert 'id="notice"' not in html


def test_a_quiet_tenant_has_no_strip(visit: Visit) -> None:
    acme = visit(plan="scale")
    add_usage(acme.owned.key, timezone.now() - timedelta(days=1), billable=600)
    assert 'id="notice"' not in acme.page()


@pytest.mark.parametrize("name", ["", "invoice"])
def test_nothing_is_projected_in_the_first_tenth(visit: Visit, name: str) -> None:
    acme = visit(plan="launch", into=timedelta(days=1))
    add_usage(acme.owned.key, timezone.now(), billable=6000)
    text = words(acme.page(name))
    assert "Too early in the period to say; shown from" in text
    assert "likely" not in text.lower()


def test_nothing_is_projected_from_a_handful_of_calls(visit: Visit) -> None:
    acme = visit(plan="launch")
    add_usage(acme.owned.key, timezone.now(), billable=7)
    assert "It needs 50 calls to go by." in words(acme.page())


# -- The chart -------------------------------------------------------------------------------------------------------------
def test_what_is_projected_for_the_days_adds_up_to_the_projection(visit: Visit) -> None:
    acme = busy(visit)
    statement = estimates.statement(account=acme.owned.account, now=timezone.now())
    assert statement.projection
    days = daily.expected(statement)
    assert sum(days) == statement.projection.likely - statement.used
    assert min(days) >= 0
    assert not any(days[: MIDDLE.days - 1])


def test_a_blocking_plan_projects_no_day_beyond_its_limit(visit: Visit) -> None:
    globex = visit("Globex", plan="free")
    for back in range(10):
        add_usage(globex.owned.key, timezone.now() - timedelta(days=back), billable=450)
    statement = estimates.statement(account=globex.owned.account, now=timezone.now())
    assert sum(daily.expected(statement)) == 500
    assert daily.expected(statement)[-1] == 0


def test_the_table_below_the_chart_has_the_same_numbers(visit: Visit) -> None:
    acme = busy(visit)
    statement = estimates.statement(account=acme.owned.account, now=timezone.now())
    scope = usage.Scope.of_period(acme.owned.tenant.pk, statement.period)
    html = acme.page()
    assert "The same as a table" in html
    for day in {at for at, _, _ in usage.daily(scope)}:
        assert f'datetime="{day:%Y-%m-%d}T00:00:00Z"' in html


# -- The other pages ------------------------------------------------------------------------------------------------------
def test_usage_breaks_down_by_project_and_key(visit: Visit) -> None:
    acme = busy(visit)
    by_project, by_key = words(acme.page("usage?by=project")), words(acme.page("usage?by=key"))
    assert acme.owned.key.project.name in by_project
    assert f"First key {acme.owned.key}" in by_key
    for text in (by_project, by_key, words(acme.page("usage"))):
        assert "p50 p95 p99" in text
        assert "Failed Error rate Refused" in text


def test_an_unknown_breakdown_is_read_as_capability(visit: Visit) -> None:
    assert "Capability" in busy(visit).page("usage?by=nonsense")


def test_a_revoked_key_keeps_its_usage(visit: Visit) -> None:
    acme = busy(visit)
    keys.revoke(key=acme.owned.key, actor="test", now=timezone.now())
    assert "First key" in acme.page("usage?by=key")


def test_the_cause_of_a_change_is_named(visit: Visit) -> None:
    acme = visit(plan="launch")
    now = timezone.now()
    for at, storage in ((now - timedelta(days=1), 900), (now - timedelta(days=36), 300)):
        add_usage(acme.owned.key, at, capability="auth", billable=100)
        add_usage(acme.owned.key, at, capability="storage", billable=storage)
    text = words(acme.page("trends"))
    assert "600 calls more than on the same days of the last period (+150 %); mostly storage (+600)." in text


def test_the_invoice_shows_its_arithmetic(visit: Visit) -> None:
    acme = busy(visit)
    add_usage(acme.owned.key, timezone.now() - timedelta(days=2), billable=90_000)
    statement = estimates.statement(account=acme.owned.account, now=timezone.now())
    overage = statement.invoice.line("overage")
    assert overage
    text = words(acme.page("invoice"))
    row = f"So far {statement.used:,} 100,000 {overage.quantity:,} $0.25 per 1,000 ${overage.amount_minor / 100:.2f} $19.00"
    assert row in text
    assert re.search(r"So far .* Low .* Likely .* High .* Method: weekdays of the last eight weeks\.", text)


def test_a_plan_that_refuses_says_that_nothing_is_charged_beyond_it(visit: Visit) -> None:
    assert "refused, not billed: there is no overage" in words(busy(visit, plan="free").page("invoice"))


def test_the_plan_page_has_the_own_terms_and_the_four_tiers(visit: Visit) -> None:
    text = words(visit(plan="launch", included=250_000).page("plan"))
    assert (
        "Launch $19.00 per period Paid by agreement, not through Stripe. Included calls 250,000 Beyond them $0.25"
        in text
    )
    for tier in ("Free $0.00", "Launch yours $19.00", "Scale $49.00", "Enterprise By agreement"):
        assert tier in text


@pytest.mark.parametrize("slug", EXPLANATIONS)
def test_every_problem_is_explained_to_anybody(db: None, client: Client, slug: str) -> None:
    answer = client.get(type_address(slug).removeprefix(settings.PUBLIC_URL))
    assert answer.status_code == 200
    assert "What to do" in answer.content.decode()


def test_every_problem_type_of_the_code_has_a_page() -> None:
    source = "".join(
        path.read_text() for app in ("tenants", "metering", "billing") for path in (ROOT / app).rglob("*.py")
    )
    named = set(re.findall(r'slug(?:: str)? ?= ?"([a-z][a-z-]+)"', source)) - {"error", "internal-error"}
    assert named <= EXPLANATIONS.keys()


def test_an_unknown_problem_is_not_found(db: None, client: Client) -> None:
    assert client.get("/problems/nothing").status_code == 404


# -- How pages are answered ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EVERY_PAGE)
def test_htmx_gets_the_region_and_everybody_else_the_page(visit: Visit, name: str) -> None:
    acme = busy(visit)
    address = f"/t/{acme.slug}/{name}"
    whole, part = acme.client.get(address), acme.client.get(address, headers=HTMX)
    assert "<!doctype html>" in whole.content.decode()
    assert "<html" not in part.content.decode()
    assert "UTC" in part.content.decode() or name == "limits"
    for answer in (whole, part):
        assert "HX-Request" in answer["Vary"]
        assert "no-store" in answer["Cache-Control"]
    back = acme.client.get(address, headers={**HTMX, "HX-History-Restore-Request": "true"})
    assert "<!doctype html>" in back.content.decode()


@pytest.mark.parametrize("name", ["", "usage", "usage?group_by=key"])
def test_a_poll_asks_few_questions(visit: Visit, name: str, django_assert_max_num_queries: Any) -> None:
    acme = busy(visit)
    with django_assert_max_num_queries(12):
        acme.page(name, headers=HTMX)


def test_no_page_needs_a_weaker_policy(visit: Visit, client: Client) -> None:
    acme = busy(visit)
    pages = [acme.page(page) for page in EVERY_PAGE] + [visit("Globex").page()]
    pages += [client.get(address).content.decode() for address in ("/login", "/problems/no-plan", "/nothing-here")]
    for html in pages:
        assert not re.search(r"\sstyle=", html)
        assert "<style" not in html
        assert not re.search(r"<script(?![^>]*\ssrc=)", html)
        assert not re.search(r"\s(on\w+|hx-on[^=]*)=", html)
        assert "http://" not in re.sub(re.escape(settings.PUBLIC_URL) + "|http://www.w3.org", "", html)


def test_pages_and_exports_are_compressed_and_the_api_answers_at_once(visit: Visit) -> None:
    acme = busy(visit)
    takes_gzip = {"accept-encoding": "gzip"}
    for address in ("usage", "usage.csv", "calls.csv"):
        plain = acme.client.get(f"/t/{acme.slug}/{address}")
        packed = acme.client.get(f"/t/{acme.slug}/{address}", headers=takes_gzip)
        assert ("content-encoding" in plain, packed["content-encoding"]) == (False, "gzip"), address
        whole = gzip.decompress(b"".join(packed) if packed.streaming else packed.content)
        if address.endswith("csv"):
            assert whole == b"".join(plain)
    told = Client().get("/api/v1/usage", headers={**takes_gzip, "authorization": f"Bearer {acme.owned.api_key}"})
    assert (told.status_code, "content-encoding" in told) == (200, False)


def test_links_lead_to_pages_that_exist(visit: Visit) -> None:
    acme = busy(visit)
    links = {
        link
        for page in EVERY_PAGE
        for link in re.findall(r'href="(/[^"#?]*)', acme.page(page))
        if not link.startswith("/static/")
    }
    assert len(links) > 5
    for link in links:
        assert acme.client.get(link).status_code in (200, 302), link


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_every_amount_and_date_survives_another_language(visit: Visit, name: str) -> None:
    """Coordinates keep their point and numbers their commas where a language would write them otherwise."""
    acme = busy(visit)
    html = acme.page(name, headers={"Accept-Language": "de"})
    assert not re.search(r'(?:x|y|width|height)="\d+,\d+', html)


# -- Errors ------------------------------------------------------------------------------------------------------------------
def test_the_outage_page_asks_the_database_nothing(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = visit()

    def fail(*_: Any, **__: Any) -> None:
        raise OperationalError("the server is gone")

    monkeypatch.setattr(reading, "overview_of", fail)
    answer = acme.client.get(f"/t/{acme.slug}/")
    assert answer.status_code == 503
    assert answer["Retry-After"] == "1"
    assert "Temporarily unavailable" in answer.content.decode()


@pytest.mark.parametrize("name", ["400", "403", "403_csrf", "404", "500", "503"])
def test_error_pages_touch_neither_user_nor_session(name: str) -> None:
    """They must render when nothing else works: no template they use names the user, the session or messages."""
    templates = Path(settings.BASE_DIR / "templates")
    text = "".join((templates / file).read_text() for file in (f"{name}.html", "plain.html", "base.html", "brand.html"))
    tags = re.findall(r"{[{%](.*?)[%}]}", re.sub(r'"[^"]*"|{% comment %}.*?{% endcomment %}', "", text))
    assert not re.search(r"\b(user|session|messages|request|perms)\b", " ".join(tags))
