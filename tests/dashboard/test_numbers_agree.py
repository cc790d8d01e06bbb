"""Page, API, CSV and ledger say the same of the same filter: over random filters on a random history, corrections among it."""

import csv
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from random import Random
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from django.db import connection
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.onboarding import Onboarded
from metering import adjustments, partitions
from metering.database import conninfo
from metering.ledger import commit
from metering.models import Call
from metering.periods import containing
from metering.recorder import Batch, call_id
from tenants import directory
from tenants.keys import issue
from tenants.models import ApiKey
from tests.conftest import MakeTenant
from tests.metering.test_recovery import entry

from .test_pages import words

DAYS = 34
COUNTS = ("billable", "units", "failed", "rejected")
ROWS = """
SELECT occurred_at, capability, project_id, api_key_id, outcome, calls, units FROM metering_call WHERE tenant_id = %(tenant)s
UNION ALL
SELECT occurred_at, capability, project_id, api_key_id, 'billable', calls, units FROM metering_adjustment
WHERE tenant_id = %(tenant)s
"""


class History:
    """A tenant with some weeks of calls of three keys in two projects, some of them corrected."""

    def __init__(self, owned: Onboarded, now: datetime, random: Random) -> None:
        self.owned, self.now, self.start = (
            owned,
            now,
            (now - timedelta(days=DAYS)).replace(minute=0, second=0, microsecond=0),
        )
        other = directory.add_project(tenant=owned.tenant, name="Other", actor="test")
        made = [
            issue(project=project, name=f"k{project.slug}", actor="test")[0] for project in (owned.key.project, other)
        ]
        self.keys: list[ApiKey] = [owned.key, *made]
        partitions.ensure(calls_from=self.start, hours_from=self.start, now=now)
        with psycopg.connect(conninfo(), autocommit=True) as database:
            commit(database, Batch(tuple(self._entry(random) for _ in range(150)), {}))
        self._correct(random)
        self.client = Client()
        self.client.force_login(owned.user)

    def _entry(self, random: Random) -> Any:
        at = self.start + timedelta(seconds=random.randrange(DAYS * 86_400))
        key = random.choice(self.keys)
        outcome, status = random.choice([("billable", 200), ("billable", 404), ("failed", 503), ("refused", 429)])
        period = containing(self.owned.tenant.allowance.anchor, at)
        return entry(
            self.owned, id=call_id(at.timestamp()), occurred_at=at.timestamp(), project_id=key.project_id, key_id=key.id,
            capability=random.choice(["auth", "storage", "e-mail"]), outcome=outcome, status=status,
            units=random.choice([1, 1, 5]) if outcome == "billable" else 0, latency_us=random.randrange(10**6),
            period_start=period.start.timestamp(), period_end=period.end.timestamp(),
        )  # fmt: skip

    def _correct(self, random: Random) -> None:
        tenant = self.owned.tenant
        billed = list(Call.objects.filter(tenant=tenant, outcome="billable").values_list("id", flat=True)[:4])
        changes = [adjustments.planned_void(tenant=tenant, call_id=billed[0])]
        changes += [adjustments.planned_amend(tenant=tenant, call_id=one, units=9) for one in billed[1:]]
        changes.append(
            adjustments.planned_backfill(
                tenant=tenant, key=random.choice(self.keys), capability="storage", calls=12, now=self.now,
                occurred_at=self.now - timedelta(days=random.randrange(DAYS)),
            )
        )  # fmt: skip
        for change in changes:
            adjustments.apply(change, actor="test", reason="as agreed")

    def ledger(self, query: dict[str, str], start: datetime, end: datetime) -> Counter[str]:
        """Counts of the log and its corrections, summed up by hand."""
        keys = {key.prefix: key.id for key in self.keys}
        projects = {"default": self.keys[0].project_id, "other": self.keys[2].project_id}
        found: Counter[str] = Counter()
        with connection.cursor() as cursor:
            cursor.execute(ROWS, {"tenant": self.owned.tenant.id})
            for at, capability, project, key, outcome, calls, units in cursor.fetchall():
                name = "rejected" if outcome == "refused" else outcome
                fits = (
                    start <= at < end
                    and query.get("capability", capability) == capability
                    and ("project" not in query or projects[query["project"]] == project)
                    and ("key" not in query or keys[query["key"]] == key)
                    and query.get("outcome", name) == name
                )  # fmt: skip
                if fits:
                    found[name] += calls
                    found["units"] += units
        return found


FILTERS = st.fixed_dictionaries(
    {
        "granularity": st.sampled_from(["hour", "day", "month"]),
        "group_by": st.sampled_from(["capability", "project", "key", "outcome"]),
    },
    optional={
        "capability": st.sampled_from(["auth", "storage"]),
        "project": st.sampled_from(["default", "other"]),
        "key": st.integers(0, 2), "outcome": st.sampled_from(["billable", "failed", "rejected"]),
        "range": st.tuples(st.integers(0, DAYS * 24), st.integers(1, DAYS * 24)),
    },
)  # fmt: skip


@pytest.fixture
def history(committed: None, make_tenant: MakeTenant, now: datetime) -> History:
    owned = make_tenant(plan="scale", anchor=now - timedelta(days=20))
    return History(owned, now, Random(now.microsecond))


def test_page_api_csv_and_ledger_say_the_same(history: History, call: Callable[..., Any]) -> None:
    @settings(max_examples=8, deadline=None)
    @given(asked=FILTERS)
    def check(asked: dict[str, Any]) -> None:
        query = {name: str(value) for name, value in asked.items() if name not in {"range", "key"}}
        if "key" in asked:
            query["key"] = history.keys[asked["key"]].prefix
        if "range" in asked:
            first, length = asked["range"]
            start = history.start + timedelta(hours=first)
            query |= {
                "from": f"{start:%Y-%m-%dT%H:00:00Z}",
                "to": f"{start + timedelta(hours=length):%Y-%m-%dT%H:00:00Z}",
            }
        agree(history, query, call)

    check()


def agree(history: History, query: dict[str, str], call: Callable[..., Any]) -> None:
    answer = call(history.owned.api_key, f"/api/v1/usage/series?{urlencode(query)}").json()
    points = answer["series"]
    sums: Counter[str] = Counter()
    for point in points:
        sums.update({name: point[name] for name in COUNTS})
    start, end = (datetime.fromisoformat(answer[name]).astimezone(UTC) for name in ("from", "to"))
    if "from" not in query:
        start = history.owned.tenant.allowance.anchor
    assert +sums == +history.ledger(query, start, end)
    assert csv_points(history, query) == [as_text(point) for point in points]
    rows, total = page_numbers(history, query)
    shown = {"failed": "failed", "rejected": "rejected"}.get(query.get("outcome", ""), "billable")
    names = ("billable", "failed", "rejected") if query["group_by"] == "outcome" else (shown,)
    assert total == sum(sums[name] for name in names)
    by_bucket: Counter[str] = Counter()
    for point in points:
        by_bucket[point["start"]] += sum(point[name] for name in names)
    assert +rows == {at: number for at, number in (+by_bucket).items() if at in rows or not rows}
    calls_agree(history, query, start, end)


def csv_points(history: History, query: dict[str, str]) -> list[dict[str, str]]:
    answer = history.client.get(f"/t/{history.owned.tenant.slug}/usage.csv?{urlencode(query)}")
    assert answer.status_code == 200
    text = b"".join(answer).decode()
    return list(csv.DictReader(StringIO(text)))


def as_text(point: dict[str, Any]) -> dict[str, str]:
    latency = {f"latency_ms.{name}": value for name, value in point["latency_ms"].items()}
    flat = {name: value for name, value in point.items() if name != "latency_ms"} | latency
    return {name: "" if value is None else str(value) for name, value in flat.items()}


def page_numbers(history: History, query: dict[str, str]) -> tuple[Counter[str], int]:
    """The column of totals by bucket, of all pages of the table, and the total below it."""
    rows: Counter[str] = Counter()
    total, number, last = 0, 1, 1
    while number <= last:
        address = f"/t/{history.owned.tenant.slug}/usage?{urlencode({**query, 'page': str(number)})}"
        html = history.client.get(address).content.decode()
        table = re.search(r'id="buckets-table".*?</table>', html, re.DOTALL)
        if table is None:
            assert "No calls match" in html
            return rows, 0
        heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", table[0])
        place = heads.index("Total") - 1
        for row in re.findall(r"<tr>(.*?)</tr>", table[0].partition("</thead>")[2], re.DOTALL):
            cells = [int(words(cell).replace(",", "")) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
            at = re.search(r'datetime="([^"]+)"', row)
            assert sum(cells[:place]) == cells[place]
            if at:
                rows[at[1]] = cells[place]
            else:
                total = cells[place]
        pages = re.search(r"Page \d+ of (\d+)", html)
        number, last = number + 1, int(pages[1]) if pages else 1
    return rows, total


def calls_agree(history: History, query: dict[str, str], start: datetime, end: datetime) -> None:
    """The list of calls has the same ones, each as it was recorded: its corrections stand beside it."""
    query = {name: value for name, value in query.items() if name not in {"granularity", "group_by"}}
    answer = history.client.get(f"/t/{history.owned.tenant.slug}/calls.csv?{urlencode(query)}")
    listed: Counter[str] = Counter()
    for row in csv.DictReader(StringIO(b"".join(answer).decode())):
        listed[row["outcome"]] += int(row["calls"])
        listed["units"] += int(row["units"])
    expected = history.ledger(query, start, end)
    with connection.cursor() as cursor:
        cursor.execute(
            ROWS.partition("UNION ALL")[2], {"tenant": history.owned.tenant.id}
        )  # the corrections alone are no calls of the log
        corrections = cursor.fetchall()
    keys = {key.id: key for key in history.keys}
    for at, capability, _project, key, _outcome, calls, units in corrections:
        owner = keys[key]
        fits = start <= at < end and query.get("capability", capability) == capability
        fits = (
            fits and query.get("key", owner.prefix) == owner.prefix and query.get("outcome", "billable") == "billable"
        )
        if fits and query.get("project", owner.project.slug) == owner.project.slug:
            expected["billable"] -= calls
            expected["units"] -= units
    assert +listed == +expected
