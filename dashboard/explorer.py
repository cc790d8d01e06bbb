"""The usage page: the running period by capability, project or API key, with errors and latency."""

from dataclasses import dataclass
from datetime import datetime

from billing import estimates
from billing.estimates import Statement
from billing.models import Account
from metering import usage

from . import breakdown, charts, daily
from .overview import day_of_period


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to break usage down."""

    value: str
    label: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Explorer:
    """The page."""

    statement: Statement
    day: str
    choices: tuple[Choice, ...]
    group_by: str
    figure: daily.Figure
    breakdown: breakdown.Breakdown


def explorer(*, account: Account, group_by: usage.GroupBy, now: datetime) -> Explorer:
    """Usage of the running period by these groups."""
    statement = estimates.statement(account=account, now=now)
    scope = usage.Scope.of_period(account.tenant_id, statement.period)
    by_day = usage.daily(scope, group_by=group_by)
    series = charts.series_of(daily.totals(by_day))
    known = breakdown.labels(tenant=account.tenant, group_by=group_by)
    is_default = group_by == usage.GroupBy.CAPABILITY
    return Explorer(
        statement=statement,
        day=day_of_period(statement),
        choices=tuple(
            Choice(choice.value, str(label), choice == group_by) for choice, label in breakdown.CHOICES.items()
        ),
        group_by=group_by.value,
        figure=daily.figure(
            statement=statement,
            daily=by_day,
            series=series,
            label=lambda group: breakdown.label_of(group, known, group_by).name,
        ),
        breakdown=breakdown.breakdown(
            groups=statement.capabilities if is_default else usage.groups(scope, group_by=group_by),
            before=estimates.same_span(statement=statement, group_by=group_by),
            group_by=group_by,
            known=known,
            series=series,
        ),
    )
