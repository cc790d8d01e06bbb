"""The catalogue at Stripe: made once, found again, never changed under a customer's feet."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from billing import accounts, catalogue, stripe_api
from billing.catalogue import Standing
from billing.errors import StripeUnavailable
from billing.models import Plan, PlanVersion, StripePrices
from billing.stripe_api import Tier
from metering.models import Policy
from tests.billing.conftest import Stripe, public
from tests.conftest import MakeTenant

Prices = Callable[[str], StripePrices]


@pytest.fixture(autouse=True)
def _nothing_stored(db: None) -> None:
    """Tests with committed data may have left ids of their own Stripe."""
    StripePrices.objects.all().delete()


def new_version(plan: str = "launch", **terms: object) -> PlanVersion:
    """A further public version that nobody is on."""
    newest = public(plan)
    fields = {
        "currency": "usd", "fee_minor": 2500, "included": 200_000, "policy": Policy.RATE, "unit_price_minor": Decimal("0.02"),
        "burst_per_second": 500, "max_projects": 3, "support": "email support", **terms,
    }  # fmt: skip
    return PlanVersion.objects.create(plan=newest.plan, number=newest.number + 1, **fields)


def standings(parts: list[catalogue.Part]) -> dict[str, Standing]:
    return {part.name: part.standing for part in parts}


def test_it_is_made_once(stripe: Stripe, db: None, now: datetime) -> None:
    made = catalogue.make(now=now)
    assert {part.standing for part in made} == {Standing.NEW}
    ids = list(StripePrices.objects.order_by("version_id").values_list("fee_price_id", "usage_price_id", "meter_id"))
    assert {part.standing for part in catalogue.make(now=now)} == {Standing.FOUND}
    stored = StripePrices.objects.order_by("version_id").values_list("fee_price_id", "usage_price_id", "meter_id")
    assert list(stored) == ids
    assert len(stripe.client.v1.prices.list({"limit": 100}).data) == 4


def test_what_is_free_or_by_agreement_has_no_prices(stripe: Stripe, db: None, now: datetime) -> None:
    assert {version.plan.code for version in catalogue.missing_versions()} == {"launch", "scale"}
    catalogue.make(now=now)
    assert not catalogue.missing_versions()
    assert set(StripePrices.objects.values_list("version__plan__code", flat=True)) == {"launch", "scale"}


def test_a_dry_run_shows_and_changes_nothing(stripe: Stripe, db: None, now: datetime) -> None:
    parts = catalogue.make(now=now, dry_run=True)
    assert standings(parts)["meterhouse-launch-v1-usage"] is Standing.NEW
    assert not StripePrices.objects.exists()
    assert stripe_api.find_meter("meterhouse_calls") is None


def test_included_calls_are_a_first_step_that_costs_nothing(stripe: Stripe, db: None, now: datetime) -> None:
    steps = [{"up_to": 1_000_000, "unit_price_minor": "0.02"}, {"up_to": None, "unit_price_minor": "0.000000000001"}]
    version = new_version(steps=steps)
    catalogue.make(now=now)
    key = f"meterhouse-launch-v{version.number}-usage"
    found = stripe_api.find_prices(lookup_keys=[key])[key]
    assert found.terms["usd"] == (
        Tier(200_000, Decimal(0)), Tier(1_200_000, Decimal("0.02")), Tier(None, Decimal("0.000000000001")),
    )  # fmt: skip


def test_nothing_included_begins_with_the_first_step(stripe: Stripe, db: None, now: datetime) -> None:
    version = new_version(included=0)
    offer = catalogue.offer(version, meter_id="mtr_1")
    assert offer.usage is not None
    assert offer.usage.terms == {"usd": (Tier(None, Decimal("0.02")),)}


def test_a_version_is_sold_in_all_its_currencies(stripe: Stripe, db: None, now: datetime) -> None:
    version = new_version(currency_options={"eur": {"fee_minor": 2300, "unit_price_minor": "0.018"}})
    catalogue.make(now=now)
    assert {part.standing for part in catalogue.make(now=now)} == {Standing.FOUND}
    fee, usage = (f"meterhouse-launch-v{version.number}-{kind}" for kind in ("fee", "usage"))
    found = stripe_api.find_prices(lookup_keys=[fee, usage])
    assert found[fee].terms["eur"] == (Tier(None, Decimal(2300)),)
    assert found[usage].terms["eur"] == (Tier(200_000, Decimal(0)), Tier(None, Decimal("0.018")))


def test_agreed_terms_have_prices_of_their_own(prices: Prices, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    agreed = accounts.Agreed(fee_minor=100_000, included=10**9, unit_price_minor=Decimal("0.001"))
    own = accounts.agreed_version(tenant=acme.tenant, version=public("enterprise"), agreed=agreed)
    catalogue.make(now=now)
    stored = StripePrices.objects.get(version=own)
    assert stored.fee_price_id not in {prices("launch").fee_price_id, prices("scale").fee_price_id}
    assert stored.meter_id == prices("launch").meter_id


def test_a_fee_without_a_price_per_call_is_no_metered_price(stripe: Stripe, db: None, now: datetime) -> None:
    version = new_version(policy=Policy.BLOCK)
    catalogue.make(now=now)
    assert StripePrices.objects.get(version=version).usage_price_id == ""


def test_an_edited_version_that_nobody_is_on_gets_a_new_price(stripe: Stripe, db: None, now: datetime) -> None:
    version = new_version()
    catalogue.make(now=now)
    before = StripePrices.objects.get(version=version)
    PlanVersion.objects.filter(pk=version.pk).update(fee_minor=2600)
    name = f"meterhouse-launch-v{version.number}-fee"
    parts = catalogue.make(now=now.replace(year=now.year + 1))
    assert (standings(parts)[name], standings(parts)[name.replace("fee", "usage")]) == (
        Standing.REPLACED,
        Standing.FOUND,
    )
    after = StripePrices.objects.get(version=version)
    assert after.fee_price_id != before.fee_price_id
    assert after.usage_price_id == before.usage_price_id


def test_what_is_in_use_is_never_changed(
    stripe: Stripe, prices: Prices, make_tenant: MakeTenant, now: datetime
) -> None:
    acme = make_tenant("Acme", plan="launch")
    wrong = stripe_api.find_prices(lookup_keys=["meterhouse-launch-v1-fee"])
    price = wrong["meterhouse-launch-v1-fee"]
    stripe.client.v1.prices.update(price.id, {"lookup_key": ""})
    other = {"product": price.product_id, "currency": "usd", "unit_amount": 1, "recurring": {"interval": "month"}}
    stripe.client.v1.prices.create({**other, "lookup_key": "meterhouse-launch-v1-fee"})  # type: ignore[typeddict-item]
    new_version("scale")
    with pytest.raises(catalogue.CatalogueConflict, match="make a new plan version for USD 1900"):
        catalogue.make(now=now)
    assert StripePrices.objects.get(version=acme.account.plan_version).fee_price_id == price.id
    assert catalogue.missing_versions()  # not even the new version was made


def test_a_subscription_at_stripe_is_use_enough(
    stripe: Stripe, prices: Prices, make_tenant: MakeTenant, now: datetime
) -> None:
    version = new_version()
    catalogue.make(now=now)
    acme = make_tenant().account
    stripe_api.subscribe(
        customer_id=stripe.customer_of(acme), tenant_id=acme.pk, prices=StripePrices.objects.get(version=version),
        currency="usd", anchor=None, key="paid",
    )  # fmt: skip
    PlanVersion.objects.filter(pk=version.pk).update(fee_minor=2600)
    with pytest.raises(catalogue.CatalogueConflict):
        catalogue.make(now=now)


def test_two_lost_answers_and_a_failure_of_stripe_make_nothing_twice(stripe: Stripe, db: None, now: datetime) -> None:
    stripe.faults.add("drop_after", method="POST", path="/v1/billing/meters")
    stripe.faults.add("drop_after", method="POST", path="/v1/prices", nth=2)
    stripe.faults.add("error_500_after", method="POST", path="/v1/prices", nth=2)
    failures = 0
    while True:
        try:
            catalogue.make(now=now)
            break
        except StripeUnavailable:
            failures += 1
    assert failures == 3
    assert len(stripe.client.v1.prices.list({"limit": 100}).data) == 4
    assert len(stripe.client.v1.billing.meters.list({"limit": 100}).data) == 1


def test_another_stripe_gets_a_catalogue_of_its_own(prices: Prices, now: datetime) -> None:
    """As when the simulated one is exchanged for Stripe itself: ids that are stored are of no use there."""
    StripePrices.objects.update(usage_price_id="price_elsewhere", meter_id="mtr_elsewhere")
    assert Standing.STORED in {part.standing for part in catalogue.make(now=now)}
    assert prices("launch").meter_id != "mtr_elsewhere"


def test_an_archived_product_is_named(stripe: Stripe, prices: Prices, now: datetime) -> None:
    stripe.client.v1.products.update("meterhouse_launch", {"active": False})
    with pytest.raises(catalogue.CatalogueConflict, match="meterhouse_launch: it is archived"):
        catalogue.make(now=now)


def test_the_command_shows_what_it_does(stripe: Stripe, db: None) -> None:
    out = StringIO()
    call_command("stripe_catalogue", dry_run=True, stdout=out)
    assert "new       price    meterhouse-launch-v1-usage  USD 0 up to 100,000, then 0.025" in out.getvalue()
    assert "Nothing was changed." in out.getvalue()
    call_command("stripe_catalogue", stdout=out)
    out = StringIO()
    call_command("stripe_catalogue", stdout=out)
    assert "0 of 7 were made or stored" in out.getvalue()


def test_the_command_names_the_cause(stripe: Stripe, db: None, settings: object) -> None:
    settings.STRIPE_TEST_SECRET_KEY = ""  # type: ignore[attr-defined]
    with pytest.raises(CommandError, match="set STRIPE_TEST_SECRET_KEY"):
        call_command("stripe_catalogue")


def test_custom_plans_are_sold_by_agreement_only(db: None) -> None:
    assert Plan.objects.get(code="enterprise").is_custom
    assert not accounts.is_sold(public("enterprise"))
