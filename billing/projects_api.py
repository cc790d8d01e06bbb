"""`/api/v1/projects`: the tenant's projects, listed with `usage:read`, changed with `projects:write`."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Count
from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import usage
from tenants import directory, projects
from tenants.key_status import working
from tenants.models import Project

from .managed_api import PAGE, ManagedView, billable, body, next_page, refusals
from .models import Account


class ProjectsQuery(serializers.Serializer[dict[str, Any]]):
    archived = serializers.BooleanField(required=False, allow_null=True, default=None)
    after = serializers.SlugField(required=False)


class NewProject(serializers.Serializer[dict[str, Any]]):
    name = serializers.CharField(max_length=120)


class ProjectChange(serializers.Serializer[dict[str, Any]]):
    name = serializers.CharField(max_length=120, required=False)
    archived = serializers.BooleanField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("Send name, archived or both.")
        return attrs


class ProjectsView(ManagedView):
    """`GET`: 100 projects an answer by slug, `next` leads on; `?archived=true|false` narrows. `POST {"name"}` creates one."""

    change_scope = "projects:write"

    def get(self, request: Request) -> Response:
        account = self.account(request)
        asked = self.query(request, ProjectsQuery)
        found = account.tenant.projects.order_by("slug")
        if asked["archived"] is not None:
            found = found.filter(archived_at__isnull=not asked["archived"])
        if "after" in asked:
            found = found.filter(slug__gt=asked["after"])
        rows = list(found[: PAGE + 1])
        return Response(
            {
                "projects": documents(account, rows[:PAGE]),
                "in_use": directory.projects_in_use(account.tenant),
                "limit": account.tenant.max_projects,
                "next": next_page(request, after=rows[PAGE - 1].slug if len(rows) > PAGE else None),
            }
        )

    def post(self, request: Request) -> Response:
        account = self.account(request)
        name = body(request.data, NewProject)["name"]
        with refusals(account.tenant):
            project = directory.add_project(tenant=account.tenant, name=name, actor=self.caller(request).prefix)
        answer = Response(documents(account, [project])[0], status=201)
        answer["Location"] = f"{request.path}/{project.slug}"
        return answer


class ProjectView(ManagedView):
    """`PATCH {"name": "...", "archived": true}` renames, archives (its keys are revoked) or restores; either or both."""

    change_scope = "projects:write"

    def get(self, request: Request, project_slug: str) -> Response:
        account = self.account(request)
        return Response(documents(account, [self.project(account, project_slug)])[0])

    def patch(self, request: Request, project_slug: str) -> Response:
        account = self.account(request)
        project = self.project(account, project_slug)
        change, actor = body(request.data, ProjectChange), self.caller(request).prefix
        with refusals(account.tenant):
            projects.change(
                project=project,
                name=change.get("name"),
                archived=change.get("archived"),
                actor=actor,
                now=timezone.now(),
            )
        return self.get(request, project_slug)

    @staticmethod
    def project(account: Account, slug: str) -> Project:
        found = account.tenant.projects.filter(slug=slug).first()
        if found is None:
            raise Http404
        return found


def documents(account: Account, found: Sequence[Project]) -> list[dict[str, Any]]:
    """Projects as JSON, with their keys that work and the billable calls of the running period."""
    now = timezone.now()
    ids = [project.pk for project in found]
    period = usage.current_period(allowance=account.tenant.allowance, now=now)
    calls = billable(account, group_by=usage.GroupBy.PROJECT, ids=ids, period=period)
    counted = Project.objects.filter(pk__in=ids).annotate(count=Count("api_keys", filter=working(now, "api_keys__")))
    key_counts = dict(counted.order_by().values_list("pk", "count"))
    return [
        {
            "slug": project.slug,
            "name": project.name,
            "created_at": project.created_at,
            "archived_at": project.archived_at,
            "keys": key_counts[project.pk],
            "billable": calls.get(project.pk, 0),
        }
        for project in found
    ]
