"""What can go wrong here. A message names the cause and the mend, and never holds a key or a secret."""


class BillingError(Exception):
    """Base of this app's errors."""


class StripeError(BillingError):
    """Stripe did not do what was asked."""


class StripeUnavailable(StripeError):
    """No answer that can be relied on: it is unknown whether it happened. Ask again with the same idempotency key."""


class SavedFailure(StripeUnavailable):
    """Stripe repeats a failure that it keeps under the idempotency key: look whether it happened, then use a new key."""


class StripeNotConfigured(StripeError):
    """There is no usable key, or Stripe does not accept it."""


class StripeRefused(StripeError):
    """Stripe refused, and nothing happened. `code` and `param` are Stripe's, `message` is for operators."""

    def __init__(self, message: str, *, code: str = "", param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class CardRefused(StripeRefused):
    """The bank refused the payment; `message` is written for the customer."""


class NoSuchObject(StripeRefused):
    """Stripe has no object of this id with this key, in this mode."""


class AlreadyDelivered(StripeRefused):
    """Stripe knows the meter event's identifier: the event was delivered before."""


class BadSignature(StripeError):
    """A webhook was not signed with one of our secrets, or not within the last minutes."""
