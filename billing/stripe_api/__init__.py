"""The only door to Stripe: our types go in and come out, and what goes wrong is one of our errors.

Only the modules of this package import `stripe`. Where an answer is lost or unreadable it is StripeUnavailable, and whoever asked
looks at what Stripe has now.
"""

from billing.errors import (
    AlreadyDelivered,
    BadSignature,
    CardRefused,
    NoSuchObject,
    SavedFailure,
    StripeError,
    StripeNotConfigured,
    StripeRefused,
    StripeUnavailable,
)
from billing.signatures import verified
from billing.stripe_objects import (
    Checkout,
    Event,
    InvoiceLine,
    Item,
    Meter,
    OpenInvoice,
    Preview,
    PreviewLine,
    Price,
    Product,
    Subscription,
    Tier,
)

from .catalogue import (
    create_meter,
    create_price,
    create_product,
    find_meter,
    find_prices,
    find_product,
    is_subscribed_to,
)
from .connection import PAGE, client, secret_key, share_address
from .customers import card_of, create_customer, find_customer, give_card, has_customer, tenant_of
from .events import account_id, event, raw, thin_event, undelivered_events
from .invoices import invoice_lines, open_invoices
from .meter_events import meter_total, send_meter_event
from .pages import checkout, checkouts_of, create_card_setup, create_checkout, create_portal, expire_checkout
from .subscriptions import (
    preview_next_invoice,
    preview_replacement,
    release_schedule,
    replace_prices,
    schedule_prices,
    scheduled_prices,
    set_cancels_at_period_end,
    subscribe,
    subscription,
    subscriptions_of,
)

__all__ = [
    "PAGE",
    "AlreadyDelivered",
    "BadSignature",
    "CardRefused",
    "Checkout",
    "Event",
    "InvoiceLine",
    "Item",
    "Meter",
    "NoSuchObject",
    "OpenInvoice",
    "Preview",
    "PreviewLine",
    "Price",
    "Product",
    "SavedFailure",
    "StripeError",
    "StripeNotConfigured",
    "StripeRefused",
    "StripeUnavailable",
    "Subscription",
    "Tier",
    "account_id",
    "card_of",
    "checkout",
    "checkouts_of",
    "client",
    "create_card_setup",
    "create_checkout",
    "create_customer",
    "create_meter",
    "create_portal",
    "create_price",
    "create_product",
    "event",
    "expire_checkout",
    "find_customer",
    "find_meter",
    "find_prices",
    "find_product",
    "give_card",
    "has_customer",
    "invoice_lines",
    "is_subscribed_to",
    "meter_total",
    "open_invoices",
    "preview_next_invoice",
    "preview_replacement",
    "raw",
    "release_schedule",
    "replace_prices",
    "schedule_prices",
    "scheduled_prices",
    "secret_key",
    "send_meter_event",
    "set_cancels_at_period_end",
    "share_address",
    "subscribe",
    "subscription",
    "subscriptions_of",
    "tenant_of",
    "thin_event",
    "undelivered_events",
    "verified",
]
