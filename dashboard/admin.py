"""Operators' pages of how people sign in: a lost second step is taken away here, and nothing else is changed by hand."""

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.contrib import admin
from django.http import HttpRequest

from tenants.admin import ReadOnly

for _model in (EmailAddress, Authenticator):
    admin.site.unregister(_model)


@admin.register(EmailAddress)
class Addresses(ReadOnly):
    list_display = ("email", "verified")
    list_filter = ("verified",)
    search_fields = ("email",)
    fields = ("user", "email", "verified")


@admin.register(Authenticator)
class SecondSteps(ReadOnly):
    """Deleting one lets its owner sign in without it; the audit log names the operator. Secrets are not shown."""

    list_display = ("user", "type", "created_at", "last_used_at")
    list_filter = ("type",)
    list_select_related = ("user",)
    search_fields = ("user__email",)
    fields = ("user", "type", "created_at", "last_used_at")

    def has_delete_permission(self, request: HttpRequest, obj: Authenticator | None = None) -> bool:
        return request.user.has_perm("mfa.delete_authenticator")
