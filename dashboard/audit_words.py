"""What an entry of the audit log says, in one sentence. What has no words here is told by its raw name."""

from collections.abc import Mapping
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as late

WORDS: Mapping[str, Promise] = {
    "tenant.opened": late("Opened the tenant %(subject)s."),
    "tenant.changed": late("Changed the tenant's settings: %(changes)s."),
    "member.added": late("%(subject)s became a member in the role %(role)s; projects: %(projects)s."),
    "member.changed": late("Changed the membership of %(subject)s: %(changes)s."),
    "member.removed": late("Removed %(subject)s (%(role)s) from the tenant."),
    "member.left": late("%(subject)s (%(role)s) left the tenant."),
    "invitation.sent": late("Invited %(subject)s in the role %(role)s; projects: %(projects)s."),
    "invitation.resent": late("Sent %(subject)s a new link for their invitation."),
    "invitation.revoked": late("Withdrew the invitation of %(subject)s."),
    "invitation.accepted": late("%(subject)s accepted the invitation of %(invited_by)s."),
    "project.added": late("Added the project %(subject)s."),
    "project.renamed": late("Renamed the project %(subject)s: %(before)s to %(after)s."),
    "project.archived": late("Archived the project %(subject)s; its keys were revoked."),
    "project.restored": late("Restored the project %(subject)s."),
    "key.issued": late("Issued the API key %(subject)s of project %(project)s with the scopes %(scopes)s."),
    "key.rotated": late("Replaced the API key %(subject)s by %(by)s; the old one works until %(ends_at)s."),
    "key.revoked": late("Revoked the API key %(subject)s."),
    "limit.set": late("Set the limit of %(subject)s to %(calls)s calls (before: %(before)s)."),
    "limit.removed": late("Lifted the limit of %(subject)s (it was %(before)s calls)."),
    "hard_limit.set": late("Set the hard limit to %(subject)s calls (before: %(before)s)."),
    "policy.set": late("Set what happens to calls beyond the included ones: %(subject)s (before: %(before)s)."),
    "plan.changed": late("Moved from %(before)s to %(subject)s."),
    "account.opened": late("Opened the account on %(subject)s."),
    "account.restricted": late("Calls are refused since an invoice is unpaid."),
    "consent.given": late("Agreed to the automatic upgrade to %(subject)s."),
    "consent.withdrawn": late("Withdrew the agreement to the automatic upgrade to %(subject)s."),
    "checkout.begun": late("Went to Stripe to subscribe to %(subject)s."),
    "card.asked": late("Went to Stripe to leave a card."),
    "upgrade.announced": late("Announced the automatic upgrade to %(subject)s for %(due_at)s."),
    "alert.set": late("Set the alert %(subject)s."),
    "alert.removed": late("Removed the alert %(subject)s."),
    "mail.recipients_chosen": late("Chose who gets mails about %(subject)s: %(members)s."),
    "webhook.added": late("Added the webhook %(subject)s."),
    "webhook.changed": late("Changed the webhook %(subject)s."),
    "webhook.secret_rotated": late("Replaced the secret of the webhook %(subject)s."),
    "webhook.removed": late("Removed the webhook %(subject)s."),
    "webhook.tested": late("Sent a test to the webhook %(subject)s."),
    "webhook.redelivered": late("Sent %(subject)s again."),
    "ledger.void": late("Took back the call %(subject)s: %(reason)s"),
    "ledger.amend": late("Corrected the call %(subject)s: %(reason)s"),
}


class _Parts(dict[str, str]):
    """What a sentence may name; what the entry does not say is a dash."""

    def __missing__(self, name: str) -> str:
        return "\N{EN DASH}"


def sentence(*, action: str, subject: str, detail: Mapping[str, Any]) -> str:
    """The entry in words."""
    words = WORDS.get(action)
    if words is None:
        return f"{action}: {subject}"
    parts = _Parts({name: _said(name, value) for name, value in detail.items()})
    parts["subject"] = subject or "\N{EN DASH}"
    return str(words) % parts


def _said(name: str, value: Any) -> str:
    if name == "projects" and value is None:
        return _("all")
    if value is None or value == "":
        return _("none")
    if name == "changes" and isinstance(value, Mapping):
        return ", ".join(_change(field, one) for field, one in value.items())
    if isinstance(value, list):
        return ", ".join(str(one) for one in value) or _("none")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _change(field: str, one: Any) -> str:
    if not isinstance(one, Mapping):
        return f"{field}: {one}"
    return f"{field}: {_said(field, one.get('before'))} \N{RIGHTWARDS ARROW} {_said(field, one.get('after'))}"
