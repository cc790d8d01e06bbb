"""What happens at the simulated Stripe that no customer asks us for: trials, cards that fail, payments given up."""

import json
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from django.conf import settings

from billing import stripe_api
from billing.models import Account, StripePrices

PATIENCE_SECONDS = 10
LOST_REQUESTS = 500  # then it is reachable again


def is_here() -> bool:
    """Whether Stripe is a simulated one, to which anything may be done."""
    return not settings.STRIPE_IS_REAL and bool(settings.STRIPE_TEST_SECRET_KEY)


def begin_trial(account: Account, *, ends_at: datetime) -> None:
    """The subscription is a trial until then."""
    _post(f"/v1/subscriptions/{account.subscription_id}", {"trial_end": str(int(ends_at.timestamp()))})


def fail_payment(account: Account, *, prices: StripePrices) -> None:
    """The customer moved to these prices, and the card refused what was due at once: the subscription is past due."""
    _tell("cards", {"customer": account.customer_id, "behavior": "declines"})
    subscription = stripe_api.subscription(account.subscription_id or "")
    fields = {f"items[{place}][id]": item.id for place, item in enumerate(subscription.items)}
    fields |= {f"items[{place}][deleted]": "true" for place in range(len(subscription.items))}
    new = [{"price": prices.fee_price_id, "quantity": "1"}]
    new += [{"price": prices.usage_price_id}] if prices.usage_price_id else []
    for place, item in enumerate(new, start=len(subscription.items)):
        fields |= {f"items[{place}][{name}]": value for name, value in item.items()}
    fields |= {"proration_behavior": "always_invoice", "payment_behavior": "allow_incomplete"}
    _post(f"/v1/subscriptions/{subscription.id}", fields)


def give_up(account: Account) -> None:
    """Stripe tries the card no more."""
    _tell("subscriptions", {"subscription": account.subscription_id, "status": "unpaid"})


def lose(*, customer_id: str) -> None:
    """Stripe does not answer when it is asked for this customer's invoices."""
    found = _ask("/_simulator/faults")
    if any(rule["about"] == customer_id and rule["fired"] < rule["count"] for rule in found["rules"]):
        return
    rule = {
        "kind": "drop_before",
        "method": "GET",
        "path": "/v1/invoices",
        "about": customer_id,
        "count": LOST_REQUESTS,
    }
    _tell("faults", {"rules": [rule]})


def _post(path: str, fields: dict[str, str]) -> None:
    headers = {"Authorization": f"Bearer {stripe_api.secret_key()}"}
    _open(Request(settings.STRIPE_API_BASE + path, urlencode(fields).encode(), headers))  # noqa: S310 -- our own setting


def _tell(control: str, given: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    address = f"{settings.STRIPE_API_BASE}/_simulator/{control}"
    _open(Request(address, json.dumps(given).encode(), headers))  # noqa: S310 -- our own setting


def _ask(path: str) -> Any:
    return _open(Request(settings.STRIPE_API_BASE + path))  # noqa: S310 -- our own setting


def _open(request: Request) -> Any:
    with urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310 -- our own setting
        return json.load(answer)
