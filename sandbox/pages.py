"""The page of states: a link to a real page of a real tenant for everything that the dashboard can look like."""

from dataclasses import dataclass

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from billing.errors import BillingError
from tenants.models import Membership, User

from . import simulated, states, weather


@dataclass(frozen=True, slots=True)
class Shown:
    """A line of the page; without an address it is not there yet, or needs a simulated Stripe."""

    state: states.State
    address: str
    needs_simulator: bool


@require_safe
@login_required
def overview(request: HttpRequest) -> HttpResponse:
    assert isinstance(request.user, User)
    mine = frozenset(
        Membership.objects.filter(user=request.user, tenant__slug__in=states.made()).values_list(
            "tenant__slug", flat=True
        )
    )
    lines = [_shown(state, mine) for state in states.STATES]
    is_complete = all(line.address or line.needs_simulator for line in lines)
    context = {"lines": lines, "is_complete": is_complete, "weather": request.COOKIES.get(weather.COOKIE, "")}
    return render(request, "sandbox/states.html", context)


def _shown(state: states.State, mine: frozenset[str]) -> Shown:
    address = reverse(state.page, args=[state.slug]) + state.query if state.slug in mine else ""
    return Shown(state, address, bool(state.at_stripe) and not simulated.is_here())


@require_POST
@login_required
def make(request: HttpRequest) -> HttpResponse:
    assert isinstance(request.user, User)
    try:
        states.make(user=request.user, now=timezone.now())
    except (BillingError, OSError) as error:
        messages.error(request, _("Some could not be made: %(why)s Try again.") % {"why": error})
    return redirect("states")


@require_POST
@login_required
def change_weather(request: HttpRequest) -> HttpResponse:
    """Regions are slow or fail for a minute, in this browser; anything else ends that."""
    chosen = request.POST.get("weather", "")
    response = redirect("home" if chosen else "states")
    if chosen in {weather.SLOW, weather.FAILING}:
        response.set_cookie(weather.COOKIE, chosen, max_age=weather.LASTS_SECONDS, httponly=True, samesite="Lax")
    else:
        response.delete_cookie(weather.COOKIE)
    return response
