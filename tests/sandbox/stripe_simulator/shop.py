"""What the tests buy: a plan of a licensed base price and a metered graduated one."""

import http.client
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import stripe as stripe_package
from stripe import StripeClient

from sandbox.stripe_simulator import API_VERSION, StripeSimulator

MONTHLY = {"interval": "month"}
Params = Any  # the package's TypedDicts are too many to name here


def client(simulator: StripeSimulator, *, key: str | None = None, retries: int = 0) -> StripeClient:
    """The real client, pointed at the simulator."""
    return StripeClient(
        key or simulator.settings.api_keys[0],
        base_addresses={"api": simulator.url, "meter_events": simulator.url, "files": simulator.url},
        stripe_version=API_VERSION,
        max_network_retries=retries,
    )


@dataclass(frozen=True)
class Plan:
    """A base price and a price per call beyond the included ones."""

    base: str
    usage: str

    @property
    def items(self) -> Params:
        return [{"price": self.base}, {"price": self.usage}]


@dataclass
class Shop:
    """Acts through the real client."""

    simulator: StripeSimulator
    meter: str = ""
    launch: Plan = field(init=False)
    scale: Plan = field(init=False)

    def __post_init__(self) -> None:
        self.api = client(self.simulator)
        self.v1 = self.api.v1
        meter: Params = {"display_name": "Calls", "event_name": "calls", "default_aggregation": {"formula": "sum"}}
        self.meter = self.v1.billing.meters.create(meter).id
        self.launch = self.plan("Launch", 2_900, included=1_000, overage="0.25")
        self.scale = self.plan("Scale", 9_900, included=10_000, overage="0.1")

    def plan(self, name: str, amount: int, *, included: int, overage: str) -> Plan:
        product = self.v1.products.create({"name": name}).id
        base: Params = {"product": product, "currency": "usd", "unit_amount": amount, "recurring": MONTHLY}
        metered: Params = {
            "product": product,
            "currency": "usd",
            "billing_scheme": "tiered",
            "tiers_mode": "graduated",
            "recurring": {**MONTHLY, "usage_type": "metered", "meter": self.meter},
            "tiers": [{"up_to": included, "unit_amount": 0}, {"up_to": "inf", "unit_amount_decimal": overage}],
        }
        return Plan(self.v1.prices.create(base).id, self.v1.prices.create(metered).id)

    def product(self) -> str:
        return self.v1.products.create({"name": "Another"}).id

    def customer(self, name: str = "acme", *, card: str | None = "pm_card_visa") -> str:
        customer = self.v1.customers.create({"name": name, "email": f"owner@{name}.example"}).id
        if card:
            method = self.v1.payment_methods.attach(card, {"customer": customer}).id
            self.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": method}})
        return customer

    def subscribe(self, customer: str, plan: Plan | None = None, **options: Any) -> stripe_package.Subscription:
        chosen = plan or self.launch
        params: Params = {
            "customer": customer, "items": chosen.items, "billing_mode": {"type": "flexible"}, **options,
        }  # fmt: skip
        return self.v1.subscriptions.create(params)

    def use(self, customer: str, calls: int, *, at: int | None = None, identifier: str | None = None) -> None:
        params: Params = {
            "event_name": "calls",
            "payload": {"stripe_customer_id": customer, "value": str(calls)},
            "timestamp": at or self.simulator.clock.now,
        }
        if identifier:
            params["identifier"] = identifier
        self.v1.billing.meter_events.create(params)

    def items(self, subscription: str) -> dict[str, Any]:
        """Items of a subscription by price."""
        held = self.simulator.subscriptions[subscription]["items"]["data"]
        return {one["price"]["id"]: one for one in held}

    def latest_invoice(self, subscription: str) -> dict[str, Any]:
        return self.simulator.invoices[self.simulator.subscriptions[subscription]["latest_invoice"]]

    def invoices(self, subscription: str) -> list[dict[str, Any]]:
        """The oldest first."""
        return [
            one
            for one in self.simulator.invoices
            if one["parent"] and one["parent"]["subscription_details"]["subscription"] == subscription
        ]

    def event_types(self) -> list[str]:
        return [event["type"] for event in self.simulator.events]


def browse(url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, Location and text of a page; with a form, it is posted. Redirects are not followed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=10)
    try:
        if form is None:
            connection.request("GET", parts.path)
        else:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", parts.path, urlencode(form), headers)
        response = connection.getresponse()
        return response.status, response.getheader("Location", ""), response.read().decode(errors="replace")
    finally:
        connection.close()
