"""The keys page: each key with what it may do, who made it, when it was used, and how long it works."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from billing.models import Account
from metering import usage
from metering.periods import Period
from tenants.key_status import KeyStatus, status_of, with_status
from tenants.keys import SCOPES
from tenants.models import ApiKey, Project

from .instants import moment

ROWS = 50
SOON = timedelta(days=7)
STYLES = {KeyStatus.ACTIVE: "ok", KeyStatus.EXPIRED: "", KeyStatus.REVOKED: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """A key as the list shows it. `ending` says how and when it ends or ended."""

    key: ApiKey
    scopes: tuple[str, ...]
    made_by: str
    status: str
    style: str
    is_active: bool
    ending: SafeString | str
    calls: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The page, with the filters that were asked for."""

    period: Period
    rows: tuple[Row, ...]
    page: "Page[ApiKey]"
    projects: tuple[Project, ...]
    project: str
    status: str
    statuses: tuple[tuple[str, str], ...]


def keys(
    *, account: Account, visible: QuerySet[Project], project: str, status: str, number: str, now: datetime
) -> Keys:
    """The keys of the projects that a member sees. `status` is a KeyStatus or "all"; anything else is read as active."""
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    found = ApiKey.objects.filter(tenant=account.tenant, project__in=visible)
    projects = tuple(visible)
    chosen = next((one for one in projects if one.slug == project), None)
    if chosen is not None:
        found = found.filter(project=chosen)
    if status not in {*KeyStatus.values, "all"}:
        status = KeyStatus.ACTIVE.value
    if status != "all":
        found = with_status(found, KeyStatus(status), now)
    found = found.select_related("project", "created_by", "replaced_by").order_by("-created_at", "-pk")
    page = Paginator(found, ROWS).get_page(number)
    return Keys(
        period=period,
        rows=rows(account=account, found=list(page), period=period, now=now),
        page=page,
        projects=projects,
        project=chosen.slug if chosen else "",
        status=status,
        statuses=(*((str(value), str(label)) for value, label in KeyStatus.choices), ("all", _("All"))),
    )


def rows(*, account: Account, found: list[ApiKey], period: Period, now: datetime) -> tuple[Row, ...]:
    calls = usage.counts(
        usage.Scope.of_period(account.tenant_id, period), group_by=usage.GroupBy.KEY, ids=[key.pk for key in found]
    )
    return tuple(row(key, calls[key.pk].billable if key.pk in calls else 0, now) for key in found)


def row(key: ApiKey, calls: int, now: datetime) -> Row:
    status = status_of(key, now)
    is_ending = status is KeyStatus.ACTIVE and key.expires_at is not None and key.expires_at - now < SOON
    return Row(
        key=key,
        scopes=tuple(str(SCOPES.get(scope, scope)) for scope in key.scopes),
        made_by=key.created_by.email if key.created_by else "",
        status=_("Ends soon") if is_ending else str(status.label),
        style="warn" if is_ending else STYLES[status],
        is_active=status is KeyStatus.ACTIVE,
        ending=ending(key),
        calls=calls,
    )


def ending(key: ApiKey) -> SafeString | str:
    """never; 2 Jan, 00:00 (UTC); revoked 2 Jan, 00:00 (UTC); with the key that took its place."""
    if key.revoked_at is not None:
        text = format_html(_("revoked {at}"), at=moment(key.revoked_at))
    elif key.expires_at is not None:
        text = moment(key.expires_at)
    else:
        return _("never")
    if key.replaced_by is None:
        return text
    return format_html(_("{at}, replaced by {key}"), at=text, key=str(key.replaced_by))
