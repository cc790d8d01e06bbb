"""Mails about the plan: what began, changed, ended or was restricted. Told once each, in the transaction that makes it so."""

from tenants import notices

from . import accounts
from .models import Account


def plan_began(*, account: Account) -> None:
    """The account is on another paid plan."""
    plan, version = account.plan_version.plan.name, account.plan_version
    included = "unlimited calls" if version.included is None else f"{version.included:,} calls"
    lines = [f"You are on {plan} now: {included} are included in each period."]
    if account.trial_ends_at:
        lines.append(f"It is a trial until {account.trial_ends_at:%d %B %Y, %H:%M} (UTC). The first fee is due then.")
    elif account.period_end:
        lines.append(f"The running period ends on {account.period_end:%d %B %Y, %H:%M} (UTC).")
    began = f"{account.period_start:%Y-%m-%dT%H:%M:%S}" if account.period_start else ""
    accounts.tell_changed(account=account, key=f"{account.subscription_id}:{version.pk}:{began}")
    notices.tell(
        tenant=account.tenant,
        kind="plan.began",
        key=f"{account.subscription_id}:{version.pk}:{began}",
        title=f"You are on {plan}",
        text="\n\n".join(lines),
    )


def subscription_ended(*, account: Account, subscription_id: str, before: str) -> None:
    """The account is on the free plan again."""
    plan, included = account.plan_version.plan.name, account.plan_version.included
    accounts.tell_changed(account=account, key=f"{subscription_id}:ended")
    notices.tell(
        tenant=account.tenant,
        kind="plan.ended",
        key=subscription_id,
        title=f"Your subscription of {before} has ended",
        text=(
            f"Your subscription of {before} has ended. You are on {plan} now, with {included or 0:,} calls in each period; "
            "calls beyond them are refused. Your projects, keys and figures are still there.\n\n"
            "You can subscribe again on the plan page at any time."
        ),
    )


def restricted(*, account: Account) -> None:
    """Calls are refused until the open invoice is paid."""
    since = account.past_due_since
    notices.tell(
        tenant=account.tenant,
        kind="account.restricted",
        key=f"{account.subscription_id}:{since:%Y-%m-%dT%H:%M}" if since else str(account.subscription_id),
        title="Calls are refused until an invoice is paid",
        text=(
            "A payment has been missing"
            + (f" since {since:%d %B %Y}" if since else "")
            + ", and the days of grace are over: your API calls are refused from now on. Your pages and exports stay open.\n\n"
            "Calls are served again as soon as the open invoice is paid: the plan page leads to it."
        ),
    )
