"""The price lab: what tenants' past periods would have cost under a draft plan, and which plan would have cost each least.

Nothing is written. Whole calls from the quotas, a few queries for all tenants together; `docs/price-lab.md` has the draft's format.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from metering import periods
from metering.models import Quota
from metering.periods import Period

from . import accounts, explain, pricing
from .draft_plans import Draft
from .errors import BillingError
from .models import Account, BilledPeriod, PlanChange, PlanVersion

MOST_MONTHS = 24


class UnknownTenants(BillingError):
    """There are no such tenants with a plan."""


# -- the past ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A period that is over, as metered."""

    period: Period
    units: int


@dataclass(frozen=True, slots=True)
class Past:
    """A tenant's past: its whole periods, each with its parts where changes of plan cut it, and how each part was priced."""

    account: Account
    wholes: tuple[tuple[Part, ...], ...]
    priced: tuple[int, ...]  # each whole period's price as it was


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan to compare: its terms in the tenant's currency."""

    name: str
    terms: pricing.Terms


@dataclass(frozen=True, slots=True)
class Rated:
    """What an offer would have cost over all periods, and how many calls it would have refused."""

    name: str
    total_minor: int
    refused: int


@dataclass(frozen=True, slots=True)
class Row:
    """One tenant. `draft` is None where the draft has no price in its currency."""

    tenant: str
    plan: str
    currency: str
    periods: int
    units: int
    priced_minor: int
    draft: Rated | None
    cheapest: Rated | None  # of the plans that would have served every call
    offers: tuple[Rated, ...]

    @property
    def difference_minor(self) -> int | None:
        return None if self.draft is None else self.draft.total_minor - self.priced_minor


@dataclass(frozen=True, slots=True)
class Sum:
    """All tenants of a currency that the draft has a price for."""

    currency: str
    tenants: int
    priced_minor: int
    draft_minor: int
    pay_more: int
    pay_less: int
    refused_tenants: int  # whose calls the draft would have refused
    draft_is_cheapest: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the lab found."""

    draft: str
    months: int
    since: datetime
    rows: tuple[Row, ...]
    sums: tuple[Sum, ...]


def run(*, draft: Draft, months: int, now: datetime, tenants: Sequence[str] = ()) -> Report:
    """The past periods of these tenants (none named: of all) under the draft, and under every plan that is sold.

    Raises UnknownTenants.
    """
    since = periods.months_after(now, -months)
    sold = sold_versions()
    found = _chosen(tenants)
    books = _books([account.pk for account in found] if tenants else None, since, now)
    rows = [_row(past, draft, sold) for past in (_past(account, books) for account in found) if past.wholes]
    return Report(draft.name, months, since, tuple(rows), tuple(_sums(rows)))


def _chosen(tenants: Sequence[str]) -> list[Account]:
    """Raises UnknownTenants."""
    accounts_ = Account.objects.select_related("tenant", "plan_version__plan").order_by("tenant__slug")
    if not tenants:
        return list(accounts_)
    found = list(accounts_.filter(tenant__slug__in=tenants))
    missing = sorted(set(tenants) - {account.tenant.slug for account in found})
    if missing:
        raise UnknownTenants(f"There are no tenants with a plan of these addresses: {', '.join(missing)}.")
    return found


def sold_versions() -> list[PlanVersion]:
    """The newest public version of every plan that anybody can have, the smallest plan first."""
    public = PlanVersion.objects.filter(tenant=None, plan__is_custom=False).select_related("plan")
    newest = {version.plan_id: version for version in public.order_by("plan__rank", "number")}
    return list(newest.values())


@dataclass(slots=True)
class _Books:
    """What is kept of the tenants' past, by tenant."""

    parts: dict[UUID, list[Part]] = field(default_factory=dict)
    changes: dict[UUID, list[PlanChange]] = field(default_factory=dict)
    billed: dict[tuple[UUID, datetime], BilledPeriod] = field(default_factory=dict)


def _books(chosen: Sequence[UUID] | None, since: datetime, now: datetime) -> _Books:
    """The periods of the chosen tenants (None: of all) that ended in (since, now], and what says how they were priced."""
    books = _Books()
    of_account = {} if chosen is None else {"account__in": chosen}
    quotas = Quota.objects.filter(period_end__gt=since, period_end__lte=now).order_by("tenant_id", "period_start")
    if chosen is not None:
        quotas = quotas.filter(tenant_id__in=chosen)
    for tenant_id, start, end, used in quotas.values_list("tenant_id", "period_start", "period_end", "used"):
        books.parts.setdefault(tenant_id, []).append(Part(Period(start, end), int(used)))
    changes = PlanChange.objects.filter(state=PlanChange.State.APPLIED, **of_account)
    for change in changes.select_related("from_version__plan"):
        books.changes.setdefault(change.account_id, []).append(change)
    billed = BilledPeriod.objects.filter(end__gt=since, **of_account)
    for period in billed.select_related("version__plan").order_by("created_at"):
        books.billed[period.account_id, period.start] = period
    return books


def _past(account: Account, books: _Books) -> Past:
    changes = books.changes.get(account.pk, [])
    cuts = {change.cut_at for change in changes if change.cut_at is not None}
    wholes: list[list[Part]] = []
    for part in books.parts.get(account.pk, []):
        if wholes and part.period.start in cuts and wholes[-1][-1].period.end == part.period.start:
            wholes[-1].append(part)
        elif part.period.start not in cuts:  # the part before began too early to be looked at
            wholes.append([part])
    if wholes and wholes[-1][-1].period.end in cuts:
        wholes.pop()  # its last part is not over
    basis = _Basis(account, changes, cuts, books.billed)
    return Past(account, tuple(map(tuple, wholes)), tuple(basis.price(parts) for parts in wholes))


@dataclass(frozen=True, slots=True)
class _Basis:
    """How an account's periods were priced."""

    account: Account
    changes: Sequence[PlanChange]
    cuts: set[datetime]
    billed: Mapping[tuple[UUID, datetime], BilledPeriod]

    def price(self, parts: Sequence[Part]) -> int:
        """A whole period's price; where it was cut, each part has its own terms and its share of the fee."""
        whole = Period(parts[0].period.start, parts[-1].period.end)
        return sum(self._price(part, whole) for part in parts)

    def _price(self, part: Part, whole: Period) -> int:
        period = part.period
        billed = self.billed.get((self.account.pk, period.start))
        is_cut = period.start in self.cuts or period.end in self.cuts
        if billed is not None:
            version, currency, is_free = billed.version, billed.currency, billed.is_free
        else:
            version = explain.version_at(period.start, present=self.account.plan_version, changes=self.changes)
            currency, is_free = self.account.currency, False
        terms = explain.terms_of(version=version, currency=currency, is_free=is_free, is_cut=is_cut)
        made = pricing.invoice(terms=terms, quantity=part.units, cap_minor=billed.cap_minor if billed else None)
        fee = pricing.prorated(fee_minor=terms.fee_minor, period=whole, at=whole.end - (period.end - period.start))
        return made.total_minor - terms.fee_minor + fee


# -- under other plans ---------------------------------------------------------------------------------------------------


def rated(*, offer: Offer, quantities: Iterable[int]) -> Rated:
    """What the offer costs for periods with these units."""
    total_minor, refused = 0, 0
    for units in quantities:
        made = pricing.invoice(terms=offer.terms, quantity=units)
        total_minor += made.total_minor
        if not offer.terms.prices_overage:
            refused += pricing.overage(terms=offer.terms, quantity=units)
    return Rated(offer.name, total_minor, refused)


def _row(past: Past, draft: Draft, sold: Sequence[PlanVersion]) -> Row:
    account = past.account
    quantities = [sum(part.units for part in parts) for parts in past.wholes]
    offers = [rated(offer=offer, quantities=quantities) for offer in _offers(account, sold)]
    terms = draft.terms.get(account.currency)
    drafted = rated(offer=Offer(draft.name, terms), quantities=quantities) if terms else None
    offers += [drafted] if drafted else []
    return Row(
        tenant=account.tenant.slug,
        plan=str(account.plan_version),
        currency=account.currency,
        periods=len(quantities),
        units=sum(quantities),
        priced_minor=sum(past.priced),
        draft=drafted,
        cheapest=min((one for one in offers if not one.refused), key=lambda one: one.total_minor, default=None),
        offers=tuple(offers),
    )


def _offers(account: Account, sold: Sequence[PlanVersion]) -> list[Offer]:
    """The account's present plan first, so that it is named where another costs the same."""
    present = account.plan_version
    versions = [present, *(version for version in sold if version.pk != present.pk)]
    return [
        Offer(str(version), accounts.pricing_terms(version, account.currency))
        for version in versions
        if accounts.is_sold_in(version, account.currency)
    ]


def _sums(rows: Sequence[Row]) -> Iterable[Sum]:
    for currency in sorted({row.currency for row in rows}):
        drafted = [(row, row.draft) for row in rows if row.currency == currency and row.draft is not None]
        differences = [draft.total_minor - row.priced_minor for row, draft in drafted]
        if drafted:
            yield Sum(
                currency=currency,
                tenants=len(drafted),
                priced_minor=sum(row.priced_minor for row, _ in drafted),
                draft_minor=sum(draft.total_minor for _, draft in drafted),
                pay_more=sum(difference > 0 for difference in differences),
                pay_less=sum(difference < 0 for difference in differences),
                refused_tenants=sum(bool(draft.refused) for _, draft in drafted),
                draft_is_cheapest=sum(row.cheapest is draft for row, draft in drafted),
            )
