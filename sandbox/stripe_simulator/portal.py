"""Customer portal: configurations, sessions, and what a customer can do there."""

from typing import Any

from . import customers, endings, lists, payment_methods
from .errors import Json, refused
from .parameters import BOOLEAN, METADATA, TEXT, chosen, merged_metadata, one_of
from .routes import paged, route
from .world import World

UPDATES = ("address", "email", "name", "phone", "shipping", "tax_id")
FEATURES: Json = {
    "customer_update": {"allowed_updates": [one_of(*UPDATES)], "enabled": BOOLEAN},
    "invoice_history": {"enabled!": BOOLEAN},
    "payment_method_update": {"enabled!": BOOLEAN},
    "subscription_cancel": {"enabled!": BOOLEAN, "mode": one_of("at_period_end", "immediately")},
}
CONFIGURATION: Json = {
    "business_profile": {"headline": TEXT, "privacy_policy_url": TEXT, "terms_of_service_url": TEXT},
    "default_return_url": TEXT,
    "metadata": METADATA,
    "name": TEXT,
}


@route("POST", "/v1/billing_portal/configurations", {**CONFIGURATION, "features!": FEATURES})
def create_configuration(world: World, params: Json) -> Json:
    return world.add(_configuration(world, params), "billing_portal.configuration.created")


def _configuration(world: World, params: Json, *, is_default: bool = False) -> Json:
    profile: Json = {"headline": None, "privacy_policy_url": None, "terms_of_service_url": None}
    return {
        "id": world.new_id("bpc"),
        "object": "billing_portal.configuration",
        "active": True,
        "application": None,
        "business_profile": {**profile, **(params.get("business_profile") or {})},
        "created": world.now,
        "default_return_url": params.get("default_return_url"),
        "features": _features(params.get("features") or {}),
        "is_default": is_default,
        "livemode": False,
        "login_page": {"enabled": False, "url": None},
        "metadata": params.get("metadata") or {},
        "name": params.get("name"),
        "updated": world.now,
    }


def _features(given: Json) -> Json:
    reasons = ["too_expensive", "missing_features", "switched_service", "unused", "other"]
    cancel: Json = {
        "cancellation_reason": {"enabled": False, "options": reasons}, "enabled": False, "mode": "at_period_end",
        "proration_behavior": "none",
    }  # fmt: skip
    update: Json = {
        "default_allowed_updates": [], "enabled": False, "proration_behavior": "none",
        "schedule_at_period_end": {"conditions": []}, "trial_update_behavior": "end_trial",
    }  # fmt: skip
    changes: Json = {"allowed_updates": [], "enabled": False}
    return {
        "customer_update": {**changes, **(given.get("customer_update") or {})},
        "invoice_history": given.get("invoice_history") or {"enabled": False},
        "payment_method_update": {
            "payment_method_configuration": None, **(given.get("payment_method_update") or {"enabled": False}),
        },
        "subscription_cancel": {**cancel, **(given.get("subscription_cancel") or {})},
        "subscription_update": update,
    }  # fmt: skip


@route("GET", "/v1/billing_portal/configurations", paged({"active": BOOLEAN, "is_default": BOOLEAN}))
def configurations(world: World, params: Json) -> Json:
    found = (
        one
        for one in world.walk("billing_portal.configuration")
        if all(params.get(name, one[name]) == one[name] for name in ("active", "is_default"))
    )
    return lists.page(world, params, "/v1/billing_portal/configurations", found)


@route("GET", "/v1/billing_portal/configurations/{configuration}")
def configuration(world: World, params: Json, configuration: str) -> Json:
    return world.load("billing_portal.configuration", configuration)


@route(
    "POST",
    "/v1/billing_portal/configurations/{configuration}",
    {**CONFIGURATION, "active": BOOLEAN, "features": FEATURES},
)
def update_configuration(world: World, params: Json, configuration: str) -> Json:
    found = world.load("billing_portal.configuration", configuration)
    fields: Json = chosen(params, "active", "default_return_url", "name")
    if "features" in params:
        fields["features"] = _features({**found["features"], **params["features"]})
    if "metadata" in params:
        fields["metadata"] = merged_metadata(found["metadata"], params["metadata"])
    return world.change(found, "billing_portal.configuration.updated", **fields, updated=world.now)


@route(
    "POST",
    "/v1/billing_portal/sessions",
    {
        "configuration": TEXT,
        "customer": TEXT,
        "flow_data": {
            "after_completion": {
                "redirect": {"return_url!": TEXT},
                "type!": one_of("hosted_confirmation", "portal_homepage", "redirect"),
            },
            "subscription_cancel": {"subscription!": TEXT},
            "type!": one_of("payment_method_update", "subscription_cancel"),
        },
        "locale": TEXT,
        "return_url": TEXT,
    },
)
def create_session(world: World, params: Json) -> Json:
    if not params.get("customer"):
        raise refused("Missing required param: customer.", param="customer", code="parameter_missing")
    customer = customers.living(world, params["customer"], param="customer")
    chosen = _chosen(world, params.get("configuration"))
    identifier = world.new_id("bps")
    session = {
        "id": identifier,
        "object": "billing_portal.session",
        "configuration": chosen["id"],
        "created": world.now,
        "customer": customer["id"],
        "flow": _flow(world, params.get("flow_data"), customer),
        "livemode": False,
        "locale": params.get("locale"),
        "on_behalf_of": None,
        "return_url": params.get("return_url") or chosen["default_return_url"],
        "url": f"{world.settings.url}/p/session/{identifier}",
    }
    return world.add(session, "billing_portal.session.created")


def _chosen(world: World, identifier: str | None) -> Json:
    """The configuration; without one, the default, which lets customers do everything."""
    if identifier:
        found = world.load("billing_portal.configuration", identifier, param="configuration")
        if not found["active"]:
            raise refused("This configuration is not active.", param="configuration")
        return found
    default = next((one for one in world.all("billing_portal.configuration") if one["is_default"]), None)
    if default:
        return default
    features: Json = {
        "customer_update": {"allowed_updates": list(UPDATES), "enabled": True},
        "invoice_history": {"enabled": True},
        "payment_method_update": {"enabled": True},
        "subscription_cancel": {"enabled": True},
    }
    return world.add(_configuration(world, {"features": features}, is_default=True))


def _flow(world: World, given: Json | None, customer: Json) -> Json | None:
    if given is None:
        return None
    after = given.get("after_completion") or {"type": "portal_homepage"}
    cancel = given.get("subscription_cancel")
    if given["type"] == "subscription_cancel":
        if cancel is None:
            raise refused("Missing required param: flow_data[subscription_cancel].", param="flow_data")
        owned = world.load("subscription", cancel["subscription"], param="flow_data[subscription_cancel][subscription]")
        if owned["customer"] != customer["id"]:
            raise refused("The subscription belongs to another customer.", param="flow_data")
    return {
        "after_completion": {"hosted_confirmation": None, "redirect": after.get("redirect"), "type": after["type"]},
        "subscription_cancel": {"retention": None, **cancel} if cancel else None,
        "subscription_update": None,
        "subscription_update_confirm": None,
        "type": given["type"],
    }


def change_card(world: World, session: Json, behavior: str) -> None:
    """The customer, and their running subscriptions, pay with a new card of this behaviour; raises StripeError."""
    customer = customers.living(world, session["customer"])
    method = payment_methods.for_customer(world, customer, behavior)
    customers.change(world, customer, {"invoice_settings": {"default_payment_method": method["id"]}})
    for subscription in world.all("subscription", customer=customer["id"]):
        if subscription["ended_at"] is None and subscription["default_payment_method"]:
            world.change(subscription, "customer.subscription.updated", default_payment_method=method["id"])


def change_details(world: World, session: Json, form: dict[str, str]) -> None:
    """Name, email, address and tax id are as typed."""
    customer = customers.living(world, session["customer"])
    address: dict[str, Any] = {name: form.get(name) or None for name in customers.EMPTY_ADDRESS}
    fields = {"name": form.get("name") or None, "email": form.get("email") or None, "address": address}
    customers.change(world, customer, fields)
    value = form.get("tax_id", "").strip()
    held = world.all("tax_id", customer=customer["id"])
    if value and value not in {one["value"] for one in held}:
        customers.add_tax_id(world, customer, {"type": form.get("tax_id_type") or "eu_vat", "value": value})


def cancel(world: World, session: Json, subscription_id: str) -> None:
    """The subscription ends with its period (or at once, if the configuration says so)."""
    feature = world.load("billing_portal.configuration", session["configuration"])["features"]["subscription_cancel"]
    subscription = world.load("subscription", subscription_id)
    if not feature["enabled"] or subscription["customer"] != session["customer"]:
        raise refused("This subscription cannot be canceled here.")
    if feature["mode"] == "immediately":
        endings.end(world, subscription)
        return
    at = subscription["items"]["data"][0]["current_period_end"]
    endings.schedule_end(world, subscription, at=at, at_period_end=True)
    world.emit("customer.subscription.updated", subscription, previous={"cancel_at_period_end": False})
