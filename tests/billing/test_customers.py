"""Stripe's customers follow the tenant's name and billing address."""

from typing import Any

import pytest

from billing import customers
from billing.models import Account

from .conftest import Stripe, Subscribe


def told(stripe: Stripe, account: Account) -> tuple[Any, Any]:
    customer = stripe.client.v1.customers.retrieve(account.customer_id or "")
    return customer.name, customer.email


def rename(account: Account, name: str, email: str) -> None:
    account.tenant.name, account.tenant.email = name, email
    account.tenant.save(update_fields=["name", "email"])


def test_a_new_address_reaches_stripe_once_and_so_does_the_way_back(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe()
    customers.tell_due()
    assert customers.tell_due() == 0
    for name, email in (("Acme", "old@acme.example"), ("Acme Ltd", "bills@acme.example"), ("Acme", "old@acme.example")):
        rename(account, name, email)
        assert customers.tell_due() == 1
        assert told(stripe, account) == (name, email)
    assert customers.tell_due() == 0


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "error_500_before"])
def test_what_stripe_did_not_answer_is_told_again(stripe: Stripe, subscribe: Subscribe, fault: str) -> None:
    account = subscribe()
    rename(account, "Acme", "bills@acme.example")
    stripe.faults.add(fault, method="POST", path=f"/v1/customers/{account.customer_id}", count=9)
    assert customers.tell_due() == 0
    stripe.faults.clear()
    assert customers.tell_due() == 1
    assert told(stripe, account) == ("Acme", "bills@acme.example")


def test_a_customer_that_stripe_has_no_more_is_not_asked_about_for_ever(stripe: Stripe, subscribe: Subscribe) -> None:
    account = subscribe()
    Account.objects.filter(pk=account.pk).update(customer_id="cus_gone")
    customers.tell_due()
    assert customers.tell_due() == 0
