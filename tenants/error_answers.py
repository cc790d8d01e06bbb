"""Where errors become answers: DRF's exception handler and Django's 404 and 500."""

from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.defaults import page_not_found
from django.views.defaults import server_error as error_page
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from . import problems


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's 404: a problem for programs, a page for people."""
    if problems.wants_json(request):
        detail = "Nothing is served at this address."
        return problems.plain_response(status=404, slug="not-found", title="Not Found", detail=detail)
    return page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's 500: a problem for programs, a page for people. The cause is in the log, never in the answer."""
    if problems.wants_json(request):
        detail = "An error of ours; it has been logged. The call is not billed."
        return problems.plain_response(status=500, slug="internal-error", title="Internal Server Error", detail=detail)
    return error_page(request)


def too_many(request: HttpRequest) -> HttpResponse:
    """Somebody tried the way in too often. The limits' windows are minutes; one is named, for people and programs."""
    if problems.wants_json(request):
        detail = "Too many attempts. Try again in five minutes."
        answer: HttpResponse = problems.plain_response(
            status=429, slug="rate-limited", title="Too Many Attempts", detail=detail
        )
    else:
        answer = render(request, "429.html", status=429)
    answer["Retry-After"] = "300"
    return answer


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: every error answer becomes a problem document."""
    if isinstance(error, (OperationalError, InterfaceError)):
        error = problems.ServiceUnavailable()
    response = drf_exception_handler(error, context)
    if response is None:
        return None
    response.data = _body(error, HTTPStatus(response.status_code))
    response.content_type = problems.CONTENT_TYPE
    _say_when(error, response)
    return response


def plain_answer(error: exceptions.APIException) -> JsonResponse:
    """The same answer outside DRF, for plain Django views."""
    status = HTTPStatus(error.status_code)
    response = JsonResponse(_body(error, status), status=status, content_type=problems.CONTENT_TYPE)
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = problems.CHALLENGE
    _say_when(error, response)
    return response


def _say_when(error: Exception, response: HttpResponseBase) -> None:
    if isinstance(error, problems.Problem) and error.retry_after_seconds is not None:
        response["Retry-After"] = str(error.retry_after_seconds)


def _body(error: Exception, status: HTTPStatus) -> dict[str, object]:
    if isinstance(error, problems.Problem):
        return problems.document(
            status=status, slug=error.slug, title=error.title, detail=str(error.detail), **error.extra
        )
    slug = "-".join(status.phrase.lower().split())
    if isinstance(error, exceptions.ValidationError):
        return problems.document(
            status=status, slug="invalid-request", title="Invalid request", detail="See errors.", errors=error.detail
        )
    detail = str(error.detail) if isinstance(error, exceptions.APIException) else status.phrase
    if isinstance(error, (Http404, PermissionDenied)):
        detail = status.description or status.phrase
    return problems.document(status=status, slug=slug, title=status.phrase, detail=detail)
