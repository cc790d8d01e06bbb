"""Usage by capability, project or API key: the rows of a table whose total is the period's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from metering import usage
from metering.models import Outcome
from tenants.models import ApiKey, Project

from . import formatting
from .changes import Change, change
from .charts import Series

CHOICES = {
    usage.GroupBy.CAPABILITY: gettext_lazy("Capability"),
    usage.GroupBy.PROJECT: gettext_lazy("Project"),
    usage.GroupBy.KEY: gettext_lazy("API key"),
    usage.GroupBy.OUTCOME: gettext_lazy("Outcome"),
}
OUTCOMES = {
    Outcome.BILLABLE.value: gettext_lazy("Billable"),
    Outcome.FAILED.value: gettext_lazy("Failed"),
    Outcome.REFUSED.value: gettext_lazy("Refused"),
}
MOST_ROWS = 50


@dataclass(frozen=True, slots=True)
class Row:
    """One group, or the total. `width` is the share bar's length in per cent."""

    label: str
    detail: str
    style: str
    counts: usage.Counts
    latency: usage.Latency
    share: str
    width: float
    error_rate: str
    change: Change
    group: str = ""
    address: str = ""  # query of what is in it


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The table. `heading` names what its rows are."""

    heading: str
    rows: tuple[Row, ...]
    total: Row
    left_out: int = 0  # groups beyond the most that are listed


@dataclass(frozen=True, slots=True)
class Label:
    """What people call a group."""

    name: str
    detail: str = ""


def labels_of(projects: Iterable[Project], keys: Iterable[ApiKey], group_by: usage.GroupBy) -> dict[str, Label]:
    """Names of projects or keys by the id that usage has; capabilities are their own names."""
    if group_by == usage.GroupBy.PROJECT:
        return {str(project.pk): Label(project.name) for project in projects}
    if group_by == usage.GroupBy.KEY:
        return {str(key.pk): Label(key.name, f"{key}, {key.project.name}") for key in keys}
    return {}


def label_of(group: str, known: Mapping[str, Label], group_by: usage.GroupBy) -> Label:
    """The group's label; a project or key that is gone keeps its number."""
    if group_by == usage.GroupBy.CAPABILITY:
        return Label(group)
    if group_by == usage.GroupBy.OUTCOME:
        return Label(str(OUTCOMES.get(group, group)))
    return known.get(group) or Label(_("deleted (%(number)s)") % {"number": group})


def breakdown(
    *,
    groups: Sequence[usage.Group],
    before: Mapping[str, usage.Counts],
    group_by: usage.GroupBy,
    known: Mapping[str, Label],
    series: Sequence[Series],
) -> Breakdown:
    """Rows for what was used now or in the same span of the last period, the largest first."""
    total = usage.total(groups)
    styles = {item.group: item.style for item in series}
    gone = [usage.Group(name, usage.Counts(), usage.latency([]), ()) for name in before if name not in _names(groups)]
    rows = tuple(
        _row(
            group,
            label=label_of(group.name, known, group_by),
            style=styles.get(group.name, "s0"),
            whole=total.counts.billable,
            before=before.get(group.name, usage.Counts()),
        )
        for group in [*groups, *gone][:MOST_ROWS]
    )
    everything = sum(before.values(), usage.Counts())
    whole = total.counts.billable
    return Breakdown(
        str(CHOICES[group_by]),
        rows,
        _row(total, label=Label(_("Total")), style="", whole=whole, before=everything),
        max(0, len(groups) + len(gone) - MOST_ROWS),
    )


def _names(groups: Sequence[usage.Group]) -> set[str]:
    return {group.name for group in groups}


def _row(group: usage.Group, *, label: Label, style: str, whole: int, before: usage.Counts) -> Row:
    counts = group.counts
    return Row(
        label=label.name,
        detail=label.detail,
        style=style,
        counts=counts,
        latency=group.latency,
        share=formatting.share(counts.billable, whole),
        width=counts.billable * 100 / whole if whole else 0.0,
        error_rate=formatting.rate(counts.failed, counts.answered),
        change=change(now=counts.billable, before=before.billable),
        group=group.name,
    )
