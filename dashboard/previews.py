"""A change of plan before it is made: what is due, what changes, what stands in the way."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing import changes
from billing.errors import BillingError
from billing.models import Account, PlanChange, PlanVersion

from . import formatting, refusals
from .offers import Offer, is_by_agreement, offer, sold_versions

LATER = frozenset({PlanChange.Kind.DOWNGRADE, PlanChange.Kind.CANCEL})


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A line of what is due now."""

    description: str
    amount: str


@dataclass(frozen=True, slots=True)
class Preview:
    """The page. `change` is None where the change is refused; `refusal` says why."""

    heading: str
    before: Offer
    after: Offer
    change: changes.ChangePreview | None
    refusal: str = ""
    rows: tuple[PreviewRow, ...] = ()
    due: str = ""
    is_credit: bool = False
    next_fee: str = ""
    conflicts: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()  # that are too many for the plan
    button: str = ""


def offered(account: Account, version_id: object) -> PlanVersion | None:
    """The version of this number if it is on this tenant's plan page; None for all others, other tenants' terms included."""
    found = [version for version in sold_versions(account) if not is_by_agreement(version)]
    return next((version for version in found if str(version.pk) == str(version_id)), None)


def preview(*, account: Account, version: PlanVersion, now: datetime) -> Preview:
    """What the change would do, as Stripe calculates it; why not, where it cannot be made or Stripe does not answer."""
    before = offer(account.plan_version, account.currency, is_current=True)
    after = offer(version, account.currency, is_current=False)
    names = {"before": before.name, "after": after.name}
    try:
        change = changes.preview(account=account, version=version, now=now)
    except BillingError as error:
        return Preview(_("Change to %(after)s") % names, before, after, None, refusal=refusals.words(error))
    cancels = change.kind == PlanChange.Kind.CANCEL
    is_later = change.kind in LATER
    due = formatting.money(abs(change.due_minor), change.currency)
    return Preview(
        heading=_("Cancel %(before)s") % names if cancels else _("Change from %(before)s to %(after)s") % names,
        before=before,
        after=after,
        change=change,
        rows=tuple(
            PreviewRow(line.description, formatting.money(line.amount_minor, change.currency))
            for line in change.lines
            if line.amount_minor
        ),
        due=due,
        is_credit=change.due_minor < 0,
        next_fee=formatting.money(change.next_fee_minor, change.currency),
        conflicts=change.conflicts,
        projects=_too_many(account, version),
        button=_button(change, names, due, cancels=cancels, is_later=is_later),
    )


def _too_many(account: Account, version: PlanVersion) -> tuple[str, ...]:
    """The tenant's projects in use where the plan has no room for all of them."""
    names = tuple(account.tenant.projects.filter(archived_at=None).values_list("name", flat=True))
    return names if version.max_projects is not None and len(names) > version.max_projects else ()


def _button(change: changes.ChangePreview, names: dict[str, str], due: str, *, cancels: bool, is_later: bool) -> str:
    if cancels:
        return _("Cancel at the period's end")
    if is_later:
        return _("Change to %(after)s at the period's end") % names
    if change.due_minor > 0:
        return _("Pay %(due)s and upgrade now") % {"due": due}
    return _("Upgrade now")
