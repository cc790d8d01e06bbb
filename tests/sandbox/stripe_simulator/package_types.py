"""Stripe's API as the installed stripe package types it: routes, parameters, answers, read from the package itself."""

import ast
import functools
import importlib
import inspect
import re
import types
import typing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import stripe
import typing_extensions
from stripe._list_object import ListObject
from stripe._request_options import RequestOptions
from stripe._stripe_object import StripeObject, UntypedStripeObject

ROOT = Path(stripe.__file__ or "").parent
REQUEST_OPTIONS = set(RequestOptions.__annotations__)
LITERALS = (typing.Literal, typing_extensions.Literal)
MAY_LACK = (typing.NotRequired, typing_extensions.NotRequired)
UNIONS = (typing.Union, types.UnionType)
Names = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """What the package knows of one route."""

    template: str
    module: str
    params: str | None
    returns: str | None

    @property
    def names(self) -> Names:
        return all_names(self.module)


@functools.cache
def all_names(module: str) -> Names:
    """What a module's annotations may name."""
    return {**vars(importlib.import_module(module)), **checked_names(module)}


@functools.cache
def checked_names(module: str) -> Names:
    """Names that a module imports for the type checker only."""
    loaded = importlib.import_module(module)
    names: Names = {}
    for node in ast.walk(ast.parse(Path(loaded.__file__ or "").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                try:
                    names[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
                except (ImportError, AttributeError):
                    continue
    return names


@functools.cache
def endpoints() -> dict[tuple[str, str], Endpoint]:
    """All routes: method and path with `{}` for its variables."""
    found = {}
    for path in ROOT.rglob("_*_service.py"):
        module = ".".join(("stripe", *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (made := _endpoint(node, module)):
                found[made[0], re.sub(r"\{\w+\}", "{}", made[1].template)] = made[1]
    return found


def _endpoint(function: ast.FunctionDef, module: str) -> tuple[str, Endpoint] | None:
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
    request = next((one for one in calls if isinstance(one.func, ast.Attribute) and one.func.attr == "_request"), None)
    if request is None:
        return None
    given = next((one.annotation for one in function.args.args if one.arg == "params"), None)
    params = re.search(r"\w+Params", ast.unparse(given)) if given else None
    returns = ast.unparse(function.returns).strip("'\"") if function.returns else None
    method, template = _text(request.args[0]), _text(request.args[1])
    return method.upper(), Endpoint(template, module, params[0] if params else None, returns)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):  # "...".format(...)
        node = node.func.value
    assert isinstance(node, ast.Constant)
    return str(node.value)


def endpoint(method: str, path: str) -> Endpoint | None:
    """The route of a real path; fixed paths win over variables."""
    fits = [
        one
        for (verb, template), one in endpoints().items()
        if verb == method and re.fullmatch(template.replace("{}", "[^/]+"), path)
    ]
    return min(fits, key=lambda one: one.template.count("{"), default=None)


def resolved(kind: Any, names: Names) -> Any:
    """The type itself, where the package writes it as text."""
    if isinstance(kind, str):
        kind = eval(kind, names)  # noqa: S307  # annotations of the installed package
    if isinstance(kind, typing.ForwardRef):
        kind = eval(kind.__forward_arg__, names)  # noqa: S307  # annotations of the installed package
    if typing.get_origin(kind) in (*MAY_LACK, typing.Required, typing_extensions.Required):
        return resolved(typing.get_args(kind)[0], names)
    return kind


def variants(kind: Any, names: Names) -> list[Any]:
    """The alternatives of a union. Where the package leaves an enum open with `str`, it counts as closed."""
    key = (kind, id(names))
    if key not in _VARIANTS:
        _VARIANTS[key] = (_variants(kind, names), names)  # the names stay alive, so their id stays theirs
    return _VARIANTS[key][0]


_VARIANTS: dict[Any, tuple[list[Any], Names]] = {}


def _variants(kind: Any, names: Names) -> list[Any]:
    kind = resolved(kind, names)
    if typing.get_origin(kind) not in UNIONS:
        return [kind]
    found = [one for part in typing.get_args(kind) for one in variants(part, names)]
    has_enum = any(typing.get_origin(one) in LITERALS and typing.get_args(one) != ("",) for one in found)
    return [one for one in found if not (has_enum and one is str)]


def fields(params: Any) -> tuple[dict[str, Any], Names]:
    """The fields of a parameter TypedDict, without the request options."""
    found = {
        name.removesuffix("_") if name in {"from_", "in_"} else name: kind
        for name, kind in params.__annotations__.items()
        if name not in REQUEST_OPTIONS
    }
    return found, vars(importlib.import_module(params.__module__))


def is_required(kind: Any, names: Names) -> bool:
    if isinstance(kind, str):
        kind = eval(kind, names)  # noqa: S307  # annotations of the installed package
    if isinstance(kind, typing.ForwardRef):
        kind = eval(kind.__forward_arg__, names)  # noqa: S307  # annotations of the installed package
    return typing.get_origin(kind) not in MAY_LACK


@functools.cache
def attributes(cls: type) -> dict[str, tuple[Any, Names]]:
    """The fields of an object class, inherited ones included."""
    found: dict[str, tuple[Any, Names]] = {}
    for one in reversed(cls.__mro__):
        if not issubclass(one, StripeObject) or one.__module__.startswith(("stripe._stripe_object", "stripe._api_res")):
            continue
        names = all_names(one.__module__)
        for name, kind in inspect.get_annotations(one).items():
            if not name.startswith("_") and not name.isupper() and "ClassVar" not in str(kind):
                found[name] = (kind, names)
    return found


def is_list(kind: Any) -> bool:
    return kind is ListObject or (isinstance(kind, type) and issubclass(kind, ListObject))


def is_hash(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return dict in (kind, origin) or UntypedStripeObject in (kind, origin)


SCALARS: dict[Any, typing.Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str),
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    Decimal: lambda value: isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value) is not None,
}
