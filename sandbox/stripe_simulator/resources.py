"""All modules with routes; importing this one registers them."""

from . import (
    account,
    catalogue,
    changes,
    checkout,
    collection,
    coupons,
    credit_notes,
    customers,
    endpoints,
    events,
    invoice_items,
    invoices,
    meter_events,
    meters,
    payment_methods,
    payments,
    portal,
    previews,
    products,
    refunds,
    renewals,
    schedules,
    setup_intents,
    subscription_items,
    subscriptions,
    thin_events,
)

EVERY = (
    account, catalogue, changes, checkout, collection, coupons, credit_notes, customers, endpoints, events,
    invoice_items, invoices, meter_events, meters, payment_methods, payments, portal, previews, products, refunds,
    renewals, schedules, setup_intents, subscription_items, subscriptions, thin_events,
)  # fmt: skip
