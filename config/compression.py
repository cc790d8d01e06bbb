"""Pages and exports go over the wire compressed."""

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware

COMPRESSED = ("text/html", "text/csv")


class CompressionMiddleware(GZipMiddleware):
    """HTML and CSV are compressed for browsers that take it, by Django's middleware, which pads them against BREACH.

    Answers of the API stay as they are: they are short, and their callers wait for each of them.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.get("Content-Type", "").startswith(COMPRESSED):
            return super().process_response(request, response)
        return response
