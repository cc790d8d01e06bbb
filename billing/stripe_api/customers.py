"""Customers and their cards."""

from uuid import UUID

import stripe

from billing import stripe_objects as objects

from .connection import PAGE, asking, client, options, plain


def create_customer(*, tenant_id: UUID, name: str, email: str, key: str) -> str:
    """The tenant has a customer at Stripe; returns its id."""
    with asking():
        made = client().v1.customers.create(
            {"name": name, "email": email, "metadata": {"tenant_id": str(tenant_id)}}, options(key)
        )
        return str(plain(made)["id"])


def update_customer(*, customer_id: str, name: str, email: str) -> None:
    """The customer is called so and written to there. Without a key: one that had made this change before would undo none since."""
    with asking():
        client().v1.customers.update(customer_id, {"name": name, "email": email})


def find_customer(*, tenant_id: UUID) -> str | None:
    """The tenant's customer that an earlier try made, the newest. Stripe's search may lag a minute behind."""
    with asking():
        query = f"metadata['tenant_id']:'{tenant_id}'"
        found = [plain(one) for one in client().v1.customers.search({"query": query, "limit": PAGE}).data]
    alive = [one for one in found if not one.get("deleted")]
    return str(max(alive, key=lambda one: one["created"])["id"]) if alive else None


def tenant_of(customer_id: str) -> str | None:
    """The tenant id that a customer names; None when it was deleted or names none."""
    with asking():
        body = plain(client().v1.customers.retrieve(customer_id))
        return None if body.get("deleted") else (body.get("metadata") or {}).get("tenant_id")


def has_customer(customer_id: str) -> bool:
    """Whether Stripe has this customer: it was not deleted, and is not of another Stripe account."""
    with asking():
        try:
            return not plain(client().v1.customers.retrieve(customer_id)).get("deleted")
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                return False
            raise


def card_of(customer_id: str) -> str:
    """The payment method that an invoice is charged to: the customer's default, else the newest; empty without one."""
    with asking():
        body = plain(client().v1.customers.retrieve(customer_id))
        default = objects.id_of((body.get("invoice_settings") or {}).get("default_payment_method"))
        if default or body.get("deleted"):
            return default
        known = [plain(one) for one in client().v1.customers.payment_methods.list(customer_id, {"limit": PAGE}).data]
        return str(max(known, key=lambda one: one["created"])["id"]) if known else ""


def give_card(*, customer_id: str, card: str, key: str) -> None:
    """The customer's invoices are charged to this payment method; in test mode one of Stripe's test cards, as `pm_card_visa`."""
    with asking():
        attached = plain(client().v1.payment_methods.attach(card, {"customer": customer_id}, options(f"{key}-attach")))
        client().v1.customers.update(
            customer_id, {"invoice_settings": {"default_payment_method": attached["id"]}}, options(f"{key}-use")
        )
