"""dj-stripe's rows of Stripe's objects: for operators and reports to look at. Nothing is enforced by them.

dj-stripe asks Stripe by itself for what an object refers to, with the key that is given here: the one of the settings. It
keeps that key in a table of its own, whose rows win where nobody gives one; so a row of a former key is removed.
"""

import logging
from typing import Any

from django.conf import settings
from djstripe import models as mirrored

from . import stripe_api
from .errors import NoSuchObject
from .stripe_objects import id_of

logger = logging.getLogger(__name__)
MODELS: dict[str, Any] = {
    "charge": mirrored.Charge,
    "checkout.session": mirrored.Session,
    "coupon": mirrored.Coupon,
    "customer": mirrored.Customer,
    "dispute": mirrored.Dispute,
    "invoice": mirrored.Invoice,
    "payment_intent": mirrored.PaymentIntent,
    "payment_method": mirrored.PaymentMethod,
    "price": mirrored.Price,
    "product": mirrored.Product,
    "refund": mirrored.Refund,
    "setup_intent": mirrored.SetupIntent,
    "subscription": mirrored.Subscription,
    "subscription_schedule": mirrored.SubscriptionSchedule,
}


def copy(kind: str, object_id: str) -> None:
    """dj-stripe's row is as Stripe has the object now. What cannot be copied is logged and stops nobody."""
    model = MODELS.get(kind)
    if model is None:
        return
    try:
        key = stripe_api.share_address()
        follow_key(key)
        body = stripe_api.raw(kind, object_id)
        _copy_customer_of(body, key)
        model.sync_from_stripe_data(body, api_key=key)
    except NoSuchObject:
        logger.info("%s %s is gone at Stripe; its mirrored row stays as it was.", kind, object_id)
    except Exception:  # dj-stripe raises whatever its parsing meets; enforcement must not depend on it
        logger.exception("%s %s could not be mirrored; the account follows Stripe all the same.", kind, object_id)


def _copy_customer_of(body: Any, key: str) -> None:
    """The customer's row is there first: dj-stripe would ask for more of a customer than a restricted key may read."""
    customer_id = id_of(body.to_dict().get("customer"))
    if customer_id and not mirrored.Customer.objects.filter(id=customer_id).exists():
        mirrored.Customer.sync_from_stripe_data(stripe_api.raw("customer", customer_id), api_key=key)


def follow_key(key: str) -> None:
    """dj-stripe has no other secret key of this mode: a rotated one is replaced, and requests go on with the new one."""
    kinds = ("secret", "restricted")
    stale = mirrored.APIKey.objects.filter(livemode=settings.STRIPE_LIVE_MODE, type__in=kinds).exclude(secret=key)
    if stale.exists():
        stale.delete()
