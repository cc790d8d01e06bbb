"""`@metered("storage")` for plain Django views, sync and async."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponseBase
from rest_framework import exceptions

from tenants.authentication import REFUSED, check_scope, verified
from tenants.error_answers import plain_answer

from . import calls

View = TypeVar("View", bound=Callable[..., Any])
Cost = int | Callable[[HttpRequest], int]


def metered(capability: str, *, cost: Cost = 1, scope: str | None = "calls") -> Callable[[View], View]:
    """The view is called only for a valid API key whose tenant has units left, and each call of it is recorded.

    `cost`: units a call takes, or a function of the request. `scope`: what the key must carry (None: nothing). The view finds the
    caller as `request.caller`. Refusals are problem documents (RFC 9457) with the status and header fields that TierThrottle's
    answers have. The view is exempt from CSRF protection, as whoever has the key is not a browser with a cookie. Methods of a
    class are decorated with `method_decorator(metered("storage"), name="dispatch")`.

    Raises ImproperlyConfigured at import for a capability or a cost that makes no sense.
    """
    calls.check_capability(capability)
    if not callable(cost):
        calls.check_cost(cost)

    def decorate(view: View) -> View:
        wrapper: Any = _async(view, admit) if _is_async(view) else _sync(view, admit)
        wrapper.csrf_exempt = True
        wrapper.metered_capability = capability
        return wrapper  # type: ignore[no-any-return]

    def admit(request: HttpRequest) -> HttpResponseBase | None:
        """The answer of a refused call; None when it is admitted."""
        try:
            header = request.META.get("HTTP_AUTHORIZATION", "")
            if not header:
                raise exceptions.NotAuthenticated(REFUSED)
            caller = verified(header)
            check_scope(caller, scope)
            request.caller = caller  # type: ignore[attr-defined]
            call: calls.MeteredCall | None = getattr(request, "metered_call", None)
            if call is None:  # else another view handed the request on: metered once
                units = cost(request) if callable(cost) else cost
                call = calls.open_call(caller=caller, capability=capability, cost=units)
                request.metered_call = call  # type: ignore[attr-defined]
            return None if call.problem is None else plain_answer(call.problem)
        except exceptions.APIException as error:
            return plain_answer(error)

    return decorate


Admit = Callable[[HttpRequest], HttpResponseBase | None]


def _is_async(view: Callable[..., Any]) -> bool:
    """Whether the view answers with a coroutine; so does `dispatch`, a plain function, of a class with async methods."""
    owner = getattr(
        getattr(view, "func", None), "__self__", None
    )  # method_decorator hands over a partial of a bound method
    return iscoroutinefunction(view) or getattr(owner, "view_is_async", False)


def _sync(view: Callable[..., Any], admit: Admit) -> Callable[..., Any]:
    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return admit(request) or view(request, *args, **kwargs)

    return wrapper


def _async(view: Callable[..., Any], admit: Admit) -> Callable[..., Any]:
    admit_in_thread = sync_to_async(admit)  # a lease or a key that is not at hand is asked of the database

    @wraps(view)
    async def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return await admit_in_thread(request) or await view(request, *args, **kwargs)

    return wrapper
