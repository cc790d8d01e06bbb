"""Tenants, members and projects: how they come to be."""

from django.db import IntegrityError, transaction
from django.utils.text import slugify

from . import audit
from .models import Membership, Project, Role, Tenant, User


class TenantsError(Exception):
    """Base of this app's errors."""


class SlugTaken(TenantsError):
    """Another tenant has this address."""


class ProjectExists(TenantsError):
    """The tenant has a project of this name."""


class ProjectLimitReached(TenantsError):
    """The plan allows no further project."""


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


def add_member(*, tenant: Tenant, user: User, role: Role, actor: str) -> Membership:
    """The user has this role in the tenant."""
    with transaction.atomic():
        membership, _ = Membership.objects.update_or_create(tenant=tenant, user=user, defaults={"role": role})
        audit.record(tenant=tenant, actor=actor, action="member.added", subject=user.email, role=role)
    return membership


def add_project(*, tenant: Tenant, name: str, actor: str) -> Project:
    """A project exists; raises ProjectLimitReached when the plan allows no further one, ProjectExists for a taken name."""
    with transaction.atomic():
        locked = Tenant.objects.select_for_update().get(pk=tenant.pk)
        count = locked.projects.count()
        if locked.max_projects is not None and count >= locked.max_projects:
            raise ProjectLimitReached(f"The plan allows {locked.max_projects} project(s); {count} exist.")
        slug = slugify(name)[:60] or f"project-{count + 1}"
        project, is_new = Project.objects.get_or_create(tenant=tenant, slug=slug, defaults={"name": name})
        if not is_new:
            raise ProjectExists(f"There is a project '{project.name}' already.")
        audit.record(tenant=tenant, actor=actor, action="project.added", subject=project.slug)
    return project
