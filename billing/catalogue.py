"""The catalogue at Stripe: one meter, a product for each plan, and prices for each version that is sold.

Everything is found again by a name of our own (event name, product id, lookup key), so making it twice makes it once. A price
at Stripe never changes: where a version in use would need other terms, that is refused, and a new version is the way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from django.conf import settings

from . import accounts, billing_ways, pricing, stripe_api
from .errors import BillingError
from .models import Account, PlanVersion, StripePrices
from .stripe_api import Meter, NoSuchObject, Price, Tier

METER_NAME = "API calls"
PREFIX = "meterhouse"


class CatalogueConflict(BillingError):
    """What Stripe has differs from the plans, and is in use."""


class Standing(StrEnum):
    """How a part of the catalogue stands at Stripe, and what running the command does about it."""

    FOUND = "found"  # as it should be
    NEW = "new"  # is made
    REPLACED = "replaced"  # nobody is on it: a new price takes over its lookup key
    STORED = "stored"  # is at Stripe, its id was not known here
    CONFLICT = "conflict"  # differs and is in use: nothing is changed


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the difference between the plans and Stripe."""

    kind: str
    name: str
    standing: Standing
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A version with the prices that it should have; `usage` is None where calls are not priced."""

    version: PlanVersion
    product_id: str
    fee: Price
    usage: Price | None

    @property
    def prices(self) -> list[Price]:
        return [price for price in (self.fee, self.usage) if price is not None]


def sold_versions() -> list[PlanVersion]:
    """Every version that is bought through Stripe, public or agreed; free and custom public ones are not."""
    versions = PlanVersion.objects.select_related("plan", "tenant").order_by("plan__rank", "tenant__slug", "number")
    return [version for version in versions if accounts.is_sold(version)]


def missing_versions() -> list[PlanVersion]:
    """Versions that are sold and whose prices at Stripe are not known here. Asks nobody."""
    known = set(StripePrices.objects.values_list("version_id", flat=True))
    return [version for version in sold_versions() if version.pk not in known]


def offer(version: PlanVersion, *, meter_id: str) -> Offer:
    """What Stripe should have for this version, in each of its currencies."""
    product_id = f"{PREFIX}_{version.plan.code}"
    agreed = f"-{version.tenant_id}" if version.tenant_id else ""
    key = f"{PREFIX}-{version.plan.code}{agreed}-v{version.number}"
    terms = {
        currency: accounts.pricing_terms(version, currency)
        for currency in (version.currency, *version.currency_options)
    }
    fees = {currency: (Tier(None, Decimal(priced.fee_minor)),) for currency, priced in terms.items()}
    fee = Price("", f"{key}-fee", product_id, "", fees)
    if not accounts.is_rated(version) or not billing_ways.chosen().is_reported:
        return Offer(version, product_id, fee, None)
    steps = {currency: tiers(priced) for currency, priced in terms.items()}
    return Offer(version, product_id, fee, Price("", f"{key}-usage", product_id, meter_id, steps))


def tiers(terms: pricing.Terms) -> tuple[Tier, ...]:
    """Included calls as a first tier that costs nothing, then the steps; Stripe counts from the first call."""
    included = terms.included or 0
    free = (Tier(included, Decimal(0)),) if included else ()
    beyond = tuple(
        Tier(None if step.up_to is None else included + step.up_to, step.unit_price_minor) for step in terms.price_steps
    )
    return free + beyond


def make(*, now: datetime, dry_run: bool = False) -> list[Part]:
    """Stripe has the whole catalogue and its ids are stored; returns what was found and what was made.

    Raises CatalogueConflict, and nothing was changed then. Raises StripeError; what was made before it is found next time.
    """
    versions = sold_versions()
    meter = stripe_api.find_meter(event_name())
    offers = [offer(version, meter_id=meter.id if meter else "") for version in versions]
    found = _found(offers)
    parts = [_meter_part(meter), *_product_parts(offers), *_price_parts(offers, found)]
    conflicts = [part for part in parts if part.standing is Standing.CONFLICT]
    if dry_run:
        return parts
    if conflicts:
        raise CatalogueConflict("; ".join(f"{part.name}: {part.detail}" for part in conflicts))
    _apply(parts, offers, found, meter, now)
    return parts


def event_name() -> str:
    return str(settings.BILLING["METER_EVENT_NAME"])


def _found(offers: Iterable[Offer]) -> dict[str, Price]:
    keys = [price.lookup_key for one in offers for price in one.prices]
    return stripe_api.find_prices(lookup_keys=keys)


def _meter_part(meter: Meter | None) -> Part:
    if meter is None:
        return Part("meter", event_name(), Standing.NEW)
    if meter.formula != "sum":
        return Part("meter", meter.event_name, Standing.CONFLICT, f"its formula is {meter.formula}, and must be sum")
    return Part("meter", meter.event_name, Standing.FOUND, meter.id)


def _product_parts(offers: Iterable[Offer]) -> Iterator[Part]:
    for product_id, name in {one.product_id: one.version.plan.name for one in offers}.items():
        product = stripe_api.find_product(product_id)
        if product is None:
            yield Part("product", product_id, Standing.NEW, name)
        elif not product.is_active:
            yield Part("product", product_id, Standing.CONFLICT, "it is archived at Stripe; make it active there")
        else:
            yield Part("product", product_id, Standing.FOUND, product.name)


def _price_parts(offers: Iterable[Offer], found: dict[str, Price]) -> Iterator[Part]:
    stored = dict(StripePrices.objects.values_list("version_id", "fee_price_id"))
    stored_usage = dict(StripePrices.objects.values_list("version_id", "usage_price_id"))
    for one in offers:
        if (
            one.usage is None
            and stored_usage.get(one.version.pk)
            and _is_in_use(one.version, stored_usage[one.version.pk])
        ):
            why = "calls are rated here (BILL_USAGE_BY), but subscriptions are on its price per call; make a new plan version"
            yield Part("price", f"{one.fee.lookup_key} without calls", Standing.CONFLICT, why)
        for wanted in one.prices:
            known = stored if wanted is one.fee else stored_usage
            yield _price_part(one.version, wanted, found.get(wanted.lookup_key), known.get(one.version.pk, ""))


def _price_part(version: PlanVersion, wanted: Price, found: Price | None, stored_id: str) -> Part:
    said = terms_text(wanted)
    if found is None:
        return Part("price", wanted.lookup_key, Standing.NEW, said)
    if not _is_same(wanted, found):
        if _is_in_use(version, found.id):
            why = f"{found.id} is in use with other terms ({terms_text(found)}); make a new plan version for {said}"
            return Part("price", wanted.lookup_key, Standing.CONFLICT, why)
        return Part("price", wanted.lookup_key, Standing.REPLACED, f"{said}; was {terms_text(found)}")
    if stored_id and stored_id != found.id and _is_in_use(version, stored_id):
        why = f"its lookup key has moved from {stored_id}, which is in use, to {found.id}; give it back at Stripe"
        return Part("price", wanted.lookup_key, Standing.CONFLICT, why)
    return Part("price", wanted.lookup_key, Standing.FOUND if stored_id == found.id else Standing.STORED, said)


def _is_same(wanted: Price, found: Price) -> bool:
    return replace(wanted, id="") == replace(found, id="")


def _is_in_use(version: PlanVersion, price_id: str) -> bool:
    """Whether somebody is or was on the version, or a subscription at Stripe is on the price."""
    if version.used_at is not None or Account.objects.filter(plan_version=version).exists():
        return True
    try:
        return stripe_api.is_subscribed_to(price_id)
    except NoSuchObject:  # of another Stripe account
        return False


def _apply(parts: list[Part], offers: list[Offer], found: dict[str, Price], meter: Meter | None, now: datetime) -> None:
    """What is missing is made, in the order in which one needs the other. Each key is of this minute: names keep it single."""
    made_at = f"{now:%Y%m%d%H%M}"
    if meter is None:
        meter = stripe_api.create_meter(event_name=event_name(), name=METER_NAME, key=f"meter-{event_name()}-{made_at}")
    for part in parts:
        if part.kind == "product" and part.standing is Standing.NEW:
            stripe_api.create_product(product_id=part.name, name=part.detail, key=f"product-{part.name}-{made_at}")
    for one in (offer(old.version, meter_id=meter.id) for old in offers):
        ids = [_price_id(wanted, found.get(wanted.lookup_key), one.version.currency, made_at) for wanted in one.prices]
        StripePrices.objects.update_or_create(
            version=one.version,
            defaults={
                "meter_id": meter.id if one.usage else "",
                "product_id": one.product_id,
                "fee_price_id": ids[0],
                "usage_price_id": ids[1] if one.usage else "",
            },
        )


def _price_id(wanted: Price, found: Price | None, currency: str, made_at: str) -> str:
    if found is not None and _is_same(wanted, found):
        return found.id
    key = f"price-{wanted.lookup_key}-{made_at}"
    return stripe_api.create_price(price=wanted, currency=currency, replaces=found is not None, key=key).id


def terms_text(price: Price) -> str:
    """The price in words: in minor units, exact, by currency."""
    return "; ".join(f"{currency.upper()} {_tiers_text(steps)}" for currency, steps in sorted(price.terms.items()))


def _tiers_text(steps: tuple[Tier, ...]) -> str:
    texts = [
        f"{tier.unit_price_minor.normalize():f}" + ("" if tier.up_to is None else f" up to {tier.up_to:,}")
        for tier in steps
    ]
    return ", then ".join(texts)
