"""What it means that ledger, reports, Stripe and invoice do not agree for a period. Pure: all that is known is handed in.

At rest the reports carry what the ledger has, less what was written off by name; Stripe has what the reports carry; and the final
invoice charges what Stripe has. Each unit by which one of these does not hold is in exactly one difference, with its mend.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from metering.periods import Period

from .models import Drift, UsageReport

Kind = Drift.Kind
State = UsageReport.State
ON_ITS_WAY = (State.PENDING, State.SENDING, State.DELIVERED, State.CONFIRMED)
LOST = (State.REJECTED, State.SET_ASIDE)
TAKEN = (State.SENDING, State.DELIVERED, State.CONFIRMED)
WORST = (Kind.UNEXPLAINED, Kind.DUPLICATED, Kind.REJECTED, Kind.LATE, Kind.IN_FLIGHT)
MOST_SUMS = 4096  # of reports whose fate is open; beyond that only the bounds are looked at

LOOK = "Read the period's usage reports and Stripe's events; when it is mended or accepted, release the tenant with the reason."


@dataclass(frozen=True, slots=True)
class Pool:
    """Units of the ledger with something in common: added by calls and backfills, and taken away by corrections."""

    added: int = 0
    removed: int = 0

    def part(self, wanted: int) -> int:
        """As much of a difference as these units can explain."""
        return min(wanted, self.added) if wanted > 0 else max(wanted, -self.removed)


NOBODY = Pool()


@dataclass(frozen=True, slots=True)
class Ledger:
    """The period's units, and which of them need not be at Stripe yet."""

    units: int
    unlogged: int = 0  # in the usage hours and not in the call log and its corrections; negative: the other way round
    held: Pool = NOBODY  # held back by an open change, a consent, or because reporting is stopped
    young: Pool = NOBODY  # occurred or recorded within the settling time
    late: Pool = NOBODY  # recorded after the invoice was final
    corrected: int = 0  # taken away by all corrections


@dataclass(frozen=True, slots=True)
class Report:
    """What of a usage report matters here."""

    quantity: int
    state: str
    touched_at: datetime | None  # when it was sent, taken or confirmed last


@dataclass(frozen=True, slots=True)
class OwnLine:
    """A charge of ours, and the amounts of the lines that Stripe's invoices have for it."""

    description: str
    units: int
    amount_minor: int
    currency: str
    charged_minor: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sides:
    """Everything that is known of one tenant, meter and period."""

    period: Period
    ledger: Ledger
    reports: tuple[Report, ...]
    stripe: int
    rejected: int = 0  # units that Stripe rejected and no other revision carries
    foreign: tuple[Report, ...] = ()  # other periods' reports that are inside Stripe's number
    invoiced: int | None = None  # of the final invoice; None: there is none
    own_lines: tuple[OwnLine, ...] = ()
    written_off: int = 0  # came after the final invoice, and was written off or charged otherwise, by name

    @property
    def carried(self) -> int:
        """Units that are at Stripe or will be, by our reports."""
        return sum(report.quantity for report in self.reports if report.state in ON_ITS_WAY)

    @property
    def missing(self) -> int:
        """Units that the ledger has, as far as its call log bears them out, and our reports do not carry."""
        never_sent = self.written_off - self.sent_in_vain
        return self.ledger.units - self.ledger.unlogged - never_sent - self.carried

    @property
    def sent_in_vain(self) -> int:
        """Of what was written off: units that Stripe has counted and its invoice has missed, or there was no invoice."""
        if self.invoiced is None or self.written_off <= 0:
            return 0
        return min(self.written_off, max(0, min(self.carried, self.at_stripe) - self.invoiced))

    @property
    def at_stripe(self) -> int:
        """Stripe's number without other periods' reports."""
        return self.stripe - sum(report.quantity for report in self.foreign if report.state in TAKEN)


@dataclass(frozen=True, slots=True)
class Difference:
    """Units of one class. `stops`: sending more could charge the customer wrongly, so nothing more is sent."""

    kind: Kind
    units: int
    side: str  # the one that stands alone: ledger, reports, stripe or invoice; "" where none is wrong
    detail: str
    mend: str
    stops: bool = False


def compare(sides: Sides, *, now: datetime, settling: timedelta) -> list[Difference]:
    """Every difference between the sides, the worst first; none when all agree."""
    found = list(_compared(sides, now, settling))
    found += [_line_differs(line) for line in sides.own_lines if line.charged_minor != (line.amount_minor,)]
    return sorted(found, key=lambda one: WORST.index(one.kind))


def _compared(sides: Sides, now: datetime, settling: timedelta) -> Iterator[Difference]:
    ledger = sides.ledger
    if ledger.unlogged:
        yield _unlogged(ledger)
    missing = sides.missing
    certain, open_ones = _sent(sides, now, settling)
    error = _error(sides.stripe, certain, open_ones)
    if error and error == missing:
        yield _reports_differ(error)
        charged = sides.at_stripe
    else:
        charged = sides.at_stripe - error
        if error:
            yield _stripe_differs(sides, error)
        yield from _missing(sides, missing)
    on_the_way = sides.carried - sides.at_stripe + error
    if on_the_way:
        said = f"On the way to Stripe: {_units(on_the_way)} in reports that its summaries do not show yet."
        mend = "Wait. If it lasts, see that a Celery worker and beat run and that Stripe can be reached."
        yield Difference(Kind.IN_FLIGHT, on_the_way, "", said, mend)
    if sides.written_off:
        said = (
            f"{_units(sides.written_off)} came after the final invoice and are written off by name or billed otherwise."
        )
        yield Difference(Kind.LATE, sides.written_off, "", said, "Nothing to do: the reports say what was done.")
    charged -= sides.sent_in_vain
    if sides.invoiced not in {None, charged, sides.at_stripe}:
        yield _invoice_differs((sides.invoiced or 0) - charged)


def _sent(sides: Sides, now: datetime, settling: timedelta) -> tuple[int, list[int]]:
    """Units that Stripe must show by now, and the quantities that it may show or not."""
    certain, open_ones = 0, []
    for report in (*sides.reports, *sides.foreign):
        if report.state not in TAKEN:
            continue
        is_young = report.touched_at is None or report.touched_at > now - settling
        if report.state == State.SENDING or is_young:
            open_ones.append(report.quantity)
        else:
            certain += report.quantity
    return certain, open_ones


def _error(stripe: int, certain: int, open_ones: Iterable[int]) -> int:
    """By how many units Stripe's number is none that the reports could make."""
    sums, quantities = {certain}, list(open_ones)
    for quantity in quantities:
        if len(sums) > MOST_SUMS:
            break
        sums |= {one + quantity for one in sums}
    lowest = certain + sum(quantity for quantity in quantities if quantity < 0)
    highest = certain + sum(quantity for quantity in quantities if quantity > 0)
    if stripe in sums or (len(sums) > MOST_SUMS and lowest <= stripe <= highest):
        return 0
    if stripe < lowest:
        return stripe - lowest
    return stripe - highest if stripe > highest else stripe - (certain + sum(quantities))


def _missing(sides: Sides, missing: int) -> Iterator[Difference]:
    """Why our reports do not carry what the ledger has, part by part."""
    for kind, pool, why, mend in _reasons(sides):
        part = pool.part(missing)
        if part:
            yield Difference(kind, part, "", f"{_units(part)} {_agreeing(why, part)}", mend)
            missing -= part
    if missing > 0 or 0 < -missing <= sides.ledger.corrected:
        what = f"{_units(missing)} of the ledger" if missing > 0 else f"Corrections by {_units(-missing)}"
        said = f"{what} are not in our reports, though the settling time is over."
        mend = "See that a Celery worker and beat run, and what the worker's log says: the next reporting carries them."
        yield Difference(Kind.UNEXPLAINED, missing, "reports", said, mend)
    elif missing:
        said = f"Our reports carry {-missing:,} more than the ledger has, and no correction explains it."
        yield Difference(Kind.UNEXPLAINED, missing, "reports", said, LOOK, stops=True)


def _reasons(sides: Sides) -> Iterator[tuple[Kind, Pool, str, str]]:
    ledger = sides.ledger
    yield (
        Kind.REJECTED, Pool(max(sides.rejected, 0), max(-sides.rejected, 0)),
        "were rejected by Stripe and no other revision carries them.",
        "Read the report's error; when its cause is gone a further revision carries them by itself.",
    )  # fmt: skip
    if sides.invoiced is not None:
        yield (
            Kind.LATE, _not_written_off(ledger.late, sides.written_off), "were recorded after the invoice was final.",
            "The next reporting writes them off by name or puts them on the next invoice, as the setting says.",
        )  # fmt: skip
    yield (
        Kind.IN_FLIGHT, ledger.held,
        "are held back: by an open change of plan, a consent, or because reporting is stopped.",
        "Nothing to do while the change is open. If reporting is stopped: look why, then release the tenant.",
    )  # fmt: skip
    yield (
        Kind.IN_FLIGHT, ledger.young, "are younger than the settling time and will be reported.",
        "Wait: they are reported when their hour is over.",
    )  # fmt: skip


def _not_written_off(late: Pool, written_off: int) -> Pool:
    """Of what came late, that which nothing was done about yet."""
    left = late.added - late.removed - written_off
    return Pool(min(max(left, 0), late.added), min(max(-left, 0), late.removed))


def _unlogged(ledger: Ledger) -> Difference:
    said = (
        f"The ledger's usage hours have {_by(ledger.unlogged)} than its call log and corrections; reports and Stripe are "
        "compared with the call log."
    )
    mend = "Run `manage.py rebuild_usage` for the tenant, see why they differ, then release the tenant."
    return Difference(Kind.UNEXPLAINED, ledger.unlogged, "ledger", said, mend, stops=True)


def _reports_differ(error: int) -> Difference:
    said = f"Our reports carry {_by(-error)} than both the ledger and Stripe, which agree with each other."
    return Difference(Kind.UNEXPLAINED, -error, "reports", said, LOOK, stops=True)


def _stripe_differs(sides: Sides, error: int) -> Difference:
    if error > 0:
        charged = " The final invoice charges them." if sides.invoiced == sides.at_stripe else ""
        said = f"Stripe has {error:,} more than we reported ({sides.at_stripe:,} against {sides.at_stripe - error:,}).{charged}"
        mend = (
            "Find the meter event that is none of our reports (another sender with our key?); within a day cancel it, later send "
            "its negative; after the final invoice make a credit note. Then release the tenant."
        )
        return Difference(Kind.DUPLICATED, error, "stripe", said, mend, stops=True)
    said = f"Stripe shows {-error:,} less than it has taken from us ({sides.at_stripe:,}, not {sides.at_stripe - error:,})."
    mend = "Look in Stripe's events for a rejected or cancelled meter event. " + LOOK
    return Difference(Kind.UNEXPLAINED, error, "stripe", said, mend, stops=True)


def _invoice_differs(units: int) -> Difference:
    said = f"The final invoice charges {_by(units)} than Stripe's meter was rightly told for the period."
    mend = "Compare the invoice's usage lines with the period's reports; mend it by a credit note, then release the tenant."
    return Difference(Kind.UNEXPLAINED, units, "invoice", said, mend, stops=True)


def _line_differs(line: OwnLine) -> Difference:
    charged = ", ".join(f"{minor:,}" for minor in line.charged_minor) or "nothing"
    said = f"For our charge '{line.description}' ({line.amount_minor:,} {line.currency} minor) the invoice charges {charged}."
    mend = "Compare the invoice's lines with the period's charges; mend it by a credit note or a charge, then release the tenant."
    is_twice = len(line.charged_minor) > 1
    kind, units = (Kind.DUPLICATED, line.units) if is_twice else (Kind.UNEXPLAINED, -line.units)
    return Difference(kind, units, "invoice", said, mend, stops=True)


def _by(units: int) -> str:
    return f"{units:,} more" if units > 0 else f"{-units:,} less"


SINGULAR = {"are": "is", "were": "was"}


def _units(units: int) -> str:
    return f"{units:,} {'unit' if abs(units) == 1 else 'units'}"


def _agreeing(why: str, units: int) -> str:
    """The clause, whose verb is written for several units, for so many."""
    verb, rest = why.split(" ", 1)
    return why if abs(units) != 1 else f"{SINGULAR[verb]} {rest}"
