"""What a route accepts, described as data, and requests checked against it the way Stripe does.

A description is a dict (a hash; a name that ends in "!" is required), a list with one entry (an array of that),
a tuple (any of these) or a `Scalar`. Text at the leaves comes back as the type the description names.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from .errors import Json, StripeError, unreadable

MAX_METADATA_KEYS, MAX_METADATA_KEY, MAX_METADATA_VALUE = 50, 40, 500
MAX_LIMIT = 100
MAX_TEXT = 5_000


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf. `parse` raises ValueError for text that is not one."""

    name: str
    parse: Callable[[Any], Any]
    choices: tuple[str, ...] = ()


def _text(value: Any) -> str | None:
    if len(value := str(value)) > MAX_TEXT:
        raise ValueError(value[:20])
    return value or None


def _integer(value: Any) -> int | None:
    if value == "":
        return None
    if not re.fullmatch(r"-?\d{1,18}", str(value)):
        raise ValueError(value)
    return int(value)


def _boolean(value: Any) -> bool:
    return {"true": True, "false": False}[str(value).lower()]


def _decimal(value: Any) -> str | None:
    if value == "":
        return None
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(value)
    return format(number.normalize() + 0, "f")


def _number(value: Any) -> float:
    return float(Decimal(str(value)))


TEXT = Scalar("string", _text)
INTEGER = Scalar("integer", _integer)
BOOLEAN = Scalar("boolean", _boolean)
DECIMAL = Scalar("decimal", _decimal)
NUMBER = Scalar("float", _number)
METADATA = Scalar("metadata", lambda value: value)
ANYTHING = Scalar("hash", lambda value: value)
CLEAR = Scalar("empty", lambda value: None)

RANGE = (INTEGER, {"gt": INTEGER, "gte": INTEGER, "lt": INTEGER, "lte": INTEGER})
PAGING: Json = {"limit": INTEGER, "starting_after": TEXT, "ending_before": TEXT}
ADDRESS: Json = {
    "city": TEXT, "country": TEXT, "line1": TEXT, "line2": TEXT, "postal_code": TEXT, "state": TEXT,
}  # fmt: skip


def one_of(*choices: str) -> Scalar:
    """Text from a closed list."""

    def parse(value: Any) -> str | None:
        if value == "":
            return None
        if value not in choices:
            raise ValueError(value)
        return str(value)

    return Scalar("choice", parse, choices)


def check(description: Json, given: Json) -> Json:
    """The parameters with their types; raises StripeError for the unknown, the missing and the malformed."""
    fields = {"expand": [TEXT], **description}
    checked: Json = _hash(fields, given, "")
    limit = checked.get("limit")
    if limit is not None and not 1 <= limit <= MAX_LIMIT:
        raise unreadable(f"Invalid integer: must be between 1 and {MAX_LIMIT}", param="limit", code=None)
    return checked


def _value(description: Any, given: Any, path: str) -> Any:
    match description:
        case dict():
            return _hash(description, given, path)
        case list():
            return _array(description[0], given, path)
        case tuple():
            return _any_of(description, given, path)
        case _:
            return _leaf(description, given, path)


def _hash(fields: Json, given: Any, path: str) -> Json:
    if not isinstance(given, dict):
        raise unreadable(f"Invalid {_said(path)}: must be an object", param=path, code="parameter_invalid")
    known = {name.rstrip("!"): inner for name, inner in fields.items()}
    unknown = [_join(path, key) for key in given if key not in known]
    if unknown:
        s = "s" if len(unknown) > 1 else ""
        raise unreadable(
            f"Received unknown parameter{s}: {', '.join(unknown)}", param=unknown[0], code="parameter_unknown"
        )
    for name in fields:
        if name.endswith("!") and given.get(name[:-1]) in (None, ""):
            param = _join(path, name[:-1])
            raise unreadable(f"Missing required param: {param}.", param=param, code="parameter_missing")
    return {key: _value(known[key], value, _join(path, key)) for key, value in given.items()}


def _array(inner: Any, given: Any, path: str) -> list[Any]:
    if isinstance(given, dict) and all(key.isdecimal() for key in given):
        given = [given[key] for key in sorted(given, key=int)]
    if given == "":
        return []
    if not isinstance(given, list):
        raise unreadable(f"Invalid array: {_said(path)}", param=path, code="parameter_invalid")
    return [_value(inner, value, f"{path}[{index}]") for index, value in enumerate(given)]


def _any_of(descriptions: tuple[Any, ...], given: Any, path: str) -> Any:
    if given == "" and CLEAR in descriptions:
        return None
    failure: StripeError | None = None
    for description in descriptions:
        if isinstance(description, Scalar) is isinstance(given, dict) and description is not METADATA:
            continue
        try:
            return _value(description, given, path)
        except StripeError as error:
            failure = error
    raise failure or unreadable(f"Invalid {_said(path)}", param=path, code="parameter_invalid")


def _leaf(scalar: Scalar, given: Any, path: str) -> Any:
    if scalar is METADATA:
        return _metadata(given, path)
    if isinstance(given, (dict, list)) and scalar is not ANYTHING:
        raise unreadable(f"Invalid {scalar.name}: {_said(path)}", param=path, code="parameter_invalid")
    try:
        return scalar.parse(given)
    except (ValueError, KeyError, InvalidOperation):
        if scalar.choices:
            said = f"Invalid {_said(path)}: must be one of {', '.join(scalar.choices)}"
            raise unreadable(said, param=path, code=None) from None
        said = f"Invalid {scalar.name}: {str(given)[:60]}"
        raise unreadable(said, param=path, code=f"parameter_invalid_{scalar.name}") from None


def _metadata(given: Any, path: str) -> Json | None:
    if given == "":
        return None
    if not isinstance(given, dict) or any(isinstance(value, (dict, list)) for value in given.values()):
        raise unreadable(f"Invalid {_said(path)}: must be a hash of text", param=path, code="parameter_invalid")
    if len(given) > MAX_METADATA_KEYS or any(
        len(key) > MAX_METADATA_KEY or len(str(value)) > MAX_METADATA_VALUE for key, value in given.items()
    ):
        raise unreadable(f"Too much {_said(path)}: 50 keys of 40 and values of 500 characters", param=path, code=None)
    return {key: str(value) for key, value in given.items()}


def chosen(params: Json, *names: str) -> Json:
    """Those of the named parameters that were given."""
    return {name: params[name] for name in names if name in params}


def merged_metadata(held: Json, given: Json | None) -> Json:
    """Stripe's rule: given keys are set, an empty value removes its key, empty metadata removes all."""
    if given is None:
        return {}
    return {key: value for key, value in {**held, **given}.items() if value != ""}


def _join(path: str, key: str) -> str:
    return f"{path}[{key}]" if path else key


def _said(path: str) -> str:
    return path or "parameters"
