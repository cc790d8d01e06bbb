"""The audit log's page: who did what and when, filtered and page by page."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlencode

from tenants import audit_log
from tenants.models import Tenant

from .audit_words import sentence

PAGE_SIZE = 50
LONGEST = timedelta(days=400)  # thirteen months: what a file reaches back by default


@dataclass(frozen=True, slots=True)
class Row:
    at: datetime
    actor: str
    action: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Log:
    """The page. `query` are the filters as an address has them; `following` that of the next page."""

    rows: tuple[Row, ...]
    actions: tuple[str, ...]
    actor: str
    action: str
    since: str
    until: str
    query: str
    following: str
    is_first: bool


def asked_of(query: Mapping[str, str]) -> audit_log.Filter:
    """The filters of an address; days are whole (UTC), both ends included. What is no day is left out."""
    since, until = _day(query.get("from", "")), _day(query.get("to", ""))
    return audit_log.Filter(
        actor=query.get("actor", "").strip()[:254],
        action=query.get("action", "").strip()[:60],
        start=since,
        end=until + timedelta(days=1) if until else None,
    )


def log(*, tenant: Tenant, query: Mapping[str, str]) -> Log:
    """The tenant's entries that fit, newest first."""
    asked = asked_of(query)
    after = audit_log.Place.read(query.get("after", ""))
    rows, following = audit_log.page(tenant, asked, after=after, size=PAGE_SIZE)
    kept = {name: query[name] for name in ("actor", "action", "from", "to") if query.get(name)}
    return Log(
        rows=tuple(
            Row(row.at, row.actor, row.action, sentence(action=row.action, subject=row.subject, detail=row.detail))
            for row in rows
        ),
        actions=tuple(audit_log.actions(tenant)),
        actor=asked.actor,
        action=asked.action,
        since=query.get("from", "") if asked.start else "",
        until=query.get("to", "") if asked.end else "",
        query=urlencode(kept),
        following=urlencode({**kept, "after": str(following)}) if following else "",
        is_first=after is None,
    )


def _day(text: str) -> datetime | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    in_reach = date(2000, 1, 1) <= found <= date(9000, 1, 1)
    return datetime(found.year, found.month, found.day, tzinfo=UTC) if in_reach else None
