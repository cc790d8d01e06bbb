"""A subscription before anything has happened to it."""

from .errors import Json
from .world import World, listing


def blank(  # noqa: PLR0917
    world: World, identifier: str, customer: Json, params: Json, items: list[Json], currency: str, anchor: int,
    trial_end: int | None,
) -> Json:  # fmt: skip
    settings = {"payment_method_options": None, "payment_method_types": None, "save_default_payment_method": "off"}
    trial_settings = params.get("trial_settings") or {"end_behavior": {"missing_payment_method": "create_invoice"}}
    return {
        "id": identifier,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": anchor,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible"},
        "billing_schedules": [],
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": params.get("collection_method") or "charge_automatically",
        "created": world.now,
        "currency": currency,
        "customer": customer["id"],
        "days_until_due": params.get("days_until_due"),
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": params.get("description"),
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": listing(f"/v1/subscription_items?subscription={identifier}", items),
        "latest_invoice": None,
        "livemode": False,
        "metadata": params.get("metadata") or {},
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {**settings, **(params.get("payment_settings") or {})},
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": world.now,
        "status": "trialing" if trial_end else "incomplete",
        "test_clock": None,
        "transfer_data": None,
        "trial_end": trial_end,
        "trial_settings": trial_settings,
        "trial_start": world.now if trial_end else None,
    }
