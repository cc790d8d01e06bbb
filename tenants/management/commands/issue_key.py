"""`manage.py issue_key`: an API key of a project, with the scopes that it is to have."""

import argparse
import json
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError

from tenants import keys
from tenants.models import Project, Tenant

NAME_LENGTH = 120
NAMED_AT_MOST = 20  # projects that an error lists


class Command(BaseCommand):
    help = (
        "Issue an API key for a project of a tenant. Scopes: "
        + "; ".join(f"{scope} ({meaning})" for scope, meaning in keys.SCOPES.items())
        + ". The key is shown once."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tenant", required=True, help="The tenant's address (slug) or id.")
        parser.add_argument("--project", required=True, help="The project's slug.")
        parser.add_argument("--name", required=True, help="What the key is for.")
        parser.add_argument(
            "--scope", required=True, action="append", help="What the key may do; repeat it for several scopes."
        )
        parser.add_argument("--json", action="store_true", help="Print one line of JSON.")

    def handle(self, *_: Any, **options: Any) -> None:
        name = options["name"].strip()
        if not name:
            raise CommandError("--name is empty. Say what the key is for.")
        if len(name) > NAME_LENGTH or not name.isprintable():
            raise CommandError(f"--name must be readable text of at most {NAME_LENGTH} characters.")
        try:
            tenant = _tenant(options["tenant"])
            project = _project(tenant, options["project"])
            row, key = keys.issue(
                project=project, name=name, actor="command issue_key", scopes=frozenset(options["scope"])
            )
        except ValueError as error:  # an unknown scope; it names the known ones
            raise CommandError(f"{error} Nothing was issued.") from error
        except keys.ProjectArchived as error:
            raise CommandError(f"{error} Nothing was issued.") from error
        except (OperationalError, InterfaceError) as error:
            raise CommandError(
                f"PostgreSQL is unreachable: {error}. Check DATABASE_URL; nothing was issued."
            ) from error
        result = {
            "tenant": tenant.slug,
            "project": project.slug,
            "name": row.name,
            "prefix": row.prefix,
            "scopes": row.scopes,
            "api_key": key,
        }
        if options["json"]:
            self.stdout.write(json.dumps(result))
            return
        for label, value in result.items():
            self.stdout.write(f"{label:10} {', '.join(value) if isinstance(value, list) else value}")


def _tenant(slug_or_id: str) -> Tenant:
    """The tenant with this address or id; raises CommandError."""
    tenant = Tenant.objects.filter(slug=slug_or_id).first()
    if tenant is None:
        with suppress(ValueError):  # no id either
            tenant = Tenant.objects.filter(pk=UUID(slug_or_id)).first()
    if tenant is None:
        raise CommandError(
            f"There is no tenant '{slug_or_id}'. Give its address as in /t/<address>/, or its id; both are in the admin."
        )
    return tenant


def _project(tenant: Tenant, slug: str) -> Project:
    """The tenant's project with this slug; raises CommandError, which names those that it has."""
    project = tenant.projects.filter(slug=slug).first()
    if project is not None:
        return project
    known = list(tenant.projects.order_by("slug").values_list("slug", flat=True)[: NAMED_AT_MOST + 1])
    if not known:
        raise CommandError(f"{tenant.slug} has no project yet. Add one in the admin.")
    more = ", ..." if len(known) > NAMED_AT_MOST else ""
    raise CommandError(f"{tenant.slug} has no project '{slug}'. It has: {', '.join(known[:NAMED_AT_MOST])}{more}.")
