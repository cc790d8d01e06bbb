"""What becomes of a project: renamed, archived, restored. The ledger refers to projects, so none is ever deleted."""

from datetime import datetime

from django.db import transaction

from . import audit, directory, keys
from .models import Project


def rename(*, project: Project, name: str, actor: str) -> bool:
    """The project is called so, under its old address; False if it was before. Raises directory.ProjectExists."""
    name = directory.one_line(name)
    with transaction.atomic():
        before = Project.objects.select_for_update(no_key=True).get(pk=project.pk).name
        if name == before:
            return False
        directory.check_name(project.tenant, name, besides=project)
        Project.objects.filter(pk=project.pk).update(name=name)
        audit.record(
            tenant=project.tenant,
            actor=actor,
            action="project.renamed",
            subject=project.slug,
            before=before,
            after=name,
        )
    return True


def archive(*, project: Project, actor: str, now: datetime) -> bool:
    """The project counts against no limit and its keys are refused everywhere within a second; False if it was before."""
    with transaction.atomic():
        changed = Project.objects.filter(pk=project.pk, archived_at=None).update(archived_at=now)
        if changed:  # the row is locked now: no key is issued beside this
            audit.record(tenant=project.tenant, actor=actor, action="project.archived", subject=project.slug)
            for key in project.api_keys.filter(revoked_at=None).select_related("tenant"):
                keys.revoke(key=key, actor=actor, now=now)
    return bool(changed)


def restore(*, project: Project, actor: str) -> bool:
    """The project is in use again, its keys stay revoked; False if it was before. Raises directory.ProjectLimitReached."""
    with transaction.atomic():
        if not Project.objects.select_for_update(no_key=True).get(pk=project.pk).is_archived:
            return False
        directory.check_room(project.tenant)
        Project.objects.filter(pk=project.pk).update(archived_at=None)
        audit.record(tenant=project.tenant, actor=actor, action="project.restored", subject=project.slug)
    return True


def change(*, project: Project, name: str | None, archived: bool | None, actor: str, now: datetime) -> None:
    """The project is called so and archived or not, both or neither of it; None leaves it. Raises what the parts raise."""
    with transaction.atomic():
        if archived is True:
            archive(project=project, actor=actor, now=now)
        if name is not None:
            rename(project=project, name=name, actor=actor)
        if archived is False:
            restore(project=project, actor=actor)
