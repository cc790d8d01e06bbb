"""Alerts as people see them: what is told when, what has fired, who gets the mails, and the limits of projects and keys."""

from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from billing.models import Account
from metering import alerts
from metering.models import Alert, AlertKind, Crossing, CrossingKind, LimitKind, SubLimit
from tenants.models import ApiKey, MailChoice, Membership, Project, Tenant

from . import formatting

SHOWN = 20
MOST_SUBJECTS = 200
MONEY_KINDS = (AlertKind.AMOUNT.value, AlertKind.PROJECTED.value)


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One alert: what it tells, when, and whether it has in the running period."""

    id: int
    label: str
    at: str
    fired_at: datetime | None
    is_passed: bool


@dataclass(frozen=True, slots=True)
class Fired:
    """One line of the history."""

    label: str
    at: datetime
    used: int
    period_start: datetime
    is_limit: bool


@dataclass(frozen=True, slots=True)
class Narrow:
    """A daily cap, or the limit of a project or key."""

    subject: str
    label: str
    calls: int


@dataclass(frozen=True, slots=True)
class Recipient:
    """A member who may be chosen to get the mails."""

    id: int
    email: str
    role: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Alerts:
    """What the page shows beside the tenant's own hard limit."""

    rows: tuple[AlertRow, ...]
    history: tuple[Fired, ...]
    narrow: tuple[Narrow, ...]
    subjects: tuple[tuple[str, str], ...]
    recipients: tuple[Recipient, ...]
    is_default: bool
    mail_goes_to: str


def page(*, account: Account, now: datetime, sees_money: bool) -> Alerts:
    """What this tenant is told of, and by what else than its own limit it is stopped."""
    tenant = account.tenant
    fired = alerts.recent(tenant_id=tenant.pk, limit=SHOWN)
    people = _recipients(tenant)
    chosen = [one.email for one in people if one.is_chosen]
    default = _("the billing address %(email)s, owners and billing members") % {"email": tenant.email}
    names = _names(tenant)
    return Alerts(
        rows=_rows(tenant, fired, now, sees_money=sees_money),
        history=tuple(_fired(one) for one in fired if sees_money or one.kind not in MONEY_KINDS),
        narrow=tuple(_narrow(one, names) for one in SubLimit.objects.filter(tenant=tenant)[:MOST_SUBJECTS]),
        subjects=tuple(names.items()),
        recipients=people,
        is_default=not chosen,
        mail_goes_to=", ".join(chosen) or default,
    )


def recent(*, tenant: Tenant, sees_money: bool, limit: int = 5) -> tuple[Fired, ...]:
    """What fired last, for the overview."""
    found = alerts.recent(tenant_id=tenant.pk, limit=limit)
    return tuple(_fired(one) for one in found if sees_money or one.kind not in MONEY_KINDS)


def _rows(tenant: Tenant, fired: list[Crossing], now: datetime, *, sees_money: bool) -> tuple[AlertRow, ...]:
    armed = alerts.armed(tenant_id=tenant.pk, now=now)
    latest = {one.key: one.crossed_at for one in reversed(fired) if one.period_start <= now < one.period_end}
    rows = []
    for alert in Alert.objects.filter(tenant=tenant):
        if alert.kind in MONEY_KINDS and not sees_money:
            continue
        units, is_passed = armed.get(alert.key) or (None, False)
        is_told = is_passed or (alert.kind == AlertKind.PROJECTED and alert.key in latest)
        rows.append(
            AlertRow(alert.pk, label(alert), _at(alert, units), latest.get(alert.key) if is_told else None, is_told)
        )
    return tuple(rows)


def label(one: Alert | Crossing) -> str:
    """What it tells, in words."""
    if one.kind == CrossingKind.LIMIT:
        calls = formatting.count(one.units) if isinstance(one, Crossing) else ""
        return _("The limit of %(calls)s calls is reached") % {"calls": calls}
    if one.kind == AlertKind.SHARE:
        return _("%(percent)d %% of the included calls are used") % {"percent": one.percent or 0}
    amount = {"amount": formatting.money(one.amount_minor or 0, one.currency)}
    if one.kind == AlertKind.PROJECTED:
        return _("Usage is projected to cost %(amount)s") % amount
    return _("Usage costs %(amount)s") % amount


def _at(alert: Alert, units: int | None) -> str:
    if alert.kind == AlertKind.PROJECTED:
        return _("looked at every five minutes")
    if units is None:
        return _("not reachable on this plan")
    return formatting.count(units)


def _fired(one: Crossing) -> Fired:
    return Fired(label(one), one.crossed_at, one.used, one.period_start, one.kind == CrossingKind.LIMIT)


def _recipients(tenant: Tenant) -> tuple[Recipient, ...]:
    chosen = set(
        MailChoice.objects.filter(tenant=tenant, topic=MailChoice.Topic.ALERTS).values_list("membership", flat=True)
    )
    members = Membership.objects.filter(tenant=tenant, user__is_active=True).select_related("user")
    return tuple(
        Recipient(one.pk, one.user.email, one.get_role_display(), one.pk in chosen)
        for one in members.order_by("created_at")[:MOST_SUBJECTS]
    )


def _names(tenant: Tenant) -> dict[str, str]:
    """What a narrower limit may be for: how it is written in the form, and what it is called."""
    found = {f"{LimitKind.DAY.value}:0": _("All calls of a day (UTC)")}
    for project in Project.objects.filter(tenant=tenant)[:MOST_SUBJECTS]:
        found[f"{LimitKind.PROJECT.value}:{project.pk}"] = _("Project %(name)s, per period") % {"name": project.name}
    for key in ApiKey.objects.filter(tenant=tenant, revoked_at=None)[:MOST_SUBJECTS]:
        text = {"name": key.name, "prefix": key.prefix}
        found[f"{LimitKind.KEY.value}:{key.pk}"] = _("API key %(name)s (%(prefix)s...), per period") % text
    return found


def _narrow(limit: SubLimit, names: dict[str, str]) -> Narrow:
    subject = f"{limit.kind}:{limit.subject_id}"
    return Narrow(subject, names.get(subject, _("Something that is gone")), limit.calls)
