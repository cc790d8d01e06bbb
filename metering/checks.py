"""System checks of metered views: what would fail at the first call is refused at the start."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver

from . import calls
from .gateway import paths
from .throttles import TierThrottle

MIDDLEWARE = "metering.middleware.MeteringMiddleware"
SHORTEST_SECRET = 32
LONGEST_OUTCOME_SECONDS = 3600
ATTRIBUTES = {
    "capability": (calls.check_capability, "metering.E001", 'Set `capability = "name"` on the view'),
    "cost": (calls.check_cost, "metering.E002", "Set `cost` on the view to a number of units"),
}
OR_MAPPING = ", or a mapping by action or method, or pass it to TierThrottle.of(...)."


@register("meterhouse")
def metered_views_are_complete(**_: Any) -> list[CheckMessage]:
    """Each metered view names capabilities and costs that can be recorded, and the middleware that records is installed."""
    found: list[CheckMessage] = []
    is_metered = False
    for callback in _callbacks(get_resolver()):
        throttles = _throttles(callback)
        is_metered = is_metered or bool(throttles) or _is_decorated(callback)
        for throttle in throttles:
            found += _wrong(callback, throttle)
    if is_metered and MIDDLEWARE not in settings.MIDDLEWARE:
        hint = f'Put "{MIDDLEWARE}" first in MIDDLEWARE.'
        found.append(Error("Metered calls are admitted and never recorded.", hint=hint, id="metering.E003"))
    return list(
        {(message.id, message.msg): message for message in found}.values()
    )  # once, however many addresses it has


@register("meterhouse")
def the_gateway_is_configured(**_: Any) -> list[CheckMessage]:
    """The path map can be read, secrets are long enough to be secret, and outcomes have their time."""
    found: list[CheckMessage] = []
    try:
        paths.configured()
    except ImproperlyConfigured as error:
        hint = "Write GATE_PATHS as /v1/objects=storage,/v1/reports=reports:5 (docs/gateway.md)."
        found.append(Error(f"GATE_PATHS: {error}", hint=hint, id="metering.E004"))
    if any(len(secret) < SHORTEST_SECRET for secret in settings.GATE["SECRETS"]):
        hint = "Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        found.append(
            Error(f"GATE_SECRETS has one of less than {SHORTEST_SECRET} characters.", hint=hint, id="metering.E005")
        )
    if not 1 <= settings.GATE["OUTCOME_SECONDS"] <= LONGEST_OUTCOME_SECONDS:
        found.append(
            Error(
                f"GATE_OUTCOME_SECONDS is {settings.GATE['OUTCOME_SECONDS']:g}.",
                hint=f"Choose 1 to {LONGEST_OUTCOME_SECONDS}: longer than the proxy lets a request take.",
                id="metering.E006",
            )
        )
    return found


def _callbacks(resolver: URLResolver) -> Iterator[Any]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _callbacks(pattern)
        elif isinstance(pattern, URLPattern):
            yield pattern.callback


def _throttles(callback: Any) -> list[type[TierThrottle]]:
    named = _said(callback, "throttle_classes") or ()
    return [each for each in named if isinstance(each, type) and issubclass(each, TierThrottle)]


def _is_decorated(callback: Any) -> bool:
    """Whether `@metered` is on the view, or on a method of its class (`as_view` hands on what `dispatch` has)."""
    view = getattr(callback, "view_class", None)
    methods = [getattr(view, name, None) for name in getattr(view, "http_method_names", ())]
    return any(hasattr(each, "metered_capability") for each in [callback, *methods])


def _said(callback: Any, name: str) -> Any:
    """The attribute of a DRF view as its instances have it: `as_view(...)` and `@action(...)` may override the class."""
    options: dict[str, Any] = getattr(callback, "initkwargs", {})
    return options.get(name, getattr(getattr(callback, "cls", None), name, None))


def _wrong(callback: Any, throttle: type[TierThrottle]) -> Iterator[CheckMessage]:
    view = callback.cls
    for name, (check, identity, mend) in ATTRIBUTES.items():
        value = _said(callback, name)
        if hasattr(view, f"get_{name}") or isinstance(value, property):
            continue  # the request decides
        default = getattr(throttle, name)
        values: Iterable[object] = [default if value is None else value]
        if isinstance(value, Mapping):
            for key in value:
                if key != "metadata" and not hasattr(view, key):
                    yield _error(
                        view, name, f"{key!r} is no action or method of the view", identity, "Correct the name."
                    )
            values = [*value.values(), *(default for key in _served(callback) if key not in value)]
        for each in values:
            try:
                check(each)
            except ImproperlyConfigured as error:
                yield _error(view, name, str(error), identity, mend + OR_MAPPING)


def _served(callback: Any) -> list[str]:
    """The actions of a viewset at this address, the methods of a plain view."""
    view = callback.cls
    methods = [name for name in view.http_method_names if name not in {"options", "head"}]
    actions: dict[str, str] | None = getattr(callback, "actions", None)
    if actions is not None:
        return [actions[method] for method in methods if method in actions]
    return [method for method in methods if hasattr(view, method)]


def _error(view: Any, name: str, cause: str, identity: str, mend: str) -> Error:
    return Error(f"{view.__module__}.{view.__name__}.{name}: {cause}", hint=mend, id=identity)
