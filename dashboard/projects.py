"""The projects page: what is in use, what is archived, and how many the plan has room for."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import Count, Q, QuerySet
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from billing import change_previews
from billing.models import Account, PlanVersion
from metering import usage
from metering.models import LimitKind, SubLimit
from metering.periods import Period
from tenants.key_status import working
from tenants.models import Project

from .instants import moment

ROWS = 50


@dataclass(frozen=True, slots=True)
class Row:
    """A project with its keys that work, the billable calls of the period, and its own limit."""

    project: Project
    keys: int
    calls: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Projects:
    """The page. `warning` says what a plan with less room means, now or from the period's end on."""

    period: Period
    rows: tuple[Row, ...]
    page: "Page[Project]"
    shows_archived: bool
    in_use: int
    archived: int
    room: str
    has_room: bool
    warning: str


def projects(
    *, account: Account, visible: QuerySet[Project], shows_archived: bool, number: str, now: datetime
) -> Projects:
    """The projects that a member sees; the plan's room counts all of the tenant's."""
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    in_use, is_seen = Q(archived_at=None), Q(pk__in=visible.values("pk"))
    counts = Project.objects.filter(tenant=account.tenant).aggregate(
        used=Count("pk", filter=in_use),
        in_use=Count("pk", filter=in_use & is_seen),
        archived=Count("pk", filter=~in_use & is_seen),
    )
    listed = with_keys(visible.filter(archived_at__isnull=not shows_archived), now).order_by("name", "pk")
    paginator = Paginator(listed, ROWS)
    paginator.count = counts["archived" if shows_archived else "in_use"]  # known already
    page = paginator.get_page(number)
    used, limit = counts["used"], account.tenant.max_projects
    return Projects(
        period=period,
        rows=rows(account=account, found=list(page), period=period),
        page=page,
        shows_archived=shows_archived,
        in_use=counts["in_use"],
        archived=counts["archived"],
        room="" if limit is not None and used > limit else room(account, used),
        has_room=limit is None or used < limit,
        warning=_too_many_now(account, used) or _too_many_later(account, used, period),
    )


def with_keys(projects: QuerySet[Project], now: datetime) -> QuerySet[Any]:
    """The same projects, each with the number of its keys that work as `working_keys`."""
    return projects.annotate(working_keys=Count("api_keys", filter=working(now, "api_keys__")))


def rows(*, account: Account, found: list[Any], period: Period) -> tuple[Row, ...]:
    """Of projects that `with_keys` has read."""
    ids = [project.pk for project in found]
    calls = usage.counts(usage.Scope.of_period(account.tenant_id, period), group_by=usage.GroupBy.PROJECT, ids=ids)
    limits = SubLimit.objects.filter(tenant=account.tenant, kind=LimitKind.PROJECT, subject_id__in=ids)
    limit_of = dict(limits.values_list("subject_id", "calls"))
    return tuple(
        Row(
            project=project,
            keys=project.working_keys,
            calls=calls[project.pk].billable if project.pk in calls else 0,
            limit=limit_of.get(project.pk),
        )
        for project in found
    )


def room(account: Account, used: int) -> str:
    """2 of 3 projects of Launch are in use."""
    limit, plan = account.tenant.max_projects, account.plan_version.plan.name
    if limit is None:
        return _("%(plan)s has room for as many projects as you like.") % {"plan": plan}
    return ngettext(
        "%(used)d of the %(limit)d project that %(plan)s has room for is in use.",
        "%(used)d of the %(limit)d projects that %(plan)s has room for are in use.",
        limit,
    ) % {"used": used, "limit": limit, "plan": plan}


def _too_many_now(account: Account, used: int) -> str:
    """After a cancellation, an unpaid plan or a smaller one: nothing is taken away, and nothing is added."""
    limit = account.tenant.max_projects
    if limit is None or used <= limit:
        return ""
    return _(
        "%(used)d projects are in use, and %(plan)s has room for %(limit)d. All of them keep working, and nothing is deleted; "
        "but none can be added or restored until %(excess)d are archived or the plan has more room."
    ) % {"used": used, "plan": account.plan_version.plan.name, "limit": limit, "excess": used - limit + 1}


def _too_many_later(account: Account, used: int, period: Period) -> str:
    """What is scheduled has less room than is in use."""
    version = _next_version(account)
    if version is None or version.max_projects is None or used <= version.max_projects:
        return ""
    text = _(
        "From {at} on the plan is {plan}, which has room for {limit}; {used} projects are in use. All of them will keep working, "
        "but none can be added while there are too many."
    )
    at = account.cancels_at or account.period_end or period.end
    return format_html(text, at=moment(at), plan=version.plan.name, limit=version.max_projects, used=used)


def _next_version(account: Account) -> PlanVersion | None:
    return change_previews.free_version() if account.cancels_at else account.next_version
