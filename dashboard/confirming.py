"""Whether the person's e-mail address is confirmed, and what happens until it is (docs/decisions/0008)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from tenants import people
from tenants.models import User

KEY = "confirmed"  # in the session: the address that was found confirmed, so that pages need not ask again


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """The address that awaits confirmation, and until when pages open without it."""

    email: str
    until: datetime

    def is_over(self, now: datetime) -> bool:
        return now >= self.until


def unconfirmed(request: HttpRequest) -> Unconfirmed | None:
    """What this person has yet to confirm; None for almost everybody."""
    user = request.user
    if not isinstance(user, User) or request.session.get(KEY) == user.email:
        return None
    if people.is_confirmed(user):
        request.session[KEY] = user.email
        return None
    return Unconfirmed(user.email, user.date_joined + timedelta(days=settings.CONFIRM_EMAIL_DAYS))


class ConfirmedMiddleware:
    """Pages of tenants open for people whose address is confirmed, or whose days to confirm it are not over."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(
        self, request: HttpRequest, _view: object, _args: object, kwargs: dict[str, Any]
    ) -> HttpResponse | None:
        if "tenant_slug" not in kwargs or request.headers.get("HX-Request"):  # regions of a page that opened
            return None
        try:
            found = unconfirmed(request)
        except (OperationalError, InterfaceError):  # the view meets it too, where it becomes a 503
            return None
        request.unconfirmed = found  # type: ignore[attr-defined]
        if found is None or not found.is_over(timezone.now()):
            return None
        return redirect("confirm-address")
