"""Why something could not be done, in the customer's words: what happened, and what to do."""

import logging

from django.utils.translation import gettext as _

from billing import errors
from billing.errors import BillingError

logger = logging.getLogger(__name__)


def words(error: BillingError) -> str:
    """One or two sentences. What we have no words for is told as the domain names it."""
    if isinstance(error, errors.StripeError):
        logger.warning("A page was refused by Stripe: %s", error)
    if isinstance(error, errors.CardRefused):
        return _("The payment was refused: %(reason)s Nothing has changed.") % {"reason": error.message}
    if isinstance(error, errors.StripeUnavailable):
        return _(
            "Stripe, which takes the payments, does not answer at the moment. Try again; sent twice, it still happens once."
        )
    if isinstance(error, errors.StripeNotConfigured):
        return _("Payments are not set up on this portal yet. Nothing has changed; ask whoever operates it.")
    if isinstance(error, errors.StripeError):
        return _(
            "Stripe, which takes the payments, refused this. Nothing has changed; ask whoever operates this portal."
        )
    return str(error) or _("This could not be done; nothing has changed.")
