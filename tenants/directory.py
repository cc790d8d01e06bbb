"""Tenants and projects: how they come to be."""

from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.utils.text import slugify

from . import audit
from .errors import TenantsError
from .models import AuditEntry, Project, Tenant


class SlugTaken(TenantsError):
    """Another tenant has this address."""


class ProjectExists(TenantsError):
    """The tenant has a project of this name; `is_archived` one that could be restored."""

    def __init__(self, project: Project) -> None:
        words = "There is an archived project" if project.is_archived else "There is a project"
        super().__init__(f"{words} '{project.name}' already.")
        self.name = project.name
        self.is_archived = project.is_archived


class ProjectLimitReached(TenantsError):
    """The plan allows no further project: `limit` of them, and `used` are in use."""

    def __init__(self, *, limit: int, used: int) -> None:
        super().__init__(f"The plan allows {limit} project(s); {used} exist.")
        self.limit = limit
        self.used = used


def opened_lately(*, by: str, now: datetime) -> int:
    """How many tenants this person opened in the last 24 hours."""
    since = now - timedelta(days=1)
    return AuditEntry.objects.filter(actor=by, action="tenant.opened", at__gt=since, at__lte=now).count()


def open_tenant(*, name: str, email: str, actor: str, slug: str | None = None) -> Tenant:
    """A tenant exists under a free address derived from its name; raises SlugTaken for a chosen one in use."""
    wanted = slug or slugify(name)[:50] or "tenant"
    for attempt in range(1, 1000):
        candidate = wanted if attempt == 1 else f"{wanted}-{attempt}"
        try:
            with transaction.atomic():
                tenant = Tenant.objects.create(slug=candidate, name=name, email=email)
                audit.record(tenant=tenant, actor=actor, action="tenant.opened", subject=tenant.slug)
                return tenant
        except IntegrityError:
            if slug:
                break
    raise SlugTaken(f"The address '{wanted}' is taken.")


def add_project(*, tenant: Tenant, name: str, actor: str) -> Project:
    """A project exists; raises ProjectLimitReached when the plan allows no further one, ProjectExists for a taken name."""
    name = one_line(name)
    with transaction.atomic():
        check_room(tenant)
        check_name(tenant, name)
        slug = _free_slug(tenant, name)
        project = Project.objects.create(tenant=tenant, slug=slug, name=name)
        audit.record(tenant=tenant, actor=actor, action="project.added", subject=project.slug, name=name)
    return project


def one_line(name: str) -> str:
    """The name without line breaks and the like: it stands in lists, mails and files."""
    return " ".join(name.split())


def check_room(tenant: Tenant) -> None:
    """One more project fits the plan, and none is added beside it until the transaction ends; raises ProjectLimitReached."""
    locked = Tenant.objects.select_for_update(no_key=True).get(pk=tenant.pk)
    used = projects_in_use(locked)
    if locked.max_projects is not None and used >= locked.max_projects:
        raise ProjectLimitReached(limit=locked.max_projects, used=used)


def projects_in_use(tenant: Tenant) -> int:
    """How many count against the plan's limit: archived ones do not."""
    return tenant.projects.filter(archived_at=None).count()


def check_name(tenant: Tenant, name: str, *, besides: Project | None = None) -> None:
    """No other project of the tenant is called so; raises ProjectExists."""
    others = tenant.projects.exclude(pk=besides.pk) if besides else tenant.projects.all()
    found = others.filter(name__iexact=name).first()
    if found is not None:
        raise ProjectExists(found)


def _free_slug(tenant: Tenant, name: str) -> str:
    """Renamed projects keep their slug, so that one may be taken by a project of another name."""
    wanted = slugify(name)[:50] or "project"
    taken = set(tenant.projects.filter(slug__startswith=wanted).values_list("slug", flat=True))
    candidates = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, len(taken) + 2))
    return next(slug for slug in candidates if slug not in taken)
