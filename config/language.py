"""Which language a page speaks: the one chosen (a cookie), else the best that the browser asks for.

What programs and operators read is English whatever they ask for: an API answer does not change with a header.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers

ENGLISH = ("/api/", "/sandbox/v1/", "/webhooks/", "/admin", "/gate", "/livez", "/readyz", "/metrics", "/static/")


def language(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: the request is answered in its language, and the thread speaks English again afterwards."""

    def answer(request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith(ENGLISH):
            return get_response(request)
        chosen = translation.get_language_from_request(request)
        with translation.override(chosen):
            response = get_response(request)
        patch_vary_headers(response, ["Accept-Language", "Cookie"])
        response.headers.setdefault("Content-Language", chosen)
        return response

    return answer
