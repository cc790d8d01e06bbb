"""What every page knows of Stripe."""

from django.conf import settings
from django.http import HttpRequest


def stripe(request: HttpRequest) -> dict[str, object]:
    """`is_simulated_stripe`: no real money moves, and the pages say so."""
    return {"is_simulated_stripe": not settings.STRIPE_IS_REAL}
