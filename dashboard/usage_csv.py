"""Usage as CSV: the points of the API's series, a row each, under the names of their JSON fields."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from billing import series
from billing.api import group_names
from billing.models import Account
from billing.series_api import fields
from metering import usage


def header(query: series.Query) -> list[str]:
    """The fields' names; those of an object inside are written after a point: `latency_ms.p50`."""
    amount = None if not query.shows_money else series.NOTHING
    point = series.Point(query.scope.start, "", usage.Counts(), usage.latency([]), amount)
    return list(flat(fields(point, {})))


def rows(*, account: Account, query: series.Query, now: datetime) -> Iterator[list[Any]]:
    """The points, read month by month, so that a year by the hour takes no more memory than a month."""
    names = group_names(account, query.group_by)
    for part in series.months(query):
        for point in series.points(account=account, asked=part, now=now):
            yield list(flat(fields(point, names)).values())


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{inner}": one for inner, one in value.items()}
        else:
            values[name] = value
    return values
