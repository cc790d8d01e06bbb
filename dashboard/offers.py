"""The plan page: the terms the tenant is on, and the tiers as sold."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.translation import gettext as _

from billing import accounts
from billing.models import Account, Plan, PlanVersion
from metering.models import Policy

from . import formatting


@dataclass(frozen=True, slots=True)
class Offer:
    """One plan in words."""

    name: str
    is_current: bool
    price: str
    price_unit: str
    terms: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Offers:
    """The page. `current` has what this tenant agreed to, `sold` the public terms."""

    current: Offer
    sold: tuple[Offer, ...]


def offers(*, account: Account) -> Offers:
    """The tenant's terms beside those of each tier."""
    mine = account.plan_version
    sold = [
        offer(
            accounts.public_version(plan_code=plan.code), is_custom=plan.is_custom, is_current=plan.pk == mine.plan_id
        )
        for plan in Plan.objects.all()
    ]
    return Offers(offer(mine, is_current=True, hard_limit=account.hard_limit), tuple(sold))


def offer(version: PlanVersion, *, is_current: bool, is_custom: bool = False, hard_limit: int | None = None) -> Offer:
    """A version's terms, each as a name and words."""
    price = _("By agreement") if is_custom else formatting.money(version.fee_minor, version.currency)
    return Offer(
        name=version.plan.name,
        is_current=is_current,
        price=price,
        price_unit="" if is_custom else _("per period"),
        terms=tuple(_by_agreement(version) if is_custom else _terms(version, hard_limit)),
    )


def _by_agreement(version: PlanVersion) -> Iterator[tuple[str, str]]:
    yield _("Included calls"), _("by agreement")
    yield _("Beyond them"), _("by agreement")
    yield from _service(version)


def _terms(version: PlanVersion, hard_limit: int | None) -> Iterator[tuple[str, str]]:
    included = _("unlimited") if version.included is None else formatting.count(version.included)
    yield _("Included calls"), included
    if version.included is not None:
        yield _("Beyond them"), beyond(version)
    limits = [limit for limit in (hard_limit, version.hard_limit) if limit is not None]
    if limits:
        yield _("Hard limit"), formatting.count(min(limits))
    yield from _service(version)


def _service(version: PlanVersion) -> Iterator[tuple[str, str]]:
    yield _("Calls per second"), formatting.count(version.burst_per_second)
    yield _("Projects"), _("unlimited") if version.max_projects is None else formatting.count(version.max_projects)
    yield _("Support"), version.support
    if version.sla:
        yield _("SLA"), version.sla


def beyond(version: PlanVersion) -> str:
    """What happens to calls beyond the included ones."""
    if version.policy == Policy.RATE:
        price = formatting.thousand_price(version.unit_price_minor, version.currency)
        return _("%(price)s per 1,000") % {"price": price}
    if version.policy == Policy.UPGRADE:
        return _("next plan, with your consent")
    return _("refused")
