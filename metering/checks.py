"""System checks of metered views: what would fail at the first call is refused at the start."""

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, URLResolver, get_resolver

from . import calls
from .throttles import TierThrottle

MIDDLEWARE = "metering.middleware.MeteringMiddleware"


@register("metering")
def metered_views_are_complete(**_: Any) -> list[CheckMessage]:
    """Each metered view names capabilities and costs that can be recorded, and the middleware that records is installed."""
    found: list[CheckMessage] = []
    is_metered = False
    for callback in _callbacks(get_resolver()):
        view = getattr(callback, "cls", None) or getattr(callback, "view_class", None)
        throttles = [each for each in getattr(view, "throttle_classes", ()) if issubclass(each, TierThrottle)]
        is_metered = is_metered or bool(throttles) or hasattr(callback, "metered_capability")
        for throttle in throttles:
            found += _view(view, throttle)
    if is_metered and MIDDLEWARE not in settings.MIDDLEWARE:
        hint = f'Put "{MIDDLEWARE}" first in MIDDLEWARE.'
        found.append(Error("Metered calls are admitted and never recorded.", hint=hint, id="metering.E003"))
    return _once(found)


def _once(found: list[CheckMessage]) -> list[CheckMessage]:
    """A view behind several addresses is named once."""
    return list({(message.id, message.msg): message for message in found}.values())


def _callbacks(resolver: URLResolver) -> Iterator[Any]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _callbacks(pattern)
        elif isinstance(pattern, URLPattern):
            yield pattern.callback


def _view(view: Any, throttle: type[TierThrottle]) -> Iterator[CheckMessage]:
    for name, check, number in (("capability", calls.check_capability, 1), ("cost", calls.check_cost, 2)):
        if hasattr(view, f"get_{name}"):
            continue  # the request decides
        value = getattr(view, name, None)
        if isinstance(value, property):
            continue
        if value is None:
            value = getattr(throttle, name)
        for each in value.values() if isinstance(value, Mapping) else [value]:
            try:
                check(each)
            except ImproperlyConfigured as error:
                where = f"{view.__module__}.{view.__qualname__}"
                yield Error(f"{where}.{name}: {error}", hint=f"Set `{name}` on the view.", id=f"metering.E00{number}")
