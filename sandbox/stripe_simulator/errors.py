"""Errors in Stripe's shape: status, type, code, message, parameter."""

from http import HTTPStatus
from typing import Any

Json = dict[str, Any]
INVALID = "invalid_request_error"


class StripeError(Exception):
    """An answer that is not 200. `keeps_effect`: what was done before it stays done."""

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        kind: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        keeps_effect: bool = False,
        is_saved: bool = True,
        **more: object,
    ) -> None:
        super().__init__(message)
        self.status = int(status)
        self.code = code
        self.keeps_effect = keeps_effect
        self.is_saved = is_saved  # under the idempotency key
        self._fields: Json = {"message": message, "type": kind, **more}
        if code:
            self._fields["code"] = code
            self._fields["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        if param:
            self._fields["param"] = param

    def body(self, request_id: str) -> Json:
        """The JSON answer."""
        log = f"https://dashboard.stripe.com/test/logs/{request_id}?t=0"
        return {"error": {**self._fields, "request_log_url": log}}


def refused(message: str, *, param: str | None = None, code: str | None = None) -> StripeError:
    """The request ran, and Stripe's rules say no: 400."""
    return StripeError(message, param=param, code=code)


def unreadable(message: str, *, param: str | None, code: str | None) -> StripeError:
    """The parameters are wrong, so nothing was begun: 400, not saved under the idempotency key."""
    return StripeError(message, param=param, code=code, is_saved=False)


def missing(noun: str, identifier: str, *, param: str | None = None) -> StripeError:
    """No such object: 404 when the path named it, 400 when a parameter did."""
    status = HTTPStatus.NOT_FOUND if param is None else HTTPStatus.BAD_REQUEST
    message = f"No such {noun}: '{identifier}'"
    return StripeError(message, status=status, code="resource_missing", param=param or "id")


def unauthorized(message: str) -> StripeError:
    return StripeError(message, status=HTTPStatus.UNAUTHORIZED, is_saved=False)


def too_many(message: str, *, code: str) -> StripeError:
    kind = INVALID if code == "lock_timeout" else "rate_limit_error"
    return StripeError(message, status=HTTPStatus.TOO_MANY_REQUESTS, kind=kind, code=code, is_saved=False)


def declined(message: str, *, decline_code: str, keeps_effect: bool, charge: str | None = None) -> StripeError:
    """The card said no: 402."""
    return StripeError(
        message,
        status=HTTPStatus.PAYMENT_REQUIRED,
        kind="card_error",
        code="card_declined",
        decline_code=decline_code,
        keeps_effect=keeps_effect,
        charge=charge,
    )


def broken() -> StripeError:
    """Stripe's own failure: 500."""
    message = "An unknown error occurred. (simulated)"
    return StripeError(message, status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="api_error", keeps_effect=True)
