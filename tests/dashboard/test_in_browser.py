"""The pages in a real browser: Debian's chromium on a real server, under the strict policy."""

import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone
from playwright.sync_api import Browser, BrowserContext, Page, expect
from pytest_django import DjangoDbBlocker

from billing.onboarding import Onboarded
from tenants.models import Membership, Tenant
from tests.conftest import ROOT, MakeTenant, environment, free_port, listens, wait_until

from .conftest import MIDDLE, add_days, add_usage

CHROMIUM = shutil.which("chromium") or ""
SECONDS = 5_000  # milliseconds: what a page may take to show a new call
AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    if not CHROMIUM:
        reason = "There is no chromium on this machine: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}


@contextmanager
def serving(log: Path, blocker: DjangoDbBlocker, **extra: str) -> Iterator[str]:
    """The address of a running server on the test database."""
    port = free_port()
    with blocker.unblock():
        env = {**environment(port), "WEB_WORKERS": "1", **extra}
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "config.wsgi"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=subprocess.STDOUT)
    wait_until(lambda: listens(port) or process.poll() is not None, seconds=40, what="gunicorn's start")
    assert process.poll() is None, log.read_text()[-2000:]
    yield f"http://127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def site(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("site") / "web.log", django_db_blocker) as url:
        yield url


@pytest.fixture
def make_owner(committed: None, make_tenant: MakeTenant) -> Callable[..., Onboarded]:
    """An owner who can sign in with the returned password, by default of a tenant in the middle of a busy period."""

    def make(name: str = "Acme", *, calls: int = 5000, into: timedelta = MIDDLE, **options: Any) -> Onboarded:
        owned = make_tenant(name, anchor=timezone.now() - into, **{"plan": "launch", **options})
        if calls:
            add_days(owned.key, now=timezone.now(), days=60, calls=calls)
        return owned

    return make


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def open_context(browser: Browser, site: str, complaints: list[str]) -> Iterator[Callable[..., BrowserContext]]:
    """A browser window; what its console complains about is collected, violations of the policy included."""
    opened: list[BrowserContext] = []

    def start(**options: Any) -> BrowserContext:
        context = browser.new_context(base_url=site, **{"reduced_motion": "reduce", **options})
        context.on("console", lambda line: complaints.append(line.text) if line.type in {"error", "warning"} else None)
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        opened.append(context)
        return context

    yield start
    for context in opened:
        context.close()


def sign_in(context: BrowserContext, owned: Onboarded) -> Page:
    page = context.new_page()
    page.goto("/")
    page.get_by_label("E-mail address").fill(owned.user.email)
    page.get_by_label("Password").fill(owned.password or "")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    return page


Open = Callable[..., BrowserContext]
MakeOwner = Callable[..., Onboarded]


def test_a_new_call_shows_within_seconds_and_disturbs_nothing(
    open_context: Open, make_owner: MakeOwner, complaints: list[str]
) -> None:
    owned = make_owner()
    page = sign_in(open_context(), owned)
    tile = page.locator("#tile-included .big")
    before = int(tile.inner_text().split()[0].replace(",", ""))
    page.get_by_text("The same as a table").click()
    page.locator("#why").focus()
    page.locator("#capabilities table").evaluate("table => { table.seen = true }")

    add_usage(owned.key, timezone.now(), capability="auth", billable=7)

    expect(tile).to_contain_text(f"{before + 7:,}", timeout=SECONDS)
    expect(page.locator("#why")).to_be_focused()
    expect(page.locator("#days-numbers")).to_have_attribute("open", "")
    assert page.locator("#capabilities table").evaluate("table => table.seen"), "changed in place, not replaced"
    assert complaints == []


def test_the_first_call_takes_the_place_of_the_command(
    open_context: Open, make_owner: MakeOwner, complaints: list[str]
) -> None:
    owned = make_owner(calls=0, plan="free")
    page = sign_in(open_context(), owned)
    expect(page.locator("#first-call")).to_contain_text(f"Bearer {owned.key.prefix}_...")
    add_usage(owned.key, timezone.now(), billable=1)
    expect(page.locator("#first-call")).to_have_count(0, timeout=SECONDS)
    expect(page.locator("#capabilities")).to_contain_text("auth")
    assert complaints == []


def test_usage_is_live_too(open_context: Open, make_owner: MakeOwner, complaints: list[str]) -> None:
    owned = make_owner()
    page = sign_in(open_context(), owned)
    page.goto(f"/t/{owned.tenant.slug}/usage?by=key")
    add_usage(owned.key, timezone.now(), capability="auth", failed=1_000_000)
    expect(page.locator("#breakdown")).to_contain_text("1,000,", timeout=SECONDS)
    expect(page.locator("#breakdown thead")).to_contain_text("API key")
    assert complaints == []


def test_a_page_that_nobody_looks_at_asks_nothing(open_context: Open, make_owner: MakeOwner) -> None:
    context = open_context()
    page = sign_in(context, make_owner())
    polls: list[str] = []
    page.on("request", lambda request: polls.append(request.url) if "hx-request" in request.headers else None)
    turn = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
    turn += " document.dispatchEvent(new Event('visibilitychange')) }"
    page.evaluate(turn, True)
    page.wait_for_timeout(500)  # one that was on its way
    polls.clear()
    page.wait_for_timeout(4500)
    assert polls == []
    with page.expect_request(lambda request: "hx-request" in request.headers, timeout=1000):
        page.evaluate(turn, False)


def test_a_lost_server_leaves_the_numbers_and_says_so(
    open_context: Open, make_owner: MakeOwner, complaints: list[str]
) -> None:
    context = open_context()
    page = sign_in(context, make_owner())
    state, tile = page.locator("#live-state"), page.locator("#tile-included .big")
    before = tile.inner_text()
    context.set_offline(True)
    expect(state).to_have_text("Not updating; retrying", timeout=SECONDS)
    assert tile.inner_text() == before
    context.set_offline(False)
    expect(state).to_have_text("", timeout=SECONDS)
    assert not [line for line in complaints if "Failed to load resource" not in line and "htmx:" not in line]


def test_a_session_that_ends_while_polling_leads_to_sign_in(open_context: Open, make_owner: MakeOwner) -> None:
    context, owned = open_context(), make_owner()
    page = sign_in(context, owned)
    context.clear_cookies()
    page.wait_for_url(f"**/login?next=/t/{owned.tenant.slug}/", timeout=SECONDS)
    expect(page.get_by_label("E-mail address")).to_be_focused()


def test_everything_works_without_javascript(open_context: Open, make_owner: MakeOwner) -> None:
    acme, globex = make_owner("Acme"), make_owner("Globex", plan="free", calls=10)
    Membership.objects.create(tenant=Tenant.objects.get(pk=globex.tenant.pk), user=acme.user, role="viewer")
    page = sign_in(open_context(java_script_enabled=False), acme)
    expect(page.locator("#tile-spend")).to_contain_text("$19.00")
    page.get_by_text("The same as a table").click()
    expect(page.locator("#days-table table")).to_be_visible()
    for name in ("Usage", "Trends", "Projected invoice", "Plan", "Alerts and limits"):
        page.get_by_role("navigation", name="Main").get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    page.locator(".menu:not(.account) summary").click()
    page.get_by_role("link", name="Globex").click()
    expect(page.locator(".menu .name")).to_have_text("Globex")
    page.locator(".account summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_menus_close_on_escape_and_elsewhere(open_context: Open, make_owner: MakeOwner, complaints: list[str]) -> None:
    page = sign_in(open_context(), make_owner())
    menu = page.locator(".account")
    menu.locator("summary").click()
    expect(menu).to_have_attribute("open", "")
    page.keyboard.press("Escape")
    expect(menu).not_to_have_attribute("open", "")
    expect(menu.locator("summary")).to_be_focused()
    menu.locator("summary").click()
    page.get_by_role("heading", level=1).click()
    expect(menu).not_to_have_attribute("open", "")
    assert complaints == []


def assert_fits_and_is_accessible(page: Page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{page.url} scrolls sideways"
    found = Axe().run(page, options=AXE)
    assert found.violations_count == 0, f"{page.url}\n{found.generate_report()}"


def test_from_sign_up_to_the_first_call_and_through_the_life_of_a_key(
    open_context: Open, committed: None, complaints: list[str]
) -> None:
    page = open_context(
        viewport={"width": 360, "height": 800}, permissions=["clipboard-read", "clipboard-write"]
    ).new_page()

    def status(key: str) -> int:
        """Of a real call with this key."""
        return page.request.get(address, headers={"Authorization": f"Bearer {key}"}).status

    page.goto("/signup")
    page.get_by_label("Organisation").fill("Hooli")
    page.get_by_label("E-mail address").fill(f"{uuid.uuid4().hex}@hooli.example")
    page.get_by_label("Password").fill("tethics and more")
    page.get_by_role("button", name="Create the account").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your first call")
    page.get_by_role("button", name="Copy").first.click()
    expect(page.get_by_role("button", name="Copied").first).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    copied = re.fullmatch(r'curl -i -H "Authorization: Bearer (mh_live_\w+)" (http://\S+)', command)
    assert copied, command
    key, address = copied.groups()
    assert_fits_and_is_accessible(page, 360)
    assert status(key) == 200
    expect(page.locator("#arrival")).to_contain_text("2. It has arrived", timeout=SECONDS)
    expect(page.locator("#command")).to_contain_text(key)
    page.locator("#arrival").get_by_role("link", name="API keys").click()

    page.get_by_role("link", name="New API key").click()
    page.get_by_label("Name", exact=True).fill("Nightly import")
    assert_fits_and_is_accessible(page, 360)
    page.get_by_role("button", name="Make the key").click()
    first = page.locator("#secret").inner_text()
    assert status(first) == 200
    page.get_by_role("link", name="I have it: to the keys").click()
    page.get_by_role("link", name="Rotate Nightly import").click()
    page.get_by_label("For an hour").check()
    page.get_by_role("button", name="Make the new key").click()
    expect(page.locator("#overlap")).to_contain_text("works until")
    second = page.locator("#secret").inner_text()
    assert_fits_and_is_accessible(page, 360)
    assert [status(one) for one in (first, second)] == [200, 200]
    page.get_by_role("link", name="I have it: to the keys").click()
    assert_fits_and_is_accessible(page, 360)
    row = page.get_by_role("row").filter(has_text="Ends soon")
    row.get_by_role("link", name="Revoke Nightly import").click()
    assert_fits_and_is_accessible(page, 360)
    page.get_by_role("button", name="Revoke it").click()
    expect(page.get_by_text("Nightly import is revoked")).to_be_visible()
    wait_until(lambda: status(first) == 401, seconds=5, what="the refusal of the revoked key")
    assert status(second) == 200
    keys = page.url
    for name in ("projects", "projects/default", "projects/default/archive"):
        page.goto(keys.replace("/keys", f"/{name}"))
        assert_fits_and_is_accessible(page, 360)
    assert complaints == []
