"""The key for the first call: shown once, and kept by nobody but the browser of whoever made it until then."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse

COOKIE = "meterhouse_first_key"
SECONDS = 300


def hand_over(answer: HttpResponse, api_key: str) -> HttpResponse:
    """The next start page that this browser asks for shows the key. Scripts cannot read the cookie, and it soon ends."""
    answer.set_cookie(
        COOKIE, api_key, max_age=SECONDS, secure=settings.SESSION_COOKIE_SECURE, httponly=True, samesite="Lax"
    )
    return answer


def handed_over(request: HttpRequest) -> str:
    """The key to show now; empty for almost everybody."""
    return request.COOKIES.get(COOKIE, "")


def forget(answer: HttpResponse) -> HttpResponse:
    """It was shown."""
    answer.delete_cookie(COOKIE, samesite="Lax")
    return answer
