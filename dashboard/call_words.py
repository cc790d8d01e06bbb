"""A call in words: whether it was admitted and why not, whether it is billed and why not."""

from http import HTTPStatus

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from metering.call_log import Row
from metering.calls import NOT_BILLED
from metering.gateway.outcomes import NO_OUTCOME
from metering.models import Outcome

REASONS: dict[str, tuple[Promise, Promise]] = {  # as `metering_grant` names them: in a list, and as a sentence
    "quota": (
        gettext_lazy("included calls used up"),
        gettext_lazy("Refused: the included calls of the period were used up, and the plan serves none beyond them."),
    ),
    "hard_limit": (
        gettext_lazy("hard limit"),
        gettext_lazy("Refused: your hard limit for the period was reached."),
    ),
    "daily_cap": (
        gettext_lazy("daily cap"),
        gettext_lazy("Refused: your daily cap (UTC day) was reached."),
    ),
    "project_limit": (
        gettext_lazy("limit of the project"),
        gettext_lazy("Refused: the limit that you set for this project was reached."),
    ),
    "key_limit": (
        gettext_lazy("limit of the API key"),
        gettext_lazy("Refused: the limit that you set for this API key was reached."),
    ),
    "restriction": (
        gettext_lazy("payment missing"),
        gettext_lazy("Refused: a payment was missing beyond its grace days."),
    ),
    "burst": (
        gettext_lazy("too many a second"),
        gettext_lazy("Refused: it was beyond the calls a second that the plan allows."),
    ),
}


def result(row: Row) -> str:
    """The outcome in two or three words, for a list."""
    if row.outcome != Outcome.REFUSED:
        return _("Admitted")
    short, _sentence = REASONS.get(row.reason, (row.reason, ""))
    return _("Refused: %(why)s") % {"why": short or _("a limit")}


def admission(row: Row) -> str:
    """Admitted, or refused and why, as a sentence."""
    if row.outcome != Outcome.REFUSED:
        return _("Admitted: no limit was reached.")
    if row.reason in REASONS:
        return str(REASONS[row.reason][1])
    return _("Refused: a limit was reached (%(reason)s).") % {"reason": row.reason or _("not named")}


def billing(row: Row, *, is_voided: bool = False) -> str:
    """Billable or not, and why, as a sentence."""
    status = {"status": row.status}
    if is_voided:
        return _("Not billed any more: a correction took it off.")
    if row.outcome == Outcome.REFUSED:
        return _("Not billed: refused calls never are.")
    if row.outcome == Outcome.BILLABLE and row.reason == NO_OUTCOME:
        return _("Billable: how it was answered was not reported in time, so it counts as served.")
    if row.outcome == Outcome.BILLABLE:
        return _("Billable: it was answered with %(status)s; below 500 and not 401, 403 or 429 is billed.") % status
    return _failure(row.status) % status


def _failure(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _("Not billed: the server failed (%(status)s).")
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return _("Not billed: another limit of the service refused it (%(status)s).")
    if status in NOT_BILLED:
        return _("Not billed: the caller was not let in (%(status)s).")
    return _("Not billed: the call failed (%(status)s).")
