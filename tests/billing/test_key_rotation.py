"""Keys and secrets: exchanged while everything runs, and never shown."""

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from djstripe import models as mirrored

from billing import mirror, stripe_api
from billing.errors import StripeError, StripeNotConfigured
from billing.models import StripePrices
from billing.stripe_api import connection
from tests.billing.conftest import KEY, THIN_WEBHOOK_SECRET, WEBHOOK_SECRET, Stripe, Subscribe

Prices = Callable[[str], StripePrices]
WRONG_KEY = "sk_live_" + "wrongMode" * 4
NEXT_KEY = "rk_test_" + "rotatedStripe0" * 2


def mirrored_keys() -> set[str]:
    return set(mirrored.APIKey.objects.values_list("secret", flat=True))


def test_a_rotated_key_is_used_from_the_next_request_on(stripe: Stripe, subscribe: Subscribe, settings: Any) -> None:
    acme = subscribe("launch")
    stripe.simulator.accept_keys(KEY, NEXT_KEY)
    settings.STRIPE_TEST_SECRET_KEY = NEXT_KEY
    assert stripe_api.subscriptions_of(acme.customer_id or "")
    stripe.simulator.accept_keys(NEXT_KEY)  # the former one is expired
    assert stripe_api.subscriptions_of(acme.customer_id or "")
    settings.STRIPE_TEST_SECRET_KEY = KEY
    with pytest.raises(StripeNotConfigured):
        stripe_api.subscriptions_of(acme.customer_id or "")


def test_the_mirror_goes_on_with_the_new_key_alone(
    stripe: Stripe, subscribe: Subscribe, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    acme = subscribe("launch")
    mirror.copy("subscription", acme.subscription_id or "")
    assert mirrored_keys() <= {KEY}
    stripe.simulator.accept_keys(NEXT_KEY)
    settings.STRIPE_TEST_SECRET_KEY = NEXT_KEY
    stripe.client.v1.subscriptions.update(acme.subscription_id or "", {"metadata": {"seen": "after the rotation"}})
    with caplog.at_level(logging.ERROR):
        mirror.copy("subscription", acme.subscription_id or "")
    assert not [record for record in caplog.records if record.name == "billing.mirror"]
    row = mirrored.Subscription.objects.get(id=acme.subscription_id)
    assert row.stripe_data["metadata"]["seen"] == "after the rotation"
    assert mirrored_keys() <= {NEXT_KEY}


def test_the_mirror_is_as_stripe_has_it(stripe: Stripe, subscribe: Subscribe, prices: Prices) -> None:
    acme = subscribe("launch")
    invoice_id = stripe_api.subscription(acme.subscription_id or "").latest_invoice_id
    kinds = {
        "customer": (acme.customer_id or "", mirrored.Customer),
        "subscription": (acme.subscription_id or "", mirrored.Subscription),
        "invoice": (invoice_id, mirrored.Invoice), "price": (prices("launch").usage_price_id, mirrored.Price),
        "product": (prices("launch").product_id, mirrored.Product),
    }  # fmt: skip
    for _ in range(2):
        for kind, (object_id, model) in kinds.items():
            mirror.copy(kind, object_id)
            assert model.objects.filter(id=object_id).count() == 1, kind


def test_what_cannot_be_mirrored_stops_nobody(
    stripe: Stripe, subscribe: Subscribe, caplog: pytest.LogCaptureFixture
) -> None:
    acme = subscribe("launch")
    stripe.faults.add("error_500_before", method="GET", path="/v1/subscriptions/")
    with caplog.at_level(logging.ERROR):
        mirror.copy("subscription", acme.subscription_id or "")
        mirror.copy("subscription", "sub_nobody")
        mirror.copy("a kind that nobody knows", "xyz_1")
    assert [record.levelname for record in caplog.records if record.name == "billing.mirror"] == ["ERROR"]
    assert KEY not in caplog.text


# -- Nothing shows them ----------------------------------------------------------------------------------------------------
def page_of(error: BaseException, *, is_debug: bool) -> str:
    """What Django would show, or mail, of an error in a view."""
    request = RequestFactory().get("/")
    reporter = ExceptionReporter(request, type(error), error, error.__traceback__)
    return reporter.get_traceback_html() if is_debug else reporter.get_traceback_text()


@pytest.mark.parametrize("fault", ["drop_after", "error_500_before", "garbage", "rate_limit_429", None])
def test_neither_logs_nor_error_pages_show_a_key(
    stripe: Stripe, settings: Any, caplog: pytest.LogCaptureFixture, fault: str | None
) -> None:
    if fault:
        stripe.faults.add(fault, path="/v1/")
    else:
        stripe.simulator.accept_keys(NEXT_KEY)  # and ours is refused
    caplog.set_level(logging.DEBUG)
    for name in ("stripe", "urllib3", "requests", "billing"):
        caplog.set_level(logging.DEBUG, logger=name)
    with pytest.raises(StripeError) as caught:
        stripe_api.subscriptions_of("cus_1")
    logging.getLogger("billing.test").error("It failed", exc_info=caught.value)
    shown = [caplog.text, str(caught.value), repr(caught.value)]
    for settings.DEBUG in (True, False):
        shown += [page_of(caught.value, is_debug=True), page_of(caught.value, is_debug=False)]
    for secret in (KEY, WEBHOOK_SECRET, THIN_WEBHOOK_SECRET):
        assert not [text for text in shown if secret in text]


def test_a_key_of_the_wrong_mode_is_not_shown(settings: Any) -> None:
    settings.STRIPE_LIVE_MODE, settings.STRIPE_TEST_SECRET_KEY = False, WRONG_KEY
    try:
        stripe_api.secret_key()
    except StripeNotConfigured:
        error = sys.exc_info()[1]
    assert error is not None
    for settings.DEBUG in (True, False):
        assert WRONG_KEY not in page_of(error, is_debug=True)


def test_a_key_in_an_answer_of_stripe_is_taken_out() -> None:
    said = connection.safe("Invalid API Key provided: sk_test_abc123, whsec_xyz and rk_live_****1234\nat once")
    assert said == "Invalid API Key provided: [removed], [removed] and [removed] at once"


def test_the_database_holds_only_what_the_mirror_needs(stripe: Stripe, subscribe: Subscribe, now: datetime) -> None:
    subscribe("launch")
    assert not mirrored_keys()  # without the mirror not even that
