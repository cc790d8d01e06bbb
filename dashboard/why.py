"""Why a period costs what it costs: each line with its steps, its days, its keys, and the calls behind them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing import explain
from billing.explain import PeriodExplained
from billing.models import Account, BilledPeriod, Charge
from metering import usage
from metering.models import Adjustment
from metering.periods import Period

from . import formatting, links

K = TypeVar("K")
DAY = timedelta(days=1)
MOST_ROWS = 50
FIRST_CALLS = 25
BECAUSE = {
    "as the period is billed": lambda plan: _("%(plan)s, as the period is billed.") % {"plan": plan},
    "the present plan": lambda plan: _("%(plan)s, the present plan.") % {"plan": plan},
}


@dataclass(frozen=True, slots=True)
class Row:
    """A part of a line: a day, or what one key did with one capability. The amount is exact: only the line is rounded."""

    label: str
    detail: str
    units: int
    exact: str
    address: str = ""  # of what it is made of
    calls: str = ""
    day: datetime | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the invoice: what it says, how it was computed, and what it is made of."""

    anchor: str
    label: str
    quantity: int | None
    amount: str
    steps: tuple[str, ...]
    days: tuple[Row, ...]
    keys: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Later:
    """What was charged, credited or written off after the period's invoice was final."""

    label: str
    units: int
    amount: str
    what: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Called:
    """A call of the day that is looked at, or a correction of one."""

    at: datetime
    id: str
    what: str
    capability: str
    whose: str
    units: int


@dataclass(frozen=True, slots=True)
class DayOfCalls:
    """The day that is looked at: its parts by key, and the first of its calls while the log keeps them."""

    day: datetime
    keys: tuple[Row, ...]
    units: int
    first: tuple[Called, ...]
    forgotten: bool
    calls: str


@dataclass(frozen=True, slots=True)
class Why:
    """The page."""

    period: Period
    is_running: bool
    as_of: datetime
    because: str
    total: str
    total_minor: int
    units: int
    not_priced: str
    lines: tuple[Line, ...]
    corrections: tuple[Adjustment, ...]
    later: tuple[Later, ...]
    invoice_id: str
    before: str
    after: str
    usage: str
    of_day: DayOfCalls | None


def why(*, account: Account, instant: datetime, day: datetime | None, now: datetime) -> Why:
    """The period that holds the instant, explained as counted now; of one day of it down to the calls."""
    allowance = account.tenant.allowance
    (period,), as_of = usage.last_periods_as_of(allowance=allowance, now=instant, count=1)
    found = explain.explain(account=account, period=period, now=now)
    explanation, slug = found.explanation, account.tenant.slug
    billed = found.billed
    is_over = found.is_over
    return Why(
        period=period,
        is_running=not is_over,
        as_of=as_of,
        because=_because(found),
        total=formatting.money(explanation.total_minor, explanation.currency),
        total_minor=explanation.total_minor,
        units=explanation.units,
        not_priced=_not_priced(explanation.not_priced),
        lines=tuple(_lines(found, slug)),
        corrections=found.corrections[:MOST_ROWS],
        later=() if day else _later(billed),
        invoice_id=billed.invoice_id if billed else "",
        before=links.why(slug, period.start - timedelta(microseconds=1)) if _is_known(account, period) else "",
        after=links.why(slug, period.end) if is_over else "",
        usage=links.usage(slug, period),
        of_day=None if day is None or not _touches(day, period) else _of_day(account, found, day),
    )


def _is_known(account: Account, period: Period) -> bool:
    """Whether the tenant was here before the period."""
    return account.tenant.created_at < period.start or account.anchor < period.start


def _touches(day: datetime, period: Period) -> bool:
    return day < period.end and day + DAY > period.start


def _because(found: PeriodExplained) -> str:
    say = BECAUSE.get(found.because)
    plan = found.version.plan.name
    return say(plan) if say else _("%(plan)s, the plan before it was changed.") % {"plan": plan}


def _not_priced(units: int) -> str:
    if not units:
        return ""
    words = ngettext(
        "%(calls)s call beyond the included ones has no price under these terms and costs nothing.",
        "%(calls)s calls beyond the included ones have no price under these terms and cost nothing.",
        units,
    )
    return words % {"calls": formatting.count(units)}


# -- Lines -----------------------------------------------------------------------------------------------------------------
def _lines(found: PeriodExplained, slug: str) -> Iterator[Line]:
    numbers: dict[str, int] = {}
    explanation = found.explanation
    several = sum(line.kind == "overage" for line in explanation.lines) > 1
    for line in explanation.lines:
        numbers[line.kind] = number = numbers.get(line.kind, 0) + 1
        yield Line(
            anchor=line.kind if number == 1 else f"{line.kind}-{number}",
            label=label_of(line.kind, plan=found.version.plan.name, step=number if several else None),
            quantity=line.quantity if line.first is not None or line.kind == "included" else None,
            amount=formatting.money(line.amount_minor, explanation.currency),
            steps=tuple(_steps(line, explanation)),
            days=tuple(_by_day(line, found, slug)),
            keys=_by_key(line.parts, found, slug, found.period),
        )


def label_of(kind: str, *, plan: str = "", step: int | None = None) -> str:
    """What a line is called on every page."""
    if kind == "overage" and step is not None:
        return _("Calls beyond the included ones, price step %(step)d") % {"step": step}
    return {
        "fee": _("%(plan)s, fee of the period") % {"plan": plan},
        "included": _("Included calls"),
        "overage": _("Calls beyond the included ones"),
        "write_off": _("Beyond your hard limit in money: not charged"),
        "minimum": _("Up to the agreed minimum"),
        "late": _("Calls that were counted after the invoice was final"),
        "correction": _("Calls that were corrected after the invoice was final"),
    }[kind]


def _steps(line: explain.Line, explanation: explain.Explanation) -> Iterator[str]:
    currency = explanation.currency
    amount = formatting.money(line.amount_minor, currency)
    if line.kind == "fee":
        yield _("The plan's price of one period: %(amount)s.") % {"amount": amount}
    elif line.kind == "minimum":
        rest = explanation.minimum_minor - line.amount_minor
        yield _("Agreed minimum %(minimum)s \N{MINUS SIGN} fee and calls %(rest)s = %(amount)s.") % {
            "minimum": formatting.money(explanation.minimum_minor, currency), "rest": formatting.money(rest, currency),
            "amount": amount,
        }  # fmt: skip
    if line.first is None or line.last is None:
        return
    yield _("Number %(first)s to %(last)s of the period's calls, in the order in which they were made.") % {
        "first": formatting.count(line.first), "last": formatting.count(line.last),
    }  # fmt: skip
    yield from _priced(line, explanation)


def _priced(line: explain.Line, explanation: explain.Explanation) -> Iterator[str]:
    currency = explanation.currency
    amount = formatting.money(line.amount_minor, currency)
    if line.kind == "included":
        yield _("The plan's fee covers them.")
    elif line.kind == "write_off":
        cap = formatting.money(explanation.cap_minor or 0, currency)
        yield _("Your hard limit: calls cost at most %(cap)s in this period.") % {"cap": cap}
    else:
        yield _("%(calls)s calls \N{MULTIPLICATION SIGN} %(price)s per 1,000 = %(exact)s.") % {
            "calls": formatting.count(line.quantity),
            "price": formatting.thousand_price(line.unit_price_minor, currency),
            "exact": formatting.exact_money(line.exact_minor, currency),
        }  # fmt: skip
    if line.rounding_minor and line.kind != "write_off":
        yield _("Rounded once, half a unit away from zero: %(amount)s.") % {"amount": amount}


def _by_day(line: explain.Line, found: PeriodExplained, slug: str) -> Iterator[Row]:
    units, exact = _sums((part.day, part) for part in line.parts)
    for day in sorted(units):
        yield Row(
            label="", detail="", units=units[day], exact=_exact(line, exact[day], found.explanation.currency), day=day,
            address=links.why(slug, found.period.start, "day", day=day),
        )  # fmt: skip


def _by_key(parts: Iterable[explain.Part], found: PeriodExplained, slug: str, span: Period) -> tuple[Row, ...]:
    """The largest first; what is beyond the most rows is one row."""
    units, exact = _sums(((part.capability, part.project_id, part.key_id), part) for part in parts)
    largest = sorted(units, key=lambda key: (-units[key], key))
    currency = found.explanation.currency
    rows = [
        Row(
            label=key[0],
            detail=f"{found.names.project(key[1])}, {found.names.key(key[2])}",
            units=units[key],
            exact=formatting.exact_money(exact[key], currency),
            address=links.usage(slug, span, **_filters(key, found)),
            calls=links.calls(slug, span, **_filters(key, found)),
        )
        for key in largest[:MOST_ROWS]
    ]
    rest = largest[MOST_ROWS:]
    if rest:
        words = ngettext("%(number)s other", "%(number)s others", len(rest)) % {"number": formatting.count(len(rest))}
        sum_of_rest = sum((exact[key] for key in rest), Decimal(0))
        rows.append(Row(words, "", sum(units[key] for key in rest), formatting.exact_money(sum_of_rest, currency)))
    return tuple(rows)


def _filters(key: tuple[str, int, int], found: PeriodExplained) -> dict[str, str]:
    capability, project_id, key_id = key
    return {
        "capability": capability, "project": found.names.slugs.get(project_id, ""),
        "key": found.names.prefixes.get(key_id, ""),
    }  # fmt: skip


def _exact(line: explain.Line, amount: Decimal, currency: str) -> str:
    return formatting.exact_money(amount, currency) if line.kind != "included" else formatting.money(0, currency)


def _sums(keyed: Iterable[tuple[K, explain.Part]]) -> tuple[dict[K, int], dict[K, Decimal]]:
    units: dict[K, int] = {}
    exact: dict[K, Decimal] = {}
    for key, part in keyed:
        units[key] = units.get(key, 0) + part.units
        exact[key] = exact.get(key, Decimal(0)) + part.exact_minor
    return units, exact


# -- After the final invoice -----------------------------------------------------------------------------------------------
def _later(billed: BilledPeriod | None) -> tuple[Later, ...]:
    if billed is None or billed.state == BilledPeriod.State.OPEN:
        return ()
    found = billed.charges.filter(kind__in=(Charge.Kind.LATE, Charge.Kind.CORRECTION)).order_by("created_at")
    return tuple(
        Later(
            label=label_of(charge.kind),
            units=charge.units,
            amount=formatting.money(charge.amount_minor, charge.currency),
            what=becomes(charge),
            steps=_of_charge(charge),
        )
        for charge in found[:MOST_ROWS]
    )


def becomes(charge: Charge) -> str:
    """What has become of a charge of ours."""
    if charge.state == Charge.State.WRITTEN_OFF:
        return _("written off: never charged")
    if charge.state == Charge.State.NOTHING:
        return _("makes no difference in money")
    if charge.stripe_id.startswith("cn_") or charge.derivation.get("credited"):
        return _("given back by a credit note")
    if charge.amount_minor < 0:
        return _("credited on the next invoice")
    return _("charged on the next invoice")


def _of_charge(charge: Charge) -> tuple[str, ...]:
    """How it was computed: what the period costs with those calls less what it costs without."""
    kept = charge.derivation
    if "minor_before" not in kept:
        return ()
    money = {name: formatting.money(int(kept[f"minor_{name}"]), charge.currency) for name in ("before", "after")}
    words = _("With %(after_calls)s calls the period costs %(after)s, with %(before_calls)s it cost %(before)s.")
    calls = {f"{name}_calls": formatting.count(int(kept[f"units_{name}"])) for name in ("before", "after")}
    return (words % {**money, **calls},)


# -- One day ---------------------------------------------------------------------------------------------------------------
def _of_day(account: Account, found: PeriodExplained, day: datetime) -> DayOfCalls:
    slug = account.tenant.slug
    span = Period(max(day, found.period.start), min(day + DAY, found.period.end))
    parts = [
        part for line in found.explanation.lines if line.kind != "write_off" for part in line.parts if part.day == day
    ]
    try:
        entries = explain.calls(tenant_id=account.tenant_id, period=found.period, day=day, limit=FIRST_CALLS)
        forgotten = False
    except explain.CallsForgotten:
        entries, forgotten = [], True
    return DayOfCalls(
        day=day,
        keys=_by_key(parts, found, slug, span),
        units=sum(part.units for part in parts),
        first=tuple(_called(entry, found) for entry in entries[: FIRST_CALLS + MOST_ROWS]),
        forgotten=forgotten,
        calls="" if forgotten else links.calls(slug, span),
    )


def _called(entry: explain.Entry, found: PeriodExplained) -> Called:
    what = _("call") if entry.what == "call" else _("correction")
    whose = f"{found.names.project(entry.project_id)}, {found.names.key(entry.key_id)}"
    return Called(entry.at, str(entry.id), what, entry.capability, whose, entry.units)
