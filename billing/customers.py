"""Stripe's customers carry the tenant's name and billing address as they are now: receipts and reminders go there."""

import contextlib
from uuid import UUID

from django.db.models import F

from . import stripe_api, turns
from .errors import NoSuchObject
from .models import Account


def tell_due() -> int:
    """Customers whose tenant has another name or address by now are told to Stripe; returns how many. May run twice."""
    told = Account.objects.filter(customer_name=F("tenant__name"), customer_email=F("tenant__email"))
    due = Account.objects.exclude(customer_id=None).exclude(pk__in=told.values("pk"))
    return turns.each(due.values_list("pk", flat=True), _tell, what="Name and address")


def _tell(account_id: UUID) -> None:
    with turns.only_one(account_id) as is_mine:  # of two runs the older one would else write last
        account = Account.objects.select_related("tenant").get(pk=account_id)
        if is_mine and account.customer_id is not None:
            _told(account, account.customer_id)


def _told(account: Account, customer_id: str) -> None:
    name, email = account.tenant.name, account.tenant.email
    with contextlib.suppress(NoSuchObject):  # nobody to tell; a purchase makes a new one
        stripe_api.update_customer(customer_id=customer_id, name=name, email=email)
    Account.objects.filter(pk=account.pk, customer_id=customer_id).update(customer_name=name, customer_email=email)
