"""The forms of the team and settings pages."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from tenants.models import RESTRICTABLE, Project, Role

ALL, SOME = "all", "some"
ROLES = (
    (Role.OWNER.value, _("Owner: everything, members and settings too")),
    (Role.BILLING.value, _("Billing: sees everything; changes plan, payment, limits and alerts")),
    (Role.DEVELOPER.value, _("Developer: usage and calls; changes projects and keys; sees no amounts")),
    (Role.VIEWER.value, _("Viewer: sees everything, changes nothing")),
)


class AccessForm(forms.Form):
    """A role, and the projects it is for."""

    role = forms.ChoiceField(label=_("Role"), choices=ROLES, initial=Role.DEVELOPER.value, widget=forms.RadioSelect)
    access = forms.ChoiceField(
        label=_("Projects"), choices=[(ALL, _("All projects, also those to come")), (SOME, _("Only these:"))],
        initial=ALL, widget=forms.RadioSelect,
    )  # fmt: skip
    projects = forms.MultipleChoiceField(label=_("Projects"), required=False, widget=forms.CheckboxSelectMultiple)

    def __init__(self, *args: Any, projects: Sequence[Project], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        choice = self.fields["projects"]
        assert isinstance(choice, forms.MultipleChoiceField)
        choice.choices = [(str(project.pk), project.name) for project in projects]

    def clean(self) -> dict[str, Any]:
        found = self.cleaned_data
        if found.get("access") == SOME:
            if found.get("role") not in {role.value for role in RESTRICTABLE}:
                self.add_error("access", _("Owners and billing members answer for all projects: choose all."))
            elif not found.get("projects") and "projects" not in self.errors:
                self.add_error("access", _("Tick at least one project."))
        return found

    @property
    def chosen_role(self) -> Role:
        return Role(self.cleaned_data["role"])

    @property
    def project_ids(self) -> list[int] | None:
        """None for all projects."""
        if self.cleaned_data["access"] == ALL:
            return None
        return [int(value) for value in self.cleaned_data["projects"]]


class InviteForm(AccessForm):
    email = forms.EmailField(
        label=_("E-mail address"), max_length=254,
        widget=forms.EmailInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip
    field_order = ("email", "role", "access", "projects")


class SettingsForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=120, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    email = forms.EmailField(
        label=_("Billing e-mail address"), max_length=254,
        help_text=_("Mail about payments goes here, and to owners and billing members."),
        widget=forms.EmailInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )  # fmt: skip

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class NewTenantForm(forms.Form):
    name = forms.CharField(
        label=_("Organisation"), max_length=120, widget=forms.TextInput(attrs={"autocomplete": "organization"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
