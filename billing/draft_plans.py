"""Draft plans: the terms of a plan that nobody is on yet, read from TOML. A mistake is named with its line, field and mend."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from metering.models import MAX_CALLS

from . import pricing
from .errors import BillingError

PLACES = 12  # of a unit price
DEAREST = 10**12
ALIKE = 0.45  # from here on a field's name is taken for a slip of another's
LONGEST_NAME = 60
EXAMPLE = """\
name = "Launch 2027"
currency = "usd"
fee_minor = 2900              # $29.00 a period
included = 150_000            # calls, or "unlimited"
overage = "rate"              # or "block": calls beyond are refused
unit_price_minor = "0.02"     # $0.20 per 1,000; or [[steps]]
"""


class DraftInvalid(BillingError):
    """The draft cannot be read; the message names line, field and mend."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan that nobody is on yet: its terms by currency."""

    name: str
    terms: Mapping[str, pricing.Terms]


TOP = (
    "name",
    "currency",
    "fee_minor",
    "included",
    "overage",
    "unit_price_minor",
    "minimum_minor",
    "steps",
    "currencies",
)
PRICED = ("fee_minor", "unit_price_minor", "minimum_minor", "steps")
STEP = ("up_to", "unit_price_minor")
MISSING = object()


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the draft, and where it stands: its header's path, and which of several with this header it is."""

    text: str
    values: Mapping[str, Any]
    path: str = ""
    number: int = 0

    def fail(self, key: str, mend: str) -> DraftInvalid:
        name = f"{self.path}.{key}".strip(".")
        return DraftInvalid(f"Line {_line(self.text, self.path, self.number, key)}, {name}: {mend}")

    def check_keys(self, known: Sequence[str]) -> None:
        for key in self.values:
            if key not in known:
                near = get_close_matches(key, known, 1, ALIKE)
                meant = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
                raise self.fail(key, f"there is no such field. {meant}")

    def whole(self, key: str, default: Any = MISSING, *, most: int | None = None) -> int:
        value = self.values.get(key, default)
        if value is MISSING:
            raise self.fail(key, f"it is missing. Add {key} = a whole number.")
        if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (most is not None and value > most):
            bound = f" up to {most:,}" if most is not None else ""
            raise self.fail(key, f"write a whole number from 0{bound}, not {value!r}.")
        return value

    def price(self, key: str) -> Decimal:
        value = self.values.get(key, MISSING)
        if value is MISSING:
            raise self.fail(key, f'it is missing. Add {key} = "0.02" (minor units a call).')
        try:
            price = Decimal(str(value))
        except ArithmeticError:
            price = Decimal("NaN")
        if (
            isinstance(value, bool)
            or not price.is_finite()
            or not 0 <= price < DEAREST
            or price != round(price, PLACES)
        ):
            shown = value if isinstance(value, str) else f"{value}"
            raise self.fail(key, f'write minor units a call with up to {PLACES} decimals, like "0.02", not "{shown}".')
        return price

    def one_of(self, key: str, choices: Sequence[str]) -> str:
        value = self.values.get(key, MISSING)
        if value not in choices:
            said = "it is missing" if value is MISSING else f"{value!r} is not known"
            raise self.fail(key, f"{said}. Write " + " or ".join(f'"{choice}"' for choice in choices) + ".")
        return str(value)


def _line(text: str, path: str, number: int, key: str) -> int:
    """The line of a field, else of its table's header, else the first."""
    header, seen, found = "", -1, 1
    for place, line in enumerate(text.splitlines(), 1):
        opened = re.match(r"\s*\[\[?\s*([\w.\-\" ]+?)\s*\]\]?", line)
        if opened:
            header = opened[1].replace('"', "")
            if header == f"{path}.{key}".strip("."):
                return place
            seen += header == path
            found = place if header == path and seen == number else found
        is_here = header == path and (not path or seen == number)
        if is_here and re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=.]", line):
            return place
        if path and not header and re.match(rf"\s*{re.escape(path.partition('.')[0])}\s*=", line):
            found = place  # an inline table
    return found


def read(text: str) -> Draft:
    """The draft plan that this TOML text describes; raises DraftInvalid."""
    try:
        values = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise DraftInvalid(f"This is not TOML: {error}. See the example in docs/price-lab.md.") from error
    table = _Table(text, values)
    table.check_keys(TOP)
    name = values.get("name")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= LONGEST_NAME:
        raise table.fail("name", f"write what to call the plan, 1 to {LONGEST_NAME} characters in quotation marks.")
    included = _included(table)
    prices_overage = table.one_of("overage", ("rate", "block")) == "rate"
    if prices_overage and included is None:
        raise table.fail(
            "overage", 'with included = "unlimited" no call is beyond. Write "block", or a number of calls.'
        )
    currency = _currency(table, "currency", values.get("currency", "usd"))
    terms = {currency: _terms(table, currency, included, prices_overage=prices_overage)}
    others = values.get("currencies", {})
    if not isinstance(others, dict):
        raise table.fail("currencies", "write a table for each currency, like [currencies.eur].")
    for code, other in others.items():
        own = _Table(text, other if isinstance(other, dict) else {}, f"currencies.{code}")
        _currency(own, "", code)
        own.check_keys(PRICED)
        terms[code] = _terms(own, code, included, prices_overage=prices_overage)
    return Draft(name.strip(), terms)


def _included(table: _Table) -> int | None:
    if table.values.get("included") == "unlimited":
        return None
    if isinstance(table.values.get("included", MISSING), str):
        raise table.fail("included", f'write a whole number or "unlimited", not {table.values["included"]!r}.')
    return table.whole("included", most=MAX_CALLS)


def _currency(table: _Table, key: str, code: Any) -> str:
    if not isinstance(code, str) or not re.fullmatch(r"[a-z]{3}", code):
        raise table.fail(key, f'write an ISO 4217 code in lower case, like "usd", not {code!r}.')
    return code


def _terms(table: _Table, currency: str, included: int | None, *, prices_overage: bool) -> pricing.Terms:
    steps = _steps(table)
    if steps and "unit_price_minor" in table.values:
        raise table.fail("unit_price_minor", "the steps say the prices. Take one of the two away.")
    if not prices_overage and (steps or "unit_price_minor" in table.values):
        key = "steps" if steps else "unit_price_minor"
        raise table.fail(
            key, 'calls beyond are refused, so they have no price. Take it away, or write overage = "rate".'
        )
    needs_price = prices_overage and not steps
    try:
        return pricing.Terms(
            currency=currency,
            fee_minor=table.whole("fee_minor"),
            included=included,
            unit_price_minor=table.price("unit_price_minor") if needs_price else Decimal(0),
            prices_overage=prices_overage,
            steps=steps,
            minimum_minor=table.whole("minimum_minor", 0),
        )
    except pricing.StepsInvalid as error:
        raise table.fail(
            "steps", "up_to has to rise from step to step, and only the last step is without it."
        ) from error


def _steps(table: _Table) -> tuple[pricing.Step, ...]:
    found = table.values.get("steps", [])
    if not isinstance(found, list) or not all(isinstance(step, dict) for step in found):
        raise table.fail("steps", "write a [[steps]] table for each step.")
    steps = []
    for number, values in enumerate(found):
        step = _Table(table.text, values, f"{table.path}.steps".strip("."), number)
        step.check_keys(STEP)
        up_to = step.whole("up_to") if "up_to" in values else None
        steps.append(pricing.Step(up_to, step.price("unit_price_minor")))
    return tuple(steps)
