"""Operators' pages of people, tenants, keys and the audit log, and what the admin pages of all apps share.

Every change that an operator makes here is in the audit log in the same transaction (`Audited`), and no list lets a
pasted API key stay in an address (`Operators`).
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import SEARCH_VAR
from django.contrib.auth import admin as auth_admin
from django.contrib.auth import forms as auth_forms
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from . import audit, directory, errors, keys, members, projects
from .models import (
    RESTRICTABLE,
    ApiKey,
    AuditEntry,
    Delivery,
    DeliveryAttempt,
    Event,
    Invitation,
    MailChoice,
    MemberProject,
    Membership,
    Notice,
    Project,
    Role,
    Tenant,
    User,
    WebhookEndpoint,
)

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    AuthUserAdmin = auth_admin.UserAdmin[User]
    AuthUserCreation = auth_forms.AdminUserCreationForm[User]
    AuthUserChange = auth_forms.UserChangeForm[User]
else:  # Django's classes take no type arguments when they run
    ModelAdmin = admin.ModelAdmin
    AuthUserAdmin = auth_admin.UserAdmin
    AuthUserCreation = auth_forms.AdminUserCreationForm
    AuthUserChange = auth_forms.UserChangeForm

admin.site.site_header = "Meterhouse operators"
admin.site.site_title = "Meterhouse operators"
admin.site.index_title = "Operations"

KEY = re.compile(rf"mh_live_([0-9A-Za-z]{{1,{keys.ID_LENGTH}}})\S*")
KEY_HELP = "The first 20 characters of a key (mh_live_ and 12 more) are enough: never paste a whole one."


def public_id(term: str) -> str:
    """The public id, or its beginning, of the API key in the text; empty when there is none."""
    match = KEY.search(term)
    return match[1] if match else ""


def link(name: str, text: object, *arguments: object, **query: Any) -> SafeString:
    """A link to an admin page."""
    address = reverse(f"admin:{name}", args=arguments) + ("?" + urlencode(query) if query else "")
    return format_html('<a href="{}">{}</a>', address, text)


def links(*found: SafeString) -> SafeString:
    return format_html_join(" · ", "{}", ((one,) for one in found))


class Operators(ModelAdmin):
    """What all our pages share: rows are found by API key, and of a pasted key only the public id is used."""

    key_lookup = ""  # leads from this model to a key's public id
    show_full_result_count = False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "POST" and not self.get_actions(request):
            raise PermissionDenied
        searched = request.GET.get(SEARCH_VAR, "")
        identity = public_id(searched)
        if identity and searched != f"mh_live_{identity}":
            messages.warning(request, f"Only the public id of the key was used. {KEY_HELP}")
            query = request.GET.copy()
            query[SEARCH_VAR] = f"mh_live_{identity}"
            return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")
        return super().changelist_view(request, extra_context)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        identity = public_id(search_term)
        if identity:
            if not self.key_lookup:
                return queryset.none(), False
            return queryset.filter(**{f"{self.key_lookup}__startswith": identity}), "__" in self.key_lookup
        return super().get_search_results(request, queryset, search_term)


class ReadOnly(Operators):
    """A ledger, or derived from one: nobody adds, changes or deletes by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Audited(Operators):
    """Every change has its audit entry in the same transaction."""

    audit_noun = ""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        changes = changes_in(form)
        if changes or not change:
            self.audit(request, obj, "changed" if change else "added", changes=changes)

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        with transaction.atomic():
            self.audit(request, obj, "removed")
            super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        with transaction.atomic():
            for obj in queryset:
                self.delete_model(request, obj)

    def audit(self, request: HttpRequest, obj: models.Model, verb: str, **detail: object) -> None:
        tenant = obj if isinstance(obj, Tenant) else getattr(obj, "tenant", None)
        audit.record(tenant=tenant, actor=actor(request), action=f"{self.audit_noun}.{verb}", subject=obj, **detail)


def actor(request: HttpRequest) -> str:
    """The operator, as the audit log names people."""
    assert isinstance(request.user, User)
    return request.user.email


def changes_in(form: Any) -> dict[str, dict[str, object]]:
    """Before and after of each field that the form changed; passwords are left out."""
    return {
        name: {"before": _plain(form.initial.get(name)), "after": _plain(form.cleaned_data.get(name))}
        for name in form.changed_data
        if "password" not in name
    }


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple | set | QuerySet):
        return [_plain(one) for one in value]
    return str(value.pk) if isinstance(value, models.Model) else str(value)


# -- people ------------------------------------------------------------------------------------------------------------


class UserCreation(AuthUserCreation):
    class Meta:
        model = User
        fields = ("email", "name")


class UserChange(AuthUserChange):
    class Meta:
        model = User
        fields = "__all__"


@admin.register(User)
class UserAdmin(Audited, AuthUserAdmin):
    """People are deactivated, never deleted: what they did stays theirs."""

    audit_noun = "user"
    form = UserChange
    add_form = UserCreation
    list_display = ("email", "name", "is_active", "is_staff", "is_superuser", "last_login", "date_joined")
    list_filter = ("is_staff", "is_superuser", "is_active")
    search_fields = ("email", "name")
    ordering = ("email",)
    date_hierarchy = "date_joined"
    readonly_fields = ("last_login", "date_joined", "member_of")
    fieldsets = (
        (None, {"fields": ("email", "name", "password", "member_of")}),
        ("Rights", {"fields": ("is_active", "is_staff", "is_superuser", "groups", "user_permissions")}),
        ("Times (UTC)", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = (
        (None, {"classes": ("wide",), "fields": ("email", "name", "usable_password", "password1", "password2")}),
    )

    @admin.display(description="Member of")
    def member_of(self, user: User) -> SafeString | str:
        found = user.memberships.select_related("tenant")
        rows = (link("tenants_tenant_change", f"{m.tenant} ({m.get_role_display()})", m.tenant_id) for m in found)
        return links(*rows) or "-"

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """Only a superuser gives or takes rights."""
        rights = () if request.user.is_superuser else ("is_staff", "is_superuser", "groups", "user_permissions")
        return (*self.readonly_fields, *rights)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        if obj is not None and obj.is_superuser and not request.user.is_superuser:
            return False
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return False

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:  # noqa: A002
        with transaction.atomic():
            user = self.get_object(request, unquote(id))
            before = user.password if user is not None else ""
            response = super().user_change_password(request, id, form_url)
            if user is not None and User.objects.exclude(password=before).filter(pk=user.pk).exists():
                self.audit(request, user, "password_set")
        return response


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(Audited, auth_admin.GroupAdmin):
    audit_noun = "group"


# -- tenants -----------------------------------------------------------------------------------------------------------

Section = tuple[str, tuple[Callable[[Tenant], object], ...]]


@admin.register(Tenant)
class TenantAdmin(Audited):
    """Tenants come from sign-up or `create_tenant`, with account, owner and key; the ledger keeps them for good."""

    audit_noun = "tenant"
    key_lookup = "api_keys__public_id"
    sections: ClassVar[list[Section]] = []  # read-only parts of the page that other apps add: imports run one way
    list_display = ("name", "slug", "email", "max_projects", "created_at")
    search_fields = ("name", "slug", "email", "id", "api_keys__public_id__startswith")
    search_help_text = f"Name, address, e-mail or API key. {KEY_HELP}"
    date_hierarchy = "created_at"
    readonly_fields = ("id", "max_projects", "created_at", "see")

    def get_fieldsets(self, request: HttpRequest, obj: Tenant | None = None) -> Any:
        own = (None, {"fields": ("name", "slug", "email", "max_projects", "created_at", "id", "see")})
        return [own, *((title, {"fields": fields}) for title, fields in self.sections)]

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> Any:
        return [*self.readonly_fields, *(field for _, fields in self.sections for field in fields)]

    @admin.display(description="See")
    def see(self, tenant: Tenant) -> SafeString:
        pages = {
            "membership": "members", "project": "projects", "apikey": "API keys", "notice": "notices",
            "auditentry": "audit log",
        }  # fmt: skip
        return links(
            *(link(f"tenants_{name}_changelist", text, tenant__id__exact=tenant.pk) for name, text in pages.items())
        )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Tenant | None = None) -> bool:
        return False


@admin.register(Membership)
class MembershipAdmin(Audited):
    audit_noun = "member"
    list_display = ("user", "tenant", "role", "created_at")
    list_filter = ("role",)
    list_select_related = ("user", "tenant")
    search_fields = ("user__email", "tenant__name", "tenant__slug")
    autocomplete_fields = ("tenant", "user")
    fields = ("tenant", "user", "role", "is_restricted", "created_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> Any:
        return (*(("tenant", "user") if obj else ()), "is_restricted", "created_at")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        role, by = Role(obj.role), actor(request)
        if not change:
            obj.__dict__.update(members.add(tenant=obj.tenant, user=obj.user, role=role, actor=by).__dict__)
            return
        keeps = obj.is_restricted and role in RESTRICTABLE
        project_ids = list(obj.seen.values_list("project_id", flat=True)) if keeps else None
        members.change(tenant=obj.tenant, membership_id=obj.pk, role=role, project_ids=project_ids, actor=by)

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        assert isinstance(obj, Membership)
        members.remove(tenant=obj.tenant, membership_id=obj.pk, actor=actor(request))

    def changeform_view(self, request: HttpRequest, *arguments: Any, **more: Any) -> Any:
        return self._or_told_why(request, super().changeform_view, *arguments, **more)

    def delete_view(self, request: HttpRequest, *arguments: Any, **more: Any) -> Any:
        return self._or_told_why(request, super().delete_view, *arguments, **more)

    def changelist_view(self, request: HttpRequest, *arguments: Any, **more: Any) -> Any:
        return self._or_told_why(request, super().changelist_view, *arguments, **more)

    @staticmethod
    def _or_told_why(request: HttpRequest, view: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        try:
            with transaction.atomic():
                return view(request, *arguments, **more)
        except errors.TenantsError as refusal:
            messages.error(request, str(refusal))
        return HttpResponseRedirect(request.get_full_path())


@admin.register(Invitation)
class InvitationAdmin(ReadOnly):
    """Who was invited by mail; owners send, repeat and withdraw invitations on the team page."""

    list_display = ("email", "tenant", "role", "invited_by", "created_at", "expires_at", "accepted_at", "revoked_at")
    list_filter = (("accepted_at", admin.EmptyFieldListFilter), ("revoked_at", admin.EmptyFieldListFilter))
    list_select_related = ("tenant",)
    search_fields = ("email", "tenant__name", "tenant__slug")
    fields = (
        "tenant", "email", "role", "project_ids", "links", "invited_by", "created_at", "expires_at", "accepted_at",
        "revoked_at", "id",
    )  # fmt: skip


@admin.register(MemberProject)
class MemberProjectAdmin(ReadOnly):
    """Which projects a restricted member sees; owners choose them on the team page."""

    list_display = ("membership", "project", "tenant")
    list_select_related = ("membership__user", "membership__tenant", "project", "tenant")
    search_fields = ("membership__user__email", "tenant__name", "tenant__slug")


@admin.register(Project)
class ProjectAdmin(Audited):
    audit_noun = "project"
    key_lookup = "api_keys__public_id"
    list_display = ("name", "slug", "tenant", "created_at", "archived_at")
    list_filter = (("archived_at", admin.EmptyFieldListFilter),)
    list_select_related = ("tenant",)
    search_fields = ("name", "slug", "tenant__name", "tenant__slug")
    search_help_text = f"Name, address, tenant or API key. {KEY_HELP}"
    autocomplete_fields = ("tenant",)
    actions = ("archive", "restore")

    def get_fields(self, request: HttpRequest, obj: Project | None = None) -> Any:
        return ("tenant", "name", "slug", "created_at", "archived_at") if obj else ("tenant", "name")

    def get_readonly_fields(self, request: HttpRequest, obj: Project | None = None) -> Any:
        return ("tenant", "created_at", "archived_at") if obj else ()

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        made = directory.add_project(tenant=obj.tenant, name=obj.name, actor=actor(request))
        obj.__dict__.update(made.__dict__)

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        try:
            with transaction.atomic():
                return super().add_view(request, form_url, extra_context)
        except errors.TenantsError as refusal:
            messages.error(request, str(refusal))
        return HttpResponseRedirect(request.get_full_path())

    def has_delete_permission(self, request: HttpRequest, obj: Project | None = None) -> bool:
        return False  # the ledger refers to it

    @admin.action(description="Archive: its keys are refused within a second", permissions=["change"])
    def archive(self, request: HttpRequest, queryset: QuerySet[Project]) -> None:
        now = timezone.now()
        chosen = list(queryset.select_related("tenant"))
        archived = sum(projects.archive(project=project, actor=actor(request), now=now) for project in chosen)
        messages.success(request, f"Archived: {archived}. Archived before: {len(chosen) - archived}.")

    @admin.action(description="Restore: its keys stay revoked", permissions=["change"])
    def restore(self, request: HttpRequest, queryset: QuerySet[Project]) -> None:
        for project in queryset.select_related("tenant"):
            try:
                is_new = projects.restore(project=project, actor=actor(request))
            except errors.TenantsError as refusal:
                messages.error(request, f"{project}: {refusal}")
            else:
                messages.success(request, f"{project}: {'restored' if is_new else 'was in use before'}.")


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly):
    """Keys are issued by the product, which shows them once; here they are found and revoked."""

    key_lookup = "public_id"
    list_display = ("shown", "name", "tenant", "project", "created_at", "last_used_at", "expires_at", "revoked_at")
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    list_select_related = ("tenant", "project")
    search_fields = ("public_id__startswith", "name", "tenant__name", "tenant__slug")
    search_help_text = f"Key, its name or tenant. {KEY_HELP}"
    date_hierarchy = "created_at"
    actions = ("revoke",)
    fields = (
        "shown", "name", "tenant", "project", "scopes", "created_by", "created_at", "last_used_at", "expires_at", "revoked_at",
        "replaced_by",
    )  # fmt: skip

    @admin.display(description="Key", ordering="public_id")
    def shown(self, key: ApiKey) -> str:
        return str(key)

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.change_apikey")

    @admin.action(description="Revoke: refused everywhere within a second", permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        now = timezone.now()
        chosen = list(queryset.select_related("tenant"))
        revoked = sum(keys.revoke(key=key, actor=actor(request), now=now) for key in chosen)
        messages.success(request, f"Revoked: {revoked}. Revoked before: {len(chosen) - revoked}.")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ("time", "tenant", "actor", "action", "subject")
    list_select_related = ("tenant",)
    search_fields = ("actor", "action", "subject", "tenant__name", "tenant__slug")
    date_hierarchy = "at"
    fields = ("at", "tenant", "actor", "action", "subject", "detail", "id")

    @admin.display(description="Time (UTC)", ordering="at")
    def time(self, entry: AuditEntry) -> str:
        return f"{entry.at:%Y-%m-%d %H:%M:%S}"


@admin.register(Notice)
class NoticeAdmin(ReadOnly):
    """Mails that were sent or wait: what the customer was told, and when."""

    list_display = ("created_at", "tenant", "kind", "title", "due_at", "attempts", "sent_at", "error")
    list_display_links = ("title",)
    list_filter = (("sent_at", admin.EmptyFieldListFilter),)
    list_select_related = ("tenant",)
    search_fields = ("tenant__name", "tenant__slug", "kind__startswith", "key__startswith")
    search_help_text = (
        "Tenant's name or address, the beginning of a kind, or of what it is about, such as an invoice's id."
    )
    date_hierarchy = "created_at"


@admin.register(Event)
class EventAdmin(ReadOnly):
    """What webhooks tell of."""

    list_display = ("created_at", "tenant", "type", "key", "spread_at")
    list_display_links = ("type",)
    list_filter = ("type", ("spread_at", admin.EmptyFieldListFilter))
    list_select_related = ("tenant",)
    search_fields = ("tenant__name", "tenant__slug", "key__startswith")
    fields = ("created_at", "tenant", "type", "key", "data", "spread_at", "id")


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnly):
    """Where customers want events posted to. Secrets are shown to them once, and to nobody here."""

    list_display = ("url", "tenant", "is_on", "failing_since", "disabled_at", "created_at")
    list_filter = ("is_on", ("failing_since", admin.EmptyFieldListFilter))
    list_select_related = ("tenant",)
    search_fields = ("url", "tenant__name", "tenant__slug")
    fields = (
        "tenant",
        "url",
        "events",
        "is_on",
        "old_until",
        "failing_since",
        "disabled_at",
        "busy_until",
        "created_at",
        "id",
    )


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly):
    list_display = ("created_at", "tenant", "event", "endpoint", "state", "attempts", "due_at", "ended_at")
    list_display_links = ("event",)
    list_filter = ("state",)
    list_select_related = ("tenant", "event", "endpoint")
    search_fields = ("tenant__name", "tenant__slug", "endpoint__url")


@admin.register(DeliveryAttempt)
class DeliveryAttemptAdmin(ReadOnly):
    list_display = ("at", "delivery", "status", "latency_ms", "error")
    list_select_related = ("delivery",)
    search_fields = ("delivery__tenant__name", "delivery__tenant__slug", "delivery__endpoint__url")


@admin.register(MailChoice)
class MailChoiceAdmin(ReadOnly):
    """Who gets a topic's mails in place of owners and billing members."""

    list_display = ("tenant", "topic", "membership")
    list_select_related = ("tenant", "membership__user", "membership__tenant")
    search_fields = ("tenant__name", "tenant__slug", "membership__user__email")
