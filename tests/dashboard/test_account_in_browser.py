"""The second step in a real browser, under the strict policy: an app's code, and a passkey of chromium's virtual authenticator."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from billing.onboarding import Onboarded

from .test_account import code_for
from .test_in_browser import (
    AXE,
    MakeOwner,
    Open,
    browser_type_launch_args,
    complaints,
    make_owner,
    open_context,
    serving,
)

__all__ = ["browser_type_launch_args", "complaints", "make_owner", "open_context"]  # fixtures of theirs


@pytest.fixture(scope="module")
def site(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """By name: passkeys belong to names. With the sandbox, they may be used over http."""
    log = tmp_path_factory.mktemp("site") / "web.log"
    with serving(log, django_db_blocker, SANDBOX="true") as url:
        yield url.replace("127.0.0.1", "localhost")


def give_password(page: Page, owned: Onboarded) -> None:
    page.get_by_label("E-mail address").fill(owned.user.email)
    page.get_by_label("Password").fill(owned.password or "")
    page.get_by_role("button", name="Sign in", exact=True).click()


def sign_out(page: Page) -> None:
    page.goto("/account")
    page.locator("details.account summary").click()
    page.get_by_role("button", name="Sign out", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def assert_accessible(page: Page) -> None:
    found = Axe().run(page, options=AXE).response["violations"]
    assert not found, [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def test_codes_and_passkeys_from_switching_on_to_signing_in(
    open_context: Open, make_owner: MakeOwner, complaints: list[str]
) -> None:
    owned = make_owner(calls=0)
    page = open_context(viewport={"width": 360, "height": 800}).new_page()
    passkeys = page.context.new_cdp_session(page)
    passkeys.send("WebAuthn.enable")
    device = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    options = {**device, "isUserVerified": True, "automaticPresenceSimulation": True}
    passkeys.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    page.goto("/login?next=/account")
    assert_accessible(page)
    give_password(page, owned)
    assert_accessible(page)

    page.get_by_role("link", name="Set up an app").click()
    page.get_by_label("Password").fill(owned.password or "")
    page.get_by_role("button", name="Go on").click()
    assert_accessible(page)
    secret = page.locator("code.secret").text_content() or ""
    page.get_by_label("Code that the app shows").fill(code_for(secret, time.time()))
    page.get_by_role("button", name="Switch on").click()
    expect(page.locator(".codes li")).to_have_count(10)
    assert_accessible(page)

    page.goto("/account/passkeys/add")
    page.get_by_label("Name of the passkey").fill("Laptop")
    assert_accessible(page)
    page.get_by_role("button", name="Add the passkey").click()
    expect(page.locator("#second-step")).to_contain_text("Laptop")
    assert_accessible(page)

    sign_out(page)
    give_password(page, owned)
    expect(page.get_by_role("heading", level=1)).to_have_text("Second step")
    assert_accessible(page)
    page.get_by_label(re.compile("Code from your app")).fill(code_for(secret, time.time() + 30))
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")

    sign_out(page)
    page.get_by_role("button", name="Sign in with a passkey").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    assert complaints == []
