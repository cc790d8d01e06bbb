"""The forms of projects and keys."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from tenants.keys import DEFAULT_SCOPES, SCOPES
from tenants.models import Project

NAME_LENGTH = 120
LONGEST = timedelta(days=3660)
HOUR = 3600


class ProjectForm(forms.Form):
    """A project's name."""

    name = forms.CharField(
        label=_("Name"), max_length=NAME_LENGTH, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class KeyForm(forms.Form):
    """A new key: for which project, what it is called, what it may do, how long it works."""

    project = forms.ChoiceField(label=_("Project"))
    name = forms.CharField(
        label=_("Name"), max_length=NAME_LENGTH, help_text=_("What it is for, for example: nightly import."),
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )  # fmt: skip
    scopes = forms.MultipleChoiceField(label=_("What it may do"), widget=forms.CheckboxSelectMultiple)
    expires = forms.ChoiceField(
        label=_("Expires"),
        choices=[
            ("never", _("Never")), ("30", _("In 30 days")), ("90", _("In 90 days")), ("365", _("In 365 days")),
            ("date", _("On the day below")),
        ],
        initial="90",
    )  # fmt: skip
    on = forms.DateField(
        label=_("Day"), required=False, help_text=_("Refused from the beginning of that day on (00:00 UTC)."),
        widget=forms.DateInput(attrs={"type": "date"}),
    )  # fmt: skip

    def __init__(
        self, *args: Any, projects: Iterable[Project], may_give: frozenset[str], now: datetime, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.now = now
        self.projects = {project.slug: project for project in projects}
        self.fields["project"].choices = [(project.slug, project.name) for project in self.projects.values()]  # type: ignore[attr-defined]
        scopes = [(scope, words) for scope, words in SCOPES.items() if scope in may_give]
        self.fields["scopes"].choices = scopes  # type: ignore[attr-defined]
        self.fields["scopes"].initial = [scope for scope, _words in scopes if scope in DEFAULT_SCOPES]

    def clean(self) -> dict[str, Any]:
        found = self.cleaned_data
        if found.get("expires") != "date" or "on" in self.errors:
            return found
        if found.get("on") is None:
            self.add_error("on", _("Say which day."))
        elif not self.now < _midnight(found["on"]) <= self.now + LONGEST:
            self.add_error("on", _("Choose a day in the next ten years."))
        return found

    @property
    def chosen_project(self) -> Project:
        return self.projects[self.cleaned_data["project"]]

    @property
    def expires_at(self) -> datetime | None:
        wanted = self.cleaned_data["expires"]
        if wanted == "never":
            return None
        if wanted == "date":
            return _midnight(self.cleaned_data["on"])
        return self.now + timedelta(days=int(wanted))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


class RotationForm(forms.Form):
    """How long the old key goes on working."""

    overlap = forms.ChoiceField(
        choices=[
            (str(24 * HOUR), _("For 24 hours")), (str(HOUR), _("For an hour")), (str(168 * HOUR), _("For 7 days")),
            ("0", _("Not at all: it is refused at once")),
        ],
        initial=str(24 * HOUR), widget=forms.RadioSelect,
    )  # fmt: skip

    @property
    def duration(self) -> timedelta:
        return timedelta(seconds=int(self.cleaned_data["overlap"]))
