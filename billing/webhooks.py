"""Where Stripe's webhooks come in: verified before anything is written, stored once, answered, then handled by a task.

No network and, until the signature is right, no database. What is not stored is answered with 4xx or 5xx, so that Stripe
sends it again; a broker that is away costs nothing but a few seconds.
"""

import logging
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import UnreadablePostError
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from tenants import error_answers, problems

from . import inbox, stripe_api, tasks
from .errors import BadSignature, StripeNotConfigured
from .event_bodies import EventRefused
from .models import StripeEvent

logger = logging.getLogger(__name__)


class NotAllowed(problems.Problem):
    status_code = HTTPStatus.METHOD_NOT_ALLOWED
    slug = "method-not-allowed"
    title = "Method Not Allowed"
    default_detail = "Webhooks are posted."


class LengthRequired(problems.Problem):
    status_code = HTTPStatus.LENGTH_REQUIRED
    slug = "length-required"
    title = "Length Required"
    default_detail = "Say the body's length in Content-Length."


class TooLarge(problems.Problem):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    slug = "too-large"
    title = "Content Too Large"
    default_detail = "No webhook of Stripe's is that large."


class NotJson(problems.Problem):
    status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    slug = "unsupported-media-type"
    title = "Unsupported Media Type"
    default_detail = "Webhooks are application/json in UTF-8."


class Refused(problems.Problem):
    status_code = HTTPStatus.BAD_REQUEST
    slug = "webhook-refused"
    title = "Webhook refused"


@csrf_exempt
def snapshot(request: HttpRequest) -> HttpResponse:
    """Events with the object as it was then."""
    return _receive(request, StripeEvent.Kind.SNAPSHOT, settings.STRIPE_WEBHOOK_SECRETS)


@csrf_exempt
def thin(request: HttpRequest) -> HttpResponse:
    """Events that only name their object; Stripe sends them to an endpoint of their own, with a secret of its own."""
    return _receive(request, StripeEvent.Kind.THIN, settings.STRIPE_THIN_WEBHOOK_SECRETS)


def _receive(request: HttpRequest, kind: StripeEvent.Kind, secrets: Sequence[str]) -> HttpResponse:
    try:
        event_id, is_new = _store(request, kind, secrets)
    except problems.Problem as problem:
        logger.warning("A %s webhook was refused (%s): %s", kind, problem.status_code, problem.detail)
        response = error_answers.plain_answer(problem)
        if isinstance(problem, NotAllowed):
            response["Allow"] = "POST"
        return response
    if is_new:
        transaction.on_commit(partial(tasks.queue_stripe_event, event_id))
    return JsonResponse({"received": event_id})


def _store(request: HttpRequest, kind: StripeEvent.Kind, secrets: Sequence[str]) -> tuple[str, bool]:
    """The event's id and whether it is new; raises Problem, having written nothing."""
    payload = _payload(request)
    now = timezone.now()
    try:
        payload.decode()
        body = stripe_api.verified(
            payload=payload, header=request.headers.get("Stripe-Signature", ""), secrets=secrets, now=now,
            tolerance_seconds=settings.BILLING["WEBHOOK_TOLERANCE_SECONDS"],
        )  # fmt: skip
        is_new = inbox.store(kind=kind, body=body, now=now)
    except UnicodeDecodeError:
        raise Refused("The body is not UTF-8.") from None
    except (BadSignature, EventRefused) as error:
        raise Refused(str(error)) from None
    except StripeNotConfigured as error:
        logger.error("Webhooks cannot be verified: %s", error)
        raise Refused("No signature can be verified here yet.") from None
    return str(body["id"]), is_new


def _payload(request: HttpRequest) -> bytes:
    """The raw body, read only when its head says that it may be a webhook; raises Problem."""
    if request.method != "POST":
        raise NotAllowed
    charset = (request.content_params or {}).get("charset", "utf-8")
    if request.content_type != "application/json" or charset.lower() not in {"utf-8", "utf8"}:
        raise NotJson
    length = request.META.get("CONTENT_LENGTH") or ""
    if not (length.isascii() and length.isdigit()):
        raise LengthRequired
    if int(length) > settings.BILLING["WEBHOOK_MAX_BYTES"]:
        raise TooLarge
    try:
        return request.body
    except UnreadablePostError:  # the sender went away
        raise Refused("The body ended too early.") from None
