"""docs/stripe.md says what the code needs."""

import re
from pathlib import Path

from django.conf import settings

from billing import reactions

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "stripe.md").read_text()


def test_the_page_lists_the_events_that_are_handled() -> None:
    (block,) = re.findall(r"<!-- events: .*? -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert set(block.split()) == set(reactions.FOLLOWED)
    for event_type in reactions.THIN:
        assert PAGE.count(event_type) == 2  # in the list, and in the line for Stripe's CLI


def test_the_page_names_the_version_and_the_settings() -> None:
    assert settings.STRIPE_API_VERSION in PAGE
    for name in ("STRIPE_LIVE_MODE", "STRIPE_TEST_SECRET_KEY", "STRIPE_LIVE_SECRET_KEY", "STRIPE_WEBHOOK_SECRETS"):
        assert f"`{name}`" in PAGE
    assert settings.BILLING["METER_EVENT_NAME"] in PAGE
