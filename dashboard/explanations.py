"""What each problem type of the API means and how to mend it: the pages that error answers link to (RFC 9457, `type`)."""

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Text = str | Promise


@dataclass(frozen=True, slots=True)
class Explanation:
    """One problem type: the status it comes with, what it means, whether it is billed, what to do."""

    status: str
    title: Text
    meaning: Text
    is_billed: Text
    mends: tuple[Text, ...]


NOT_BILLED = _("No. A refused or failed call is never billed.")

EXPLANATIONS = {
    "quota-exceeded": Explanation(
        "429",
        _("The calls of this period are used up"),
        _("The plan's included calls, or your own hard limit, are reached. Calls are refused until the period ends."),
        NOT_BILLED,
        (
            _("Wait until the instant that the answer names as period_end; Retry-After says the same in seconds."),
            _("Or move to a plan with more calls: it takes effect within a second."),
            _("Or, if it is your own hard limit, raise it."),
        ),
    ),
    "rate-limited": Explanation(
        "429",
        _("Too many calls a second"),
        _(
            "The plan allows so many calls a second. It protects everyone's capacity and has nothing to do with your quota."
        ),
        NOT_BILLED,
        (
            _("Wait for the seconds in Retry-After, then try again; add a random part when many programs wait."),
            _("Spread calls evenly: a steady stream at the allowed rate is never refused."),
        ),
    ),
    "payment-required": Explanation(
        "402",
        _("An invoice is unpaid"),
        _("A payment failed, and the days of grace have passed. Calls are refused until the open invoice is paid."),
        NOT_BILLED,
        (
            _("An owner or billing member pays the open invoice: in the portal, Pay now leads to it."),
            _("Or they enter another card there; Stripe then tries again."),
            _("Calls are served again within seconds of the payment. Reading and exporting work all the time."),
        ),
    ),
    "no-plan": Explanation(
        "403",
        _("The tenant has no plan"),
        _("The key is good, but its tenant is on no plan yet, so nothing says how many calls it may make."),
        NOT_BILLED,
        (_("Ask whoever opened the tenant for you to put it on a plan."),),
    ),
    "unavailable": Explanation(
        "503",
        _("Temporarily unavailable"),
        _("A server that we depend on cannot be reached at the moment. Nothing was counted or changed."),
        NOT_BILLED,
        (_("Try again after the seconds in Retry-After."), _("Repeat it as it was: nothing of it was carried out.")),
    ),
    "limit-unavailable": Explanation(
        "503",
        _("The limit cannot be asked at the moment"),
        _(
            "Whether calls are left cannot be found out at the moment, so the call is refused rather than let through uncounted."
        ),
        NOT_BILLED,
        (_("Try again after the seconds in Retry-After."),),
    ),
    "invalid-request": Explanation(
        "400",
        _("The request is not valid"),
        _(
            "Something in the address or the body is missing, unknown or out of range. The member errors names each field."
        ),
        _("A call to the metered API that you sent wrong counts as a call; the management API is never billed."),
        (_("Correct the fields that errors names."),),
    ),
    "gate-misconfigured": Explanation(
        "500",
        _("The gateway is not configured"),
        _(
            "The proxy in front of the service did not say which capability the request uses. Only the operator can mend it."
        ),
        NOT_BILLED,
        (
            _("Tell the service's operator; the answer's detail says what is missing."),
            _("Operators: send Meterhouse-Capability from the proxy, or set GATE_PATHS."),
        ),
    ),
    "path-not-served": Explanation(
        "403",
        _("This path is not served"),
        _("No capability is configured for the path, so the gateway lets nothing through to it."),
        NOT_BILLED,
        (
            _("Check the path that you call."),
            _("Operators: name a capability for it in GATE_PATHS."),
        ),
    ),
    "unauthorized": Explanation(
        "401",
        _("The API key is not valid"),
        _("There is no key, it is mistyped, or it was revoked or has expired. Which of these is not told, on purpose."),
        NOT_BILLED,
        (
            _("Send the header Authorization: Bearer mh_live_... with the whole key."),
            _("Ask an owner of the tenant for a new key if the old one is gone: it cannot be shown again."),
        ),
    ),
    "forbidden": Explanation(
        "403",
        _("The key may not do this"),
        _("The key is valid but lacks the scope that this address needs. The answer's detail names it."),
        NOT_BILLED,
        (_("Use a key with that scope."),),
    ),
    "not-found": Explanation(
        "404",
        _("Nothing is there"),
        _("No such address, or nothing of that name that this key may see."),
        _("A call to the metered API that you sent wrong counts as a call; the management API is never billed."),
        (_("Check the address and the names in it."),),
    ),
    "project-limit-reached": Explanation(
        "409",
        _("The plan has no room for another project"),
        _(
            "As many projects are in use as the plan allows; archived ones do not count. Nothing was created or restored."
        ),
        NOT_BILLED,
        (
            _("Archive a project that is no longer needed: its usage stays on record."),
            _("Or move to a plan with more projects."),
        ),
    ),
    "name-taken": Explanation(
        "409",
        _("There is a project of this name"),
        _("No two projects of a tenant have the same name, archived ones included. Nothing was changed."),
        NOT_BILLED,
        (_("Choose another name, or restore the archived project."),),
    ),
    "project-archived": Explanation(
        "409",
        _("The project is archived"),
        _("An archived project keeps its usage on record, but has no keys that work, and gets none."),
        NOT_BILLED,
        (_("Restore the project first, or choose another."),),
    ),
    "key-ended": Explanation(
        "409",
        _("The key cannot be rotated"),
        _("It was revoked, has expired, or was replaced already: there is nothing to take over from."),
        NOT_BILLED,
        (_("Create a new key."),),
    ),
    "webhook-refused": Explanation(
        "400",
        _("The webhook was not accepted"),
        _(
            "It is not signed with a secret of ours, is too old or from the future, or is not an event. Nothing was stored."
        ),
        NOT_BILLED,
        (
            _("Check that the endpoint's signing secret at Stripe is the one that this portal was given."),
            _("Check that the clocks agree, and that the endpoint has the mode (test or live) of this portal."),
        ),
    ),
    "method-not-allowed": Explanation(
        "405",
        _("This address takes another method"),
        _("The header Allow says which. Nothing was done."),
        NOT_BILLED,
        (_("Send it with a method that Allow names."),),
    ),
    "length-required": Explanation(
        "411",
        _("The length is missing"),
        _("Webhooks say the length of their body in Content-Length, so that what is too large is not read."),
        NOT_BILLED,
        (_("Send Content-Length."),),
    ),
    "too-large": Explanation(
        "413",
        _("The body is too large"),
        _("No webhook of Stripe's is that large. Nothing of it was read or stored."),
        NOT_BILLED,
        (_("Check what is sent to this address, and by whom."),),
    ),
    "unsupported-media-type": Explanation(
        "415",
        _("The body has another format"),
        _("Webhooks are application/json in UTF-8. Nothing was stored."),
        NOT_BILLED,
        (_("Send JSON, and say so in Content-Type."),),
    ),
}
