"""Every page and every state in a real browser: accessible, in both themes, on narrow and wide screens, light and ours alone.

One browser, one sign-in; a page is loaded once and then resized and recoloured. A new address is covered when it is added.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.test import Client
from django.urls import NoReverseMatch, URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone
from playwright.sync_api import Page, Route, expect

from billing.models import Account, PaymentState
from billing.onboarding import Onboarded
from metering.models import Allowance
from tenants.models import Membership, Role
from tests.canaries import plant

from .addresses import address_of, tenant_pages
from .conftest import add_usage, be
from .test_in_browser import (  # the browser's fixtures
    AXE,
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
WIDTHS = (360, 1440)
NARROWEST = 320
LEAST_BYTES, MOST_BYTES = 5_000, 150_000  # over the wire, on the first visit
COLOURS = {
    "runOnly": {"type": "rule", "values": ["color-contrast"]},
    "resultTypes": ["violations"],
}  # what another theme can change
CHECK = "options => axe.run(options).then(found => found.violations.map(one => [one.id, one.nodes.map(n => n.html)]))"
ASKED_WITH = {"usage": ("", "?by=key")}


@dataclass
class Visited:
    """A page in the browser, and what is wrong with it."""

    page: Page
    faults: list[str] = field(default_factory=list)
    bytes: int = 0

    def enter(self, client: Client, site: str) -> None:
        """The visitor is whom this client is signed in as; signing in by hand has tests of its own."""
        for name, morsel in client.cookies.items():
            self.page.context.add_cookies([{"name": name, "value": morsel.value, "url": site}])

    def open(self, address: str) -> None:
        self.bytes = 0
        self.page.goto(address)
        if not LEAST_BYTES < self.bytes < MOST_BYTES:
            self.faults.append(f"{address} weighs {self.bytes:,} bytes")
        self.check(address)

    def check(self, name: str) -> None:
        """The open page, in each width and theme. Structure is the same in both themes: only colours are looked at twice."""
        self.page.evaluate(AXE_SCRIPT)
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 800})
            for scheme, options in (("light", AXE), ("dark", COLOURS)):
                self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                for rule, nodes in self.page.evaluate(CHECK, options):
                    self.faults.append(f"{name} at {width} px, {scheme}: {rule} {nodes[:2]}")
        self.page.set_viewport_size({"width": NARROWEST, "height": 800})
        if self.page.evaluate("document.documentElement.scrollWidth") > NARROWEST:
            self.faults.append(f"{name} scrolls sideways at {NARROWEST} px")


@pytest.fixture
def visited(open_context: Open, complaints: list[str], site: str) -> Iterator[Visited]:
    page = open_context(viewport={"width": 1440, "height": 800}).new_page()
    seen = Visited(page)

    def count(event: dict[str, Any]) -> None:
        seen.bytes += int(event["encodedDataLength"])

    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.setCacheDisabled", {"cacheDisabled": True})
    session.on("Network.loadingFinished", count)
    host = urlsplit(site).netloc
    page.on(
        "request", lambda asked: seen.faults.append(f"asks {asked.url}") if urlsplit(asked.url).netloc != host else None
    )
    yield seen
    assert seen.faults == []
    assert complaints == []


def public_pages(patterns: list[Any] | None = None, prefix: str = "") -> Iterator[str]:
    """Every address that a person without a tenant can open, of ours and of the packages that serve pages."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if not route.startswith(("admin/", "api/", "webhooks/", "sandbox/v1/")):
                yield from public_pages(pattern.url_patterns, route)
        elif isinstance(pattern, URLPattern) and not pattern.pattern.converters and pattern.name:
            with suppress(NoReverseMatch):
                yield reverse(pattern.name)


def is_page(client: Client, address: str) -> bool:
    answer = client.get(address)
    return answer.status_code == 200 and b"</html>" in getattr(answer, "content", b"")


def test_every_page(visited: Visited, make_owner: MakeOwner, site: str) -> None:
    owned, signed_out, owner = make_owner(), Client(), Client()
    plant(owned)  # the longest and nastiest names: the layout holds, and nothing of them runs
    owner.force_login(owned.user)
    everywhere = list(dict.fromkeys(public_pages()))
    open_to_all = [address for address in everywhere if is_page(signed_out, address)]
    assert {"/login", "/signup"} <= set(open_to_all)
    for address in (*open_to_all, "/problems/payment-required"):
        visited.open(address)
    visited.enter(owner, site)
    inside = [address_of(name, owned) + asked for name in tenant_pages() for asked in ASKED_WITH.get(name, ("",))]
    pages = [address for address in (*everywhere, *inside) if address not in open_to_all and is_page(owner, address)]
    assert len(pages) >= 7
    for address in pages:
        visited.open(address)


def of_account(**values: Any) -> Callable[[Onboarded], object]:
    return lambda owned: Account.objects.filter(pk=owned.tenant.pk).update(**values)


def states() -> dict[str, Callable[[Onboarded], object]]:
    """What stands above the overview's numbers, each made from the one before."""
    now = timezone.now()
    later, ago = now + timedelta(days=2), now - timedelta(days=2)
    nothing = {"past_due_since": None, "trial_ends_at": None, "cancels_at": None, "subscription_id": "sub_states"}
    free = nothing | {"state": PaymentState.NONE, "subscription_id": None}

    def over(owned: Onboarded) -> None:
        of_account(**free)(owned)
        add_usage(owned.key, now, billable=300_000)

    return {
        "trial": of_account(**nothing | {"state": PaymentState.TRIALING, "trial_ends_at": later}),
        "cancels": of_account(**nothing | {"state": PaymentState.ACTIVE, "cancels_at": later}),
        "past-due": of_account(**nothing | {"state": PaymentState.PAST_DUE, "past_due_since": ago}),
        "restricted": of_account(**nothing | {"state": PaymentState.RESTRICTED, "past_due_since": ago}),
        "over the included calls": over,
        "hard limit reached": lambda owned: Allowance.objects.filter(pk=owned.tenant.pk).update(hard_limit=1000),
    }


def test_every_state(visited: Visited, make_owner: MakeOwner, site: str) -> None:
    owned, empty = make_owner(), make_owner("Newborn", plan="free", calls=0)
    Membership.objects.create(tenant=empty.tenant, user=owned.user, role=Role.VIEWER)
    client, page = Client(), visited.page
    client.force_login(owned.user)
    visited.enter(client, site)
    overview = reverse("overview", args=[owned.tenant.slug])
    for name, happen in states().items():
        happen(owned)
        page.goto(overview)
        expect(page.locator(f"#strip-{name}" if "-" in name or " " not in name else "#notice")).to_be_visible()
        visited.check(name)
    page.goto(reverse("overview", args=[empty.tenant.slug]))
    page.locator(".account summary").click()
    visited.check("no usage yet, with the account menu open")
    visited.page.set_viewport_size({"width": 360, "height": 800})
    page.keyboard.press("Escape")
    page.locator(".pages > summary").click()
    expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Trends")).to_be_visible()
    visited.check("the list of pages on a narrow screen")
    be(owned.tenant, Role.DEVELOPER)
    assert page.request.get(reverse("plan", args=[owned.tenant.slug])).status == 403
    Account.objects.filter(pk=owned.tenant.pk).delete()
    page.goto(overview)
    visited.check("no plan")


def test_a_region_says_that_it_comes_and_that_it_failed(
    open_context: Open, make_owner: MakeOwner, complaints: list[str]
) -> None:
    """What the reader asks for, not what polls: the effect of a hard limit before it is saved."""
    owned = make_owner()
    page = sign_in(open_context(), owned)
    page.goto(reverse("limits", args=[owned.tenant.slug]))
    held: list[Route] = []
    page.route("**/limits/hard-limit", lambda route: held.append(route))  # noqa: PLW0108 -- a built-in cannot be wrapped
    page.get_by_role("button", name="See what it does").click()
    expect(page.locator("#effect")).to_have_attribute("aria-busy", "true", timeout=SECONDS)
    held.pop().fulfill(status=503, body="away")
    expect(page.locator("#failed-region")).to_contain_text("This part could not be loaded.")
    expect(page.locator("#effect")).not_to_have_attribute("aria-busy", "true")
    page.unroute("**/limits/hard-limit")
    page.get_by_role("button", name="See what it does").click()
    expect(page.locator("#failed-region")).to_have_count(0, timeout=SECONDS)
    assert not [line for line in complaints if "503" not in line and "htmx:" not in line]
