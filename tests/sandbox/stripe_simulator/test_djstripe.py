"""dj-stripe mirrors the simulator's objects: each main kind is synced into its table."""

from typing import Any

import pytest
import stripe as stripe_package
from djstripe import models
from djstripe.settings import djstripe_settings

from sandbox.stripe_simulator import StripeSimulator

from .shop import Shop

pytestmark = pytest.mark.django_db


@pytest.fixture
def mirrored(shop: Shop, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """dj-stripe's own calls (it fetches what an object refers to) go to the simulator."""
    settings.STRIPE_TEST_SECRET_KEY = shop.simulator.settings.api_keys[0]
    settings.STRIPE_LIVE_MODE = False
    monkeypatch.setattr(stripe_package, "api_base", shop.simulator.url)
    monkeypatch.setattr(stripe_package, "api_key", shop.simulator.settings.api_keys[0])
    assert shop.simulator.settings.api_keys[0] == djstripe_settings.STRIPE_SECRET_KEY
    return shop


def sync(model: Any, identifier: str) -> Any:
    """Fetched with what dj-stripe wants expanded: without `discounts` expanded its sync of a discounted invoice fails."""
    key = djstripe_settings.STRIPE_SECRET_KEY
    fetched = model.stripe_class.retrieve(identifier, expand=model.expand_fields, api_key=key)
    return model.sync_from_stripe_data(fetched, api_key=key)


def test_djstripe_syncs_the_main_objects(stripe: StripeSimulator, mirrored: Shop) -> None:
    shop = mirrored
    customer = shop.customer()
    shop.v1.customers.tax_ids.create(customer, {"type": "eu_vat", "value": "DE123456789"})
    coupon = shop.v1.coupons.create({"percent_off": 10, "duration": "forever"}).id
    code = shop.v1.promotion_codes.create({"promotion": {"type": "coupon", "coupon": coupon}}).id
    subscription = shop.subscribe(customer, discounts=[{"promotion_code": code}]).id
    shop.use(customer, 1_500)
    stripe.clock.to_next_invoice()
    stripe.clock.advance(3_600)
    charge = stripe.charges.all(customer=customer)[0]["id"]
    stripe.refund(charge, amount=100)
    stripe.dispute(charge)
    schedule = shop.v1.subscription_schedules.create({"from_subscription": subscription}).id

    kinds = {
        "product": models.Product, "price": models.Price, "customer": models.Customer, "coupon": models.Coupon,
        "payment_method": models.PaymentMethod, "subscription": models.Subscription, "invoice": models.Invoice,
        "payment_intent": models.PaymentIntent, "charge": models.Charge, "refund": models.Refund,
        "dispute": models.Dispute, "subscription_schedule": models.SubscriptionSchedule,
    }  # fmt: skip
    for kind, model in kinds.items():
        for thing in stripe.objects(kind):
            assert sync(model, thing["id"]).id == thing["id"]

    mirror = models.Subscription.objects.get(id=subscription)
    items = mirror.stripe_data["items"]["data"]
    assert {one["price"]["id"] for one in items} == {shop.launch.base, shop.launch.usage}
    assert models.SubscriptionItem.objects.filter(subscription=mirror).count() == 2
    assert models.Invoice.objects.get(id=shop.latest_invoice(subscription)["id"]).status == "paid"
    assert schedule
