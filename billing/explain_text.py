"""A period explained in plain text: for operators, in the shell and in the admin."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

from . import explain
from .models import Account

KINDS = {
    "fee": "Fee of the period", "included": "Included calls", "overage": "Calls beyond the included ones",
    "write_off": "Beyond the hard limit in money, written off", "minimum": "Up to the agreed minimum",
}  # fmt: skip


def text(account: Account, found: explain.PeriodExplained) -> Iterator[str]:
    explanation = found.explanation
    state = "over" if found.is_over else "running: as counted now"
    yield f"{account.tenant}, {found.version} ({found.because})"
    yield f"{found.period.start:%d %B %Y %H:%M} to {found.period.end:%d %B %Y %H:%M} (UTC), {state}"
    yield f"Amounts in minor units of {explanation.currency}. {explanation.units:,} calls, numbered in the order they were made.\n"
    for line in explanation.lines:
        yield f"{KINDS[line.kind]:<46}{line.amount_minor:>14,}"
        yield from (f"    {text}" for text in _derivation(line, explanation))
        yield from (f"    {text}" for text in _parts_text(line, found.names))
    yield f"{'Total':<46}{explanation.total_minor:>14,}"
    if explanation.not_priced:
        yield f"{explanation.not_priced:,} calls beyond the included ones have no price under these terms."
    for made in found.corrections:
        yield f"Correction, in the counts above: {made} ({made.occurred_at:%Y-%m-%d}), by {made.actor}: {made.reason}"


def _derivation(line: explain.Line, explanation: explain.Explanation) -> Iterator[str]:
    if line.kind == "minimum":
        rest = explanation.minimum_minor - line.amount_minor
        yield f"agreed minimum {explanation.minimum_minor:,} - fee and calls {rest:,} = {line.amount_minor:,}"
    if line.first is None:
        return
    numbered = f"{line.quantity:,} calls, number {line.first:,} to {line.last:,}"
    if line.kind == "write_off":
        yield f"{numbered}: calls may cost {explanation.cap_minor:,} in this period at most"
    elif line.kind == "included":
        yield f"{numbered}, cost nothing"
    else:
        yield f"{numbered} x {_written(line.unit_price_minor)} = {_written(line.exact_minor)}"
    if line.rounding_minor:
        yield f"rounded once to whole minor units: {_signed(line.rounding_minor)}"


def _parts_text(line: explain.Line, names: explain.Names) -> Iterator[str]:
    by_day: dict[str, int] = {}
    by_key: dict[str, int] = {}
    exact: dict[str, Decimal] = {}
    for part in line.parts:
        whose = f"{part.capability}, {names.project(part.project_id)}, {names.key(part.key_id)}"
        for sums, name in ((by_day, f"{part.day:%Y-%m-%d}"), (by_key, whose)):
            sums[name] = sums.get(name, 0) + part.units
            exact[name] = exact.get(name, Decimal(0)) + part.exact_minor
    for title, sums in (("by day (UTC)", by_day), ("by capability, project and key", by_key)):
        if sums:
            yield f"{title}:"
            yield from (f"  {units:>13,}  {_written(exact[name]):>16}  {name}" for name, units in sorted(sums.items()))


def entries_text(entries: list[explain.Entry], names: explain.Names, day: datetime | None) -> Iterator[str]:
    if day is None:
        return
    yield f"\nCalls of {day:%Y-%m-%d} (UTC), the first {len(entries)}:"
    for entry in entries:
        whose = f"{entry.capability}, {names.project(entry.project_id)}, {names.key(entry.key_id)}"
        yield f"  {entry.at:%H:%M:%S.%f}  {entry.id}  {entry.what:<8} {entry.units:>+8,}  {whose}"


def _written(amount: Decimal) -> str:
    """Without an exponent and without zeros that say nothing."""
    written = f"{amount:,f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def _signed(amount: Decimal) -> str:
    return f"+{_written(amount)}" if amount > 0 else _written(amount)
