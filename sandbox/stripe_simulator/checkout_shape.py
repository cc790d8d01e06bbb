"""A Checkout Session before anything has happened to it."""

from .errors import Json
from .world import World


def blank(world: World, customer: Json | None, params: Json, expires_at: int) -> Json:
    identifier = world.new_id("cs_test", 58)
    creation = "always" if params["mode"] == "subscription" else "if_required"
    return {
        "id": identifier,
        "object": "checkout.session",
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": params.get("allow_promotion_codes"),
        "amount_subtotal": None,
        "amount_total": None,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_address_collection": params.get("billing_address_collection"),
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "client_secret": None,
        "collected_information": None,
        "consent": None,
        "consent_collection": None,
        "created": world.now,
        "currency": None,
        "currency_conversion": None,
        "custom_fields": [],
        "custom_text": {
            "after_submit": None, "shipping_address": None, "submit": None, "terms_of_service_acceptance": None,
        },
        "customer": customer["id"] if customer else None,
        "customer_creation": None if customer else creation,
        "customer_details": details(world, customer, params.get("customer_email")),
        "customer_email": params.get("customer_email"),
        "discounts": [
            {"coupon": one.get("coupon"), "promotion_code": one.get("promotion_code")}
            for one in params.get("discounts") or []
        ],
        "expires_at": expires_at,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": params.get("locale"),
        "metadata": params.get("metadata") or {},
        "mode": params["mode"],
        "origin_context": None,
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": params.get("payment_method_collection") or "always",
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": params.get("phone_number_collection") or {"enabled": False},
        "recovered_from": None,
        "saved_payment_method_options": {
            "allow_redisplay_filters": ["always"], "payment_method_remove": "disabled", "payment_method_save": None,
        },
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": params.get("submit_type"),
        "subscription": None,
        "success_url": params["success_url"],
        "tax_id_collection": {"required": "never", "enabled": False, **(params.get("tax_id_collection") or {})},
        "total_details": None,
        "ui_mode": "hosted_page",
        "url": f"{world.settings.url}/c/pay/{identifier}",
        "wallet_options": None,
    }  # fmt: skip


def details(world: World, customer: Json | None, email: str | None) -> Json | None:
    if customer is None:
        return {
            "address": None, "email": email, "name": None, "phone": None, "tax_exempt": "none", "tax_ids": None,
        } if email else None  # fmt: skip
    tax_ids = [{"type": one["type"], "value": one["value"]} for one in world.walk("tax_id", customer=customer["id"])]
    return {
        "address": customer["address"], "email": customer["email"], "name": customer["name"],
        "phone": customer["phone"], "tax_exempt": customer["tax_exempt"], "tax_ids": tax_ids,
    }  # fmt: skip
