"""Why something could not be done, in the customer's words: what happened, and what to do."""

import logging

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing import errors
from billing.errors import BillingError
from tenants import directory, keys, rotation
from tenants.errors import TenantsError

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


def of_tenants(error: TenantsError) -> str:
    """The same for what projects and keys refuse."""
    if isinstance(error, directory.ProjectLimitReached):
        return ngettext(
            "Your plan has room for %(limit)d project, and it is in use.",
            "Your plan has room for %(limit)d projects, and all of them are in use.",
            error.limit,
        ) % {"limit": error.limit}
    archived = _("There is an archived project of this name. Restore it, or choose another name.")
    replaced = _("The key was replaced already. Rotate the one that replaced it.")
    words = {
        directory.ProjectExists: _("There is a project of this name already."),
        keys.ProjectArchived: _("The project is archived. Restore it first."),
        keys.ScopesBeyond: _("The key may do more than you may let one do. Ask an owner of the tenant."),
        rotation.KeyHasEnded: _("The key was revoked or has expired. Create a new one."),
    }
    if isinstance(error, directory.ProjectExists) and error.is_archived:
        return archived
    if isinstance(error, rotation.KeyHasEnded) and error.is_replaced:
        return replaced
    return words.get(type(error), str(error))
