"""`manage.py explain`: why a period of a tenant costs what it costs, from the invoice's lines down to days, keys and calls."""

import argparse
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from billing import explain
from billing.models import Account
from metering import usage

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
KINDS = {
    "fee": "Fee of the period", "included": "Included calls", "overage": "Calls beyond the included ones",
    "write_off": "Beyond the hard limit in money, written off", "minimum": "Up to the agreed minimum",
}  # fmt: skip


class Command(BaseCommand):
    help = (
        "Explain every line of a period's invoice: quantities by day, capability and key, steps, unit prices, rounding."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, help="The tenant's address (slug).")
        parser.add_argument(
            "--period", type=_day, metavar="YYYY-MM-DD", help="The period that begins on or holds this day (UTC)."
        )
        parser.add_argument("--day", type=_day, metavar="YYYY-MM-DD", help="List the calls of this day of it, too.")
        parser.add_argument("--limit", type=int, default=50, help="How many calls of the day; default: 50.")
        parser.add_argument("--json", action="store_true", help="One JSON object on one line.")

    def handle(self, **options: Any) -> None:
        account = (
            Account.objects.select_related("tenant__allowance", "plan_version__plan")
            .filter(tenant__slug=options["tenant"])
            .first()
        )
        if account is None:
            raise CommandError(f"There is no tenant '{options['tenant']}' with a plan.")
        now = timezone.now()
        instant = options["period"] + DAY - MICROSECOND if options["period"] else now
        period = usage.current_period(allowance=account.tenant.allowance, now=instant)
        found = explain.explain(account=account, period=period, now=now)
        entries = []
        if options["day"]:
            try:
                entries = explain.calls(
                    tenant_id=account.tenant_id, period=period, day=options["day"], limit=options["limit"]
                )
            except explain.CallsForgotten as error:
                raise CommandError(str(error)) from error
        if options["json"]:
            said = _as_json(account, found) | {"calls": [_entry(entry, found.names) for entry in entries]}
            self.stdout.write(json.dumps(said))
            return
        self.stdout.write("\n".join([*_text(account, found), *_entries_text(entries, found.names, options["day"])]))


def _day(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


# -- as text -------------------------------------------------------------------------------------------------------------


def _text(account: Account, found: explain.PeriodExplained) -> Iterator[str]:
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
        yield f"{numbered} x {_plain(line.unit_price_minor)} = {_plain(line.exact_minor)}"
    if line.rounding_minor:
        yield f"rounded once to whole minor units: {_plain(line.rounding_minor, sign=True)}"


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
            yield from (f"  {units:>13,}  {_plain(exact[name]):>16}  {name}" for name, units in sorted(sums.items()))


def _entries_text(entries: list[explain.Entry], names: explain.Names, day: datetime | None) -> Iterator[str]:
    if day is None:
        return
    yield f"\nCalls of {day:%Y-%m-%d} (UTC), the first {len(entries)}:"
    for entry in entries:
        whose = f"{entry.capability}, {names.project(entry.project_id)}, {names.key(entry.key_id)}"
        yield f"  {entry.at:%H:%M:%S.%f}  {entry.id}  {entry.what:<8} {entry.units:>+8,}  {whose}"


def _plain(amount: Decimal, *, sign: bool = False) -> str:
    """Without an exponent and without zeros that say nothing."""
    text = f"{amount:+,f}" if sign else f"{amount:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# -- as JSON -------------------------------------------------------------------------------------------------------------


def _as_json(account: Account, found: explain.PeriodExplained) -> dict[str, Any]:
    """Amounts that are not whole are text: they are exact."""
    explanation = found.explanation
    return {
        "tenant": account.tenant.slug, "plan_version": str(found.version), "because": found.because,
        "period": {"start": found.period.start.isoformat(), "end": found.period.end.isoformat()},
        "is_over": found.is_over, "currency": explanation.currency, "units": explanation.units,
        "not_priced_units": explanation.not_priced, "total_minor": explanation.total_minor,
        "lines": [_line(line, found.names) for line in explanation.lines],
        "corrections": [
            {"id": str(made.id), "kind": made.kind, "occurred_at": made.occurred_at.isoformat(), "units": made.units,
             "actor": made.actor, "reason": made.reason}
            for made in found.corrections
        ],
    }  # fmt: skip


def _line(line: explain.Line, names: explain.Names) -> dict[str, Any]:
    return {
        "kind": line.kind, "quantity": line.quantity, "first": line.first, "last": line.last,
        "unit_price_minor": _plain(line.unit_price_minor), "exact_minor": _plain(line.exact_minor),
        "rounding_minor": _plain(line.rounding_minor), "amount_minor": line.amount_minor,
        "parts": [
            {"day": f"{part.day:%Y-%m-%d}", "capability": part.capability, "project": names.project(part.project_id),
             "key": names.key(part.key_id), "units": part.units, "exact_minor": _plain(part.exact_minor)}
            for part in line.parts
        ],
    }  # fmt: skip


def _entry(entry: explain.Entry, names: explain.Names) -> dict[str, Any]:
    return {
        "id": str(entry.id), "at": entry.at.isoformat(), "what": entry.what, "capability": entry.capability,
        "project": names.project(entry.project_id), "key": names.key(entry.key_id), "units": entry.units,
    }  # fmt: skip
