"""What customers do to control what they spend, from the first click to its effect, in a real browser with real calls."""

import csv
import re
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from django.core import mail
from django.utils import timezone
from playwright.sync_api import expect

from billing import alerting
from tenants import directory, members, notices
from tenants.models import Role
from tests.clients import get

from .test_in_browser import (  # the browser's fixtures
    SECONDS,
    MakeOwner,
    Open,
    browser_type_launch_args,
    complaints,
    make_owner,
    open_context,
    sign_in,
    site,
)

__all__ = ["browser_type_launch_args", "complaints", "make_owner", "open_context", "site"]
SESSION = "/sandbox/v1/auth/session"
PASSWORD = "correct horse battery"


def call(site: str, key: str) -> int:
    parts = urlsplit(site)
    return get((parts.hostname or "", parts.port or 0), SESSION, key).status


def number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def test_filter_usage_and_export_it(
    open_context: Open, make_owner: MakeOwner, complaints: list[str], tmp_path: Path
) -> None:
    page = sign_in(open_context(accept_downloads=True), make_owner())
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Usage").click()
    page.get_by_label("Capability").select_option("storage")
    expect(page).to_have_url(re.compile("capability=storage"))
    total = page.locator("#buckets-table tfoot td").first
    expect(page.locator("#breakdown")).not_to_contain_text("auth")
    with page.expect_download() as coming:
        page.get_by_role("link", name="Download CSV").click()
    coming.value.save_as(tmp_path / "usage.csv")
    with (tmp_path / "usage.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert sum(int(row["billable"]) for row in rows) == number(total.inner_text()) > 0
    assert complaints == []


def test_compare_plans_on_the_same_usage(open_context: Open, make_owner: MakeOwner, complaints: list[str]) -> None:
    page = sign_in(open_context(), make_owner(calls=200_000))
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Plan", exact=True).click()
    table = page.get_by_role("region", name="What this period costs on each plan")
    costs = {row.split("\t")[0].split("\n")[0].strip(): row for row in table.locator("tbody tr").all_inner_texts()}
    assert len(costs) >= 3
    expect(table.locator("tr.main")).to_contain_text("Launch")
    expect(table.locator("tr.main")).to_contain_text("$")
    assert complaints == []


def test_set_a_hard_limit_and_watch_it_refuse(
    open_context: Open, make_owner: MakeOwner, complaints: list[str], site: str
) -> None:
    owned = make_owner(calls=0)
    page = sign_in(open_context(), owned)
    assert [call(site, owned.api_key) for _ in range(2)] == [200, 200]
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Alerts and limits").click()
    page.get_by_label("Calls per period").fill("3")
    page.get_by_role("button", name="See what it does").click()
    expect(page.locator("#effect")).to_contain_text("What it does:", timeout=SECONDS)
    page.locator("#hard-limit").get_by_role("button", name="Save the limit").click()
    expect(page.get_by_label("Calls per period")).to_have_value("3")
    found = [call(site, owned.api_key) for _ in range(6)]
    assert found.count(200) == 1
    assert set(found) == {200, 429}
    page.goto(f"/t/{owned.tenant.slug}/")
    expect(page.locator("#notice")).to_be_visible(timeout=SECONDS)
    assert complaints == []


def test_an_alert_fires_once(open_context: Open, make_owner: MakeOwner, complaints: list[str], site: str) -> None:
    owned = make_owner(calls=0, included=10, burst_per_second=1000)
    page = sign_in(open_context(), owned)
    for _ in range(5):
        assert call(site, owned.api_key) == 200
    alerts = page.locator("#recent-alerts")
    expect(alerts).to_contain_text("50 % of the included calls are used", timeout=SECONDS)
    for _ in range(2):
        assert call(site, owned.api_key) == 200
        alerting.tell(now=timezone.now())
        notices.send_due(now=timezone.now() + timedelta(minutes=30))
    told = [one for one in mail.outbox if owned.user.email in one.recipients() and "50" in str(one.subject)]
    assert len(told) == 1
    page.reload()
    expect(alerts.get_by_text("50 % of the included calls are used")).to_have_count(1)
    assert complaints == []


def test_invite_a_member_for_one_project(
    open_context: Open, make_owner: MakeOwner, complaints: list[str], site: str
) -> None:
    owned = make_owner(plan="scale")
    lab = directory.add_project(tenant=owned.tenant, name="Laboratory", actor="test")
    page, email = sign_in(open_context(), owned), f"bob-{owned.tenant.slug}@example.com"
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Team").click()
    page.locator("#invite").get_by_label("E-mail address").fill(email)
    page.locator("#invite").get_by_label("Developer").check()
    page.get_by_label("Only these:").check()
    page.locator("#invite").get_by_label(lab.name).check()
    page.get_by_role("button", name="Send the invitation").click()
    expect(page.locator("#invited")).to_contain_text(email)
    mail.outbox.clear()
    notices.send_due(now=timezone.now() + timedelta(minutes=30))
    (letter,) = [one for one in mail.outbox if email in one.recipients()]
    (link,) = re.findall(r"/invitations/[\w-]+", str(letter.body))
    guest = open_context().new_page()
    guest.goto(link)
    guest.get_by_role("link", name="Create your account").click()
    guest.get_by_label("Password").fill(PASSWORD)
    guest.get_by_role("button", name="Create the account").click()
    guest.goto(link)
    guest.get_by_role("button", name=f"Join {owned.tenant.name}").click()
    expect(guest.get_by_role("heading", level=1)).to_have_text("Usage")
    guest.goto(f"/t/{owned.tenant.slug}/projects")
    expect(guest.get_by_role("main")).to_contain_text("Laboratory")
    expect(guest.get_by_role("main")).not_to_contain_text(owned.key.project.name)
    assert guest.request.get(f"/t/{owned.tenant.slug}/invoice").status == 403
    assert complaints == []


def test_switch_the_tenant(open_context: Open, make_owner: MakeOwner, complaints: list[str]) -> None:
    acme, globex = make_owner(), make_owner("Globex", calls=0)
    members.add(tenant=globex.tenant, user=acme.user, role=Role.VIEWER, actor="test")
    page = sign_in(open_context(), acme)
    page.locator("header summary").filter(has_text=acme.tenant.name).click()
    page.get_by_role("list", name="Your tenants").get_by_role("link", name="Globex").click()
    expect(page).to_have_url(re.compile(f"/t/{globex.tenant.slug}/"))
    expect(page.locator("header.top")).to_contain_text("Globex")
    page.goto("/")
    expect(page).to_have_url(re.compile(f"/t/{globex.tenant.slug}/"))
    assert complaints == []
