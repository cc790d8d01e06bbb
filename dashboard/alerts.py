"""Alerts as people see them: what is told when, what has fired, who gets the mails, and the limits of projects and keys."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from django.db import connection
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext as _

from billing.models import Account
from metering import alerts
from metering.models import Alert, AlertKind, Crossing, CrossingKind, LimitKind
from tenants.models import ApiKey, MailChoice, Membership, Tenant

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
    subjects = _subjects(tenant)
    names = _names(subjects)
    return Alerts(
        rows=_rows(tenant, fired, now, sees_money=sees_money),
        history=tuple(_fired(one) for one in fired if sees_money or one.kind not in MONEY_KINDS),
        narrow=tuple(_narrow(one, names) for one in subjects if one.calls is not None),
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
    latest = {one.key: one.crossed_at for one in reversed(fired) if one.period_start <= now < one.period_end}
    rows = []
    for one in alerts.armed(tenant_id=tenant.pk, now=now):
        alert = one.alert
        if alert.kind in MONEY_KINDS and not sees_money:
            continue
        is_told = one.has_fired or (alert.kind == AlertKind.PROJECTED and alert.key in latest)
        fired_at = latest.get(alert.key) if is_told else None
        rows.append(AlertRow(alert.pk, label(alert), _at(alert, one.units), fired_at, is_told))
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
    chosen = MailChoice.objects.filter(tenant=tenant, topic=MailChoice.Topic.ALERTS, membership=OuterRef("pk"))
    members = Membership.objects.filter(tenant=tenant, user__is_active=True).select_related("user")
    return tuple(
        Recipient(one.pk, one.user.email, one.get_role_display(), one.is_chosen)
        for one in members.annotate(is_chosen=Exists(chosen)).order_by("created_at")[:MOST_SUBJECTS]
    )


class _Subject(NamedTuple):
    """A project or key that may have a narrower limit, or, with `calls`, such a limit."""

    kind: str
    id: int
    name: str
    public_id: str
    calls: int | None


SUBJECTS = """
(SELECT 'project', id, name, '', NULL::bigint FROM tenants_project WHERE tenant_id = %(tenant)s ORDER BY name LIMIT %(most)s)
UNION ALL
(SELECT 'key', id, name, public_id, NULL FROM tenants_apikey WHERE tenant_id = %(tenant)s AND revoked_at IS NULL
 ORDER BY created_at DESC LIMIT %(most)s)
UNION ALL
(SELECT kind, subject_id, '', '', calls FROM metering_sublimit WHERE tenant_id = %(tenant)s
 ORDER BY kind, subject_id LIMIT %(most)s)
"""


def _subjects(tenant: Tenant) -> list[_Subject]:
    """Projects, keys and narrower limits, in one look."""
    with connection.cursor() as cursor:
        cursor.execute(SUBJECTS, {"tenant": tenant.pk, "most": MOST_SUBJECTS})
        return [_Subject(*row) for row in cursor.fetchall()]


def _names(subjects: Iterable[_Subject]) -> dict[str, str]:
    """What a narrower limit may be for: how it is written in the form, and what it is called."""
    found = {f"{LimitKind.DAY.value}:0": _("All calls of a day (UTC)")}
    for one in subjects:
        if one.calls is not None:
            continue
        text = {"name": one.name, "prefix": ApiKey(public_id=one.public_id).prefix}
        named = _("Project %(name)s, per period") if one.kind == LimitKind.PROJECT else _(
            "API key %(name)s (%(prefix)s...), per period"
        )  # fmt: skip
        found[f"{one.kind}:{one.id}"] = named % text
    return found


def _narrow(limit: _Subject, names: dict[str, str]) -> Narrow:
    subject = f"{limit.kind}:{limit.id}"
    return Narrow(subject, names.get(subject, _("Something that is gone")), limit.calls or 0)
