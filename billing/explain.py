"""Why a period costs what it costs: each line of its invoice down to days, capabilities and keys, and those down to calls.

Calls are priced in the order in which they were made: the included ones come first, then each price step. Within an hour, which is
as fine as the rollup is, the order is that of capability, project and key. Every sum is exact: parts add up to their line, and
lines to the total.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from itertools import groupby
from typing import Any
from uuid import UUID

from django.db.models import Sum

from metering import adjustments, invariants, periods
from metering.models import Adjustment, Call, UsageHour
from metering.periods import Period
from tenants.models import ApiKey

from . import accounts, billed_periods, pricing
from .errors import BillingError
from .models import Account, BilledPeriod, PlanChange, PlanVersion

DAY = timedelta(days=1)
DIGITS = 60  # the default 28 would round exact amounts
NOTHING = Decimal(0)


class CallsForgotten(BillingError):
    """The call log no longer keeps this day; its hours are still counted."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """Units of one hour, capability, project and key, corrections among them."""

    hour: datetime
    capability: str
    project_id: int
    key_id: int
    units: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one key did with one capability on one UTC day, as far as it belongs to a line. The amount is not rounded."""

    day: datetime
    capability: str
    project_id: int
    key_id: int
    units: int
    exact_minor: Decimal


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the invoice with its derivation: exact amount + rounding = amount.

    `first` and `last` number the period's calls from 1 in the order they were made; both None for the fee and the minimum.
    """

    kind: str
    quantity: int
    unit_price_minor: Decimal
    exact_minor: Decimal
    rounding_minor: Decimal
    amount_minor: int
    first: int | None = None
    last: int | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A period's priced invoice, explained. `not_priced`: units beyond the included ones under terms that refuse them."""

    currency: str
    included: int | None
    minimum_minor: int
    cap_minor: int | None
    units: int
    not_priced: int
    lines: tuple[Line, ...]

    @property
    def total_minor(self) -> int:
        return sum(line.amount_minor for line in self.lines)


def explained(*, terms: pricing.Terms, cells: Iterable[Cell], cap_minor: int | None = None) -> Explanation:
    """The invoice for these units with the derivation of every line. Pure; raises ValueError for a negative sum."""
    ordered = sorted(cells)
    units = sum(cell.units for cell in ordered)
    invoice = pricing.invoice(terms=terms, quantity=units, cap_minor=cap_minor)
    with localcontext() as context:
        context.prec = DIGITS
        lines = tuple(_lines(invoice, terms, ordered))
    in_lines = sum(line.quantity for line in lines if line.kind in {"included", "overage"})
    return Explanation(terms.currency, terms.included, terms.minimum_minor, cap_minor, units, units - in_lines, lines)


def _lines(invoice: pricing.Invoice, terms: pricing.Terms, cells: Sequence[Cell]) -> Iterator[Line]:
    reached = 0
    steps: list[tuple[int, int, Decimal]] = []
    for line in invoice.lines:
        if line.kind in {"included", "overage"}:
            steps.append((reached, reached + line.quantity, line.unit_price_minor))
            reached += line.quantity
            yield _of_calls(line, steps[-1:], cells)
        elif line.kind == "write_off":
            kept = invoice.quantity - line.quantity
            taken = [(max(first, kept), last, -price) for first, last, price in steps if last > kept]
            yield _of_calls(line, taken, cells)
        else:
            amount = Decimal(line.amount_minor)
            yield Line(line.kind, line.quantity, line.unit_price_minor, amount, NOTHING, line.amount_minor)


def _of_calls(line: pricing.Line, ranges: Sequence[tuple[int, int, Decimal]], cells: Sequence[Cell]) -> Line:
    """The line with the parts that the calls in these ranges are of: after the first number, up to and with the last."""
    parts = tuple(part for first, last, price in ranges for part in _parts(first, last, price, cells))
    exact = sum((part.exact_minor for part in parts), NOTHING)
    return Line(
        line.kind, line.quantity, line.unit_price_minor, exact, line.amount_minor - exact, line.amount_minor,
        ranges[0][0] + 1 if line.quantity else None, ranges[-1][1] if line.quantity else None, parts,
    )  # fmt: skip


def _parts(first: int, last: int, price: Decimal, cells: Sequence[Cell]) -> Iterator[Part]:
    """Each cell's share is how far it moves the count within the range, so the shares add up to it, corrections and all."""
    shares, count = [], 0
    for cell in cells:
        before, count = count, count + cell.units
        share = min(max(count, first), last) - min(max(before, first), last)
        if share:
            shares.append((periods.day_of(cell.hour), cell.capability, cell.project_id, cell.key_id, share))
    for (day, *whose), group in groupby(sorted(shares), key=lambda share: share[:4]):
        units = sum(share[4] for share in group)
        if units:
            capability, project_id, key_id = whose
            yield Part(day, str(capability), int(project_id), int(key_id), units, units * price)


# -- of a tenant ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Names:
    """What projects and keys are called; of what was deleted the number is left."""

    projects: dict[int, str]
    keys: dict[int, str]
    slugs: dict[int, str]  # what the API calls them: a project's slug, a key's prefix
    prefixes: dict[int, str]

    def project(self, project_id: int) -> str:
        return self.projects.get(project_id, f"project {project_id}")

    def key(self, key_id: int) -> str:
        return self.keys.get(key_id, f"key {key_id}")


@dataclass(frozen=True, slots=True)
class PeriodExplained:
    """A tenant's period: which terms hold and why, its invoice explained, and the corrections that are in it."""

    period: Period
    is_over: bool
    version: PlanVersion
    because: str
    explanation: Explanation
    names: Names
    corrections: tuple[Adjustment, ...]
    billed: BilledPeriod | None


@dataclass(frozen=True, slots=True)
class Basis:
    """Under which terms a period is priced, up to which limit in money, and where that is written."""

    version: PlanVersion
    terms: pricing.Terms
    cap_minor: int | None
    because: str
    billed: BilledPeriod | None = None


def explain(*, account: Account, period: Period, now: datetime) -> PeriodExplained:
    """Why this period of the account costs what it costs, as counted now."""
    basis = basis_of(account=account, period=period, now=now)
    cells = cells_of(tenant_id=account.tenant_id, period=period)
    return PeriodExplained(
        period=period,
        is_over=period.end <= now,
        version=basis.version,
        because=basis.because,
        explanation=explained(terms=basis.terms, cells=cells, cap_minor=basis.cap_minor),
        names=_names(account.tenant_id),
        corrections=tuple(adjustments.of_period(tenant_id=account.tenant_id, period_start=period.start)),
        billed=basis.billed,
    )


def basis_of(*, account: Account, period: Period, now: datetime) -> Basis:
    """The terms of the period: as it was billed, else as the changes of plan say, else the present ones."""
    cap_minor = account.hard_limit_minor if now in period else None
    billed = _billed(account, period)
    if billed is not None:
        if billed.state == BilledPeriod.State.FINAL:
            cap_minor = billed.cap_minor
        return Basis(billed.version, billed_periods.terms_of(billed), cap_minor, "as the period is billed", billed)
    found = PlanChange.objects.filter(account=account, state=PlanChange.State.APPLIED)
    changes = list(found.select_related("from_version__plan"))
    version = version_at(period.start, present=account.plan_version, changes=changes)
    is_cut = any(change.cut_at in {period.start, period.end} for change in changes)
    terms = terms_of(version=version, currency=account.currency, is_cut=is_cut)
    because = "the present plan" if version == account.plan_version else "the plan before it was changed"
    return Basis(version, terms, cap_minor, because)


def _billed(account: Account, period: Period) -> BilledPeriod | None:
    found = BilledPeriod.objects.filter(account=account, start=period.start).select_related("version__plan")
    return found.order_by("-created_at").first()


def terms_of(*, version: PlanVersion, currency: str, is_free: bool = False, is_cut: bool = False) -> pricing.Terms:
    """The same terms as `billed_periods.terms_of` for a period that is not written down, or for many at once."""
    terms = accounts.pricing_terms(version, currency if accounts.is_sold_in(version, currency) else None)
    return pricing.Terms(
        terms.currency, terms.fee_minor, terms.included, terms.unit_price_minor,
        prices_overage=terms.prices_overage and not is_free, steps=terms.steps,
        minimum_minor=0 if is_free or is_cut else terms.minimum_minor,
    )  # fmt: skip


def version_at(instant: datetime, *, present: PlanVersion, changes: Iterable[PlanChange]) -> PlanVersion:
    """The version of a period that begins at this instant: what the next change after it moved away from.

    A change at once begins a period; one for the period's end is written down in the period that it ends.
    """
    later = [(change.cut_at or change.ended_at, change.from_version) for change in changes]
    after = [(at, version) for at, version in later if at is not None and at > instant]
    return min(after, key=lambda change: change[0], default=(instant, present))[1]


def cells_of(*, tenant_id: UUID, period: Period) -> list[Cell]:
    """The period's units by hour, capability, project and key."""
    hours = UsageHour.objects.filter(
        tenant_id=tenant_id, period_start=period.start, hour__gte=periods.hour_of(period.start), hour__lt=period.end
    )
    rows = hours.exclude(units=0).values_list("hour", "capability", "project_id", "api_key_id", "units")
    return [Cell(hour, capability, project, key, units) for hour, capability, project, key, units in rows.order_by()]


def _names(tenant_id: UUID) -> Names:
    keys = list(ApiKey.objects.filter(tenant_id=tenant_id).select_related("project"))
    return Names(
        projects={key.project_id: key.project.name for key in keys},
        keys={key.pk: f"{key.name} ({key})" for key in keys},
        slugs={key.project_id: key.project.slug for key in keys},
        prefixes={key.pk: key.prefix for key in keys},
    )


# -- down to the calls ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A billed call, or a correction of one."""

    at: datetime
    id: UUID
    what: str  # "call" or the kind of correction
    capability: str
    project_id: int
    key_id: int
    units: int


def units_of_calls(*, tenant_id: UUID, period: Period, day: datetime) -> int:
    """What the entries of the day add up to: the day's parts. Raises CallsForgotten."""
    _check_kept(day)
    scope = _on(tenant_id, period, day)
    sums = [model.objects.filter(**scope).aggregate(units=Sum("units"))["units"] for model in (Call, Adjustment)]
    return sum(int(units or 0) for units in sums)


def calls(*, tenant_id: UUID, period: Period, day: datetime, limit: int) -> list[Entry]:
    """The first billed calls of a UTC day of the period, and all corrections of that day. Raises CallsForgotten."""
    _check_kept(day)
    scope = _on(tenant_id, period, day)
    billed = Call.objects.filter(**scope, units__gt=0).order_by("occurred_at", "id")[:limit]
    entries = [_entry(call, "call") for call in billed]
    entries += [_entry(made, made.kind) for made in Adjustment.objects.filter(**scope)]
    return sorted(entries, key=lambda entry: (entry.at, entry.id))


def _on(tenant_id: UUID, period: Period, day: datetime) -> dict[str, Any]:
    """The part of the day that lies in the period, and so do its calls and their corrections."""
    start, end = max(day, period.start), min(day + DAY, period.end)
    return {"tenant_id": tenant_id, "occurred_at__gte": start, "occurred_at__lt": end}


def _entry(row: Call | Adjustment, what: str) -> Entry:
    return Entry(row.occurred_at, row.id, what, row.capability, row.project_id, row.api_key_id, row.units)


def _check_kept(day: datetime) -> None:
    kept = invariants.kept_since()
    if kept is None or day < kept:
        since = f"from {kept:%Y-%m-%d} on" if kept else "for no day"
        raise CallsForgotten(f"The call log keeps calls {since}, not those of {day:%Y-%m-%d}.")
