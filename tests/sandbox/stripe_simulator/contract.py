"""Requests, answers and events of the simulator held against the types of the installed stripe package."""

import re
import typing
from decimal import Decimal
from typing import Any

import stripe
from stripe._stripe_object import StripeObject
from stripe.events._event_classes import get_v2_event_class

from sandbox.stripe_simulator.parameters import ANYTHING, CLEAR, METADATA, Scalar

from .package_types import (
    LITERALS,
    SCALARS,
    Names,
    attributes,
    endpoint,
    fields,
    is_hash,
    is_list,
    is_required,
    variants,
)

Problems = list[str]
Json = dict[str, Any]
FORM = {int: r"-?\d+", bool: "true|false", Decimal: r"-?\d+(\.\d+)?", float: r"-?\d+(\.\d+)?"}


# A request: what was sent ------------------------------------------------------------------------------------------


def request_problems(method: str, path: str, given: Json) -> Problems:
    """What the package would not have sent. Leaves are text, as in a form; of v2 they are JSON."""
    found = endpoint(method, path)
    if found is None:
        return [f"Stripe has no {method} {path}"]
    sent = {key: value for key, value in given.items() if key != "expand"}
    if found.params is None:
        return [f"{method} {path} takes no parameters, not {sorted(sent)}"] if sent else []
    return _sent(given, found.names[found.params], found.names, "")


def _sent(value: Any, kind: Any, names: Names, path: str) -> Problems:
    tries = [_sent_as(value, one, names, path) for one in variants(kind, names)]
    return min(tries, key=len)


def _sent_as(value: Any, kind: Any, names: Names, path: str) -> Problems:
    if hasattr(kind, "__required_keys__"):
        return _sent_hash(value, kind, path)
    origin = typing.get_origin(kind)
    if origin in LITERALS:
        allowed = [str(one).lower() if isinstance(one, bool) else str(one) for one in typing.get_args(kind)]
        return [] if value in allowed else [f"{path}: {value!r} is none of {allowed[:9]}"]
    if origin is list:
        return _sent_array(value, typing.get_args(kind)[0], names, path)
    if is_hash(kind):
        return [] if isinstance(value, dict) or value == "" else [f"{path}: not a hash"]
    if isinstance(value, (dict, list)):
        return [f"{path}: not a scalar"]
    pattern = FORM.get(kind)
    return [f"{path}: {value!r} is no {kind}"] if pattern and not re.fullmatch(pattern, str(value)) else []


def _sent_array(value: Any, kind: Any, names: Names, path: str) -> Problems:
    if isinstance(value, dict) and all(key.isdecimal() for key in value):
        value = list(value.values())
    if not isinstance(value, list):
        return [f"{path}: not an array"]
    return [problem for one in value for problem in _sent(one, kind, names, f"{path}[]")]


def _sent_hash(value: Any, kind: Any, path: str) -> Problems:
    if not isinstance(value, dict):
        return [f"{path}: not a hash"]
    known, names = fields(kind)
    problems = [f"{path}.{key}: unknown" for key in value if key not in known and key != "expand"]
    for key, inner in known.items():
        if key in value:
            problems += _sent(value[key], inner, names, f"{path}.{key}")
        elif is_required(inner, names):
            problems.append(f"{path}.{key}: missing")
    return problems


# A route: what would be accepted -----------------------------------------------------------------------------------


def description_problems(method: str, template: str, accepted: Json) -> Problems:
    """Parameters and choices that the simulator accepts and the package does not know."""
    found = endpoint(method, re.sub(r"\{\w+\}", "x", template))
    if found is None:
        return [f"Stripe has no {method} {template}"]
    if found.params is None:
        return [f"{method} {template} takes no parameters"] if accepted else []
    return _accepted(accepted, found.names[found.params], found.names, f"{method} {template} ")


def _accepted(description: Any, kind: Any, names: Names, path: str) -> Problems:
    if isinstance(description, tuple):
        return [one for part in description if part is not CLEAR for one in _accepted(part, kind, names, path)]
    options = variants(kind, names)
    if isinstance(description, dict):
        return _accepted_hash(description, options, path)
    if isinstance(description, list):
        inner = [typing.get_args(one)[0] for one in options if typing.get_origin(one) is list]
        return _accepted(description[0], inner[0], names, f"{path}[]") if inner else [f"{path}: is no array"]
    return _accepted_scalar(description, options, path)


def _accepted_hash(description: Json, options: list[Any], path: str) -> Problems:
    typed = [one for one in options if hasattr(one, "__required_keys__")]
    if not typed:
        return [] if any(is_hash(one) for one in options) else [f"{path}: is no hash"]
    known, names = fields(typed[0])
    problems = []
    for name, inner in description.items():
        key = name.rstrip("!")
        if key not in known:
            problems.append(f"{path}.{key}: unknown to the package")
        else:
            problems += _accepted(inner, known[key], names, f"{path}.{key}")
    missing = [
        key for key, inner in known.items() if is_required(inner, names) and not {key, f"{key}!"} & set(description)
    ]
    return problems + [f"{path}.{key}: required by the package, not accepted" for key in missing]


def _accepted_scalar(scalar: Scalar, options: list[Any], path: str) -> Problems:
    if scalar in (METADATA, ANYTHING):
        return [] if any(is_hash(one) for one in options) else [f"{path}: is no hash"]
    if scalar.choices:
        allowed = {value for one in options if typing.get_origin(one) in LITERALS for value in typing.get_args(one)}
        extra = set(scalar.choices) - allowed
        return [f"{path}: {sorted(extra)} unknown to the package"] if allowed and extra else []
    structured = all(hasattr(one, "__required_keys__") or typing.get_origin(one) is list for one in options)
    return [f"{path}: is structured"] if structured else []


# An answer, an event: what came back -------------------------------------------------------------------------------


def response_problems(method: str, path: str, value: Any) -> Problems:
    """Unknown, missing and ill-typed fields of an answer."""
    found = endpoint(method, path)
    if found is None:
        return [f"Stripe has no {method} {path}"]
    if isinstance(value, dict) and value.get("object") == "v2.core.event":
        return event_problems(value)  # the package picks the class by the event's type
    return _shown(value, found.returns, found.names, "$") if found.returns else []


def event_problems(event: Json) -> Problems:
    """An event and the object in it."""
    if event["object"] == "v2.core.event":
        kind = get_v2_event_class(event["type"])
        return _shown(event, kind, {}, event["type"])
    problems = _shown(event, stripe.Event, {}, event["type"])
    thing = event["data"]["object"]
    return problems + _shown(thing, object_class(thing["object"]), {}, f"{event['type']}:{thing['object']}")


def object_class(name: str) -> Any:
    """The package's class of an object name, such as `checkout.session`."""
    from stripe._object_classes import get_object_class

    return get_object_class("V1", name)


def _shown(value: Any, kind: Any, names: Names, path: str) -> Problems:
    options = variants(kind, names)
    if Any in options or object in options:
        return []
    if value is None:
        return [] if type(None) in options else [f"{path}: null"]
    tries = [_shown_as(value, one, names, path) for one in options if one is not type(None)]
    return min(tries, key=len)


def _shown_as(value: Any, kind: Any, names: Names, path: str) -> Problems:
    origin = typing.get_origin(kind)
    if is_list(kind) or is_list(origin):
        return _shown_list(value, kind, names, path)
    if origin is list:
        return _shown_array(value, typing.get_args(kind)[0], names, path)
    if is_hash(kind):
        return [] if isinstance(value, dict) else [f"{path}: not a hash"]
    if isinstance(kind, type) and issubclass(kind, StripeObject):
        return _shown_object(value, kind, path)
    return _shown_scalar(value, kind, path)


def _shown_scalar(value: Any, kind: Any, path: str) -> Problems:
    if typing.get_origin(kind) in LITERALS:
        allowed = typing.get_args(kind)
        return [] if value in allowed else [f"{path}: {value!r} is none of {allowed[:9]}"]
    fits = SCALARS.get(kind)
    return [f"{path}: {value!r} is no {kind}"] if fits and not fits(value) else []


def _shown_array(value: Any, kind: Any, names: Names, path: str) -> Problems:
    if not isinstance(value, list):
        return [f"{path}: not an array"]
    return [one for n, part in enumerate(value) for one in _shown(part, kind, names, f"{path}[{n}]")]


def _shown_list(value: Any, kind: Any, names: Names, path: str) -> Problems:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return [f"{path}: not a list object"]
    problems = [f"{path}.{name}: missing" for name in ("object", "has_more", "url") if name not in value]
    inner = typing.get_args(kind)
    if value.get("object") == "search_result" or not inner:
        return []
    return problems + [
        p for n, one in enumerate(value["data"]) for p in _shown(one, inner[0], names, f"{path}.data[{n}]")
    ]


def _shown_object(value: Any, kind: Any, path: str) -> Problems:
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is no {kind.__name__}"]
    if value.get("deleted") is True:
        return []
    known = attributes(kind)
    if not known:
        return []
    problems = [f"{path}.{key}: unknown" for key in value if key not in known and key != "object"]
    for key, (inner, names) in known.items():
        if key in value:
            problems += _shown(value[key], inner, names, f"{path}.{key}")
        elif type(None) not in variants(inner, names) and key != "deleted":
            problems.append(f"{path}.{key}: missing")
    return problems
