"""Who may see and do what: every address below a tenant, every role, reading and changing. A new page adds its row."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from tenants.models import Role

from .addresses import address_of, tenant_pages
from .conftest import Visit, Visitor, be

OWNER, BILLING, DEVELOPER, VIEWER = "owner", "billing", "developer", "viewer"
SOME_DEVELOPER, SOME_VIEWER = "restricted developer", "restricted viewer"  # members for some projects
NOBODY: set[str] = set()
MONEY = {OWNER, BILLING, VIEWER}
WHOLE = {*MONEY, DEVELOPER}
ALL = {*WHOLE, SOME_DEVELOPER, SOME_VIEWER}
PAYS = {OWNER, BILLING}
BUILDS = {OWNER, DEVELOPER, SOME_DEVELOPER}
SHAPES = {OWNER, DEVELOPER}  # projects, which are the whole tenant's


class Row(NamedTuple):
    """Who reads the page and who may post to it; `answer` is what readers get where it is not the page."""

    reads: set[str]
    changes: set[str] = NOBODY
    answer: int = 200


TO_ITS_PAGE = 302  # only posted to: whoever opens it is led to the page with the form
TABLE = {
    "overview": Row(WHOLE),
    "usage": Row(ALL),
    "usage-csv": Row(ALL),
    "calls": Row(ALL),
    "calls-csv": Row(ALL),
    "call": Row(ALL),
    "trends": Row(WHOLE),
    "invoice": Row(MONEY),
    "invoices": Row(MONEY),
    "invoices-csv": Row(MONEY),
    "invoice-detail": Row(MONEY),
    "why": Row(MONEY),
    "plan": Row(MONEY),
    "subscribe": Row(ALL, PAYS, TO_ITS_PAGE),
    "returned": Row(MONEY),
    "change": Row(MONEY, PAYS, 404),  # of no version
    "reactivate": Row(ALL, PAYS, TO_ITS_PAGE),
    "undo": Row(ALL, PAYS, TO_ITS_PAGE),
    "portal": Row(ALL, PAYS, TO_ITS_PAGE),
    "pay": Row(MONEY),
    "state": Row(ALL, NOBODY, TO_ITS_PAGE),
    "limits": Row(WHOLE),
    "policy": Row(ALL, PAYS, TO_ITS_PAGE),
    "set-alert": Row(ALL, PAYS, TO_ITS_PAGE),
    "remove-alert": Row(ALL, PAYS, TO_ITS_PAGE),
    "narrow-limit": Row(ALL, PAYS, TO_ITS_PAGE),
    "recipients": Row(ALL, PAYS, TO_ITS_PAGE),
    "webhooks": Row(WHOLE),
    "add-webhook": Row(ALL, PAYS, TO_ITS_PAGE),
    "webhook": Row(WHOLE),
    "act-on-webhook": Row(ALL, PAYS, TO_ITS_PAGE),
    "hard-limit": Row(ALL, PAYS, TO_ITS_PAGE),
    "consent": Row(ALL, PAYS, TO_ITS_PAGE),
    "withdraw": Row(ALL, PAYS, TO_ITS_PAGE),
    "card": Row(ALL, PAYS, TO_ITS_PAGE),
    "start": Row(ALL, BUILDS),
    "projects": Row(ALL, SHAPES),
    "project": Row(ALL, SHAPES),
    "archive-project": Row(SHAPES, SHAPES),
    "restore-project": Row(SHAPES, SHAPES, TO_ITS_PAGE),
    "keys": Row(ALL),
    "new-key": Row(BUILDS, BUILDS),
    "rotate-key": Row(BUILDS, BUILDS),
    "revoke-key": Row(BUILDS, BUILDS),
    "team": Row(ALL),
    "invite": Row(ALL, {OWNER}, TO_ITS_PAGE),
    "leave": Row(ALL, ALL, TO_ITS_PAGE),  # anybody may go
    "member": Row({OWNER}, {OWNER}),
    "remove-member": Row(ALL, {OWNER}, TO_ITS_PAGE),
    "resend-invitation": Row(ALL, {OWNER}, TO_ITS_PAGE),
    "revoke-invitation": Row(ALL, {OWNER}, TO_ITS_PAGE),
    "settings": Row(WHOLE, {OWNER}),
    "audit": Row(MONEY),
    "audit-csv": Row(MONEY),
}
WRITES = ("INSERT", "UPDATE", "DELETE")


@contextmanager
def reading_only() -> Iterator[None]:
    """Whoever writes in this block fails: PostgreSQL refuses it."""
    with transaction.atomic():
        connection.cursor().execute("SET TRANSACTION READ ONLY")
        yield
        transaction.set_rollback(True)  # the rest of the test may write


@pytest.fixture
def acme(visit: Visit) -> Visitor:
    return visit(plan="launch")


def as_role(acme: Visitor, role: str) -> None:
    if role != OWNER:
        some = [acme.owned.key.project] if role.startswith("restricted") else None
        be(acme.owned.tenant, Role(role.rpartition(" ")[2]), projects=some)
    acme.client.get(f"/t/{acme.slug}/usage")  # what was looked at last is written down now, not later


def test_every_page_has_its_row() -> None:
    assert set(tenant_pages()) == TABLE.keys()


@pytest.mark.parametrize("role", sorted(ALL))
def test_a_role_reads_its_pages_no_others_and_reading_changes_nothing(acme: Visitor, role: str) -> None:
    as_role(acme, role)
    found = {}
    addresses = {name: address_of(name, acme.owned) for name in TABLE}
    for name, row in TABLE.items():
        with reading_only():
            answer = acme.client.get(addresses[name])
            partial = acme.client.get(addresses[name], headers={"HX-Request": "true"})
        found[name] = answer.status_code
        expected = row.answer if role in row.reads else 403
        assert answer.status_code in {expected, 405 if row.changes else expected}, (name, role)
        assert (partial.status_code == 403) == (expected == 403), (name, role)
    assert found


@pytest.mark.parametrize("role", sorted(ALL))
def test_a_role_changes_what_it_may_and_nothing_else(acme: Visitor, role: str) -> None:
    as_role(acme, role)
    addresses = {name: address_of(name, acme.owned) for name in TABLE}
    for name, row in TABLE.items():
        with transaction.atomic(), CaptureQueriesContext(connection) as asked:
            answer = acme.client.post(addresses[name])
            transaction.set_rollback(True)
        if role in row.changes:
            assert answer.status_code not in {403, 405}, (name, role)
            continue
        assert answer.status_code in {403, 405}, (name, role)
        written = [query["sql"] for query in asked if query["sql"].startswith(WRITES)]
        assert not [sql for sql in written if "django_session" not in sql], (name, role)


def test_a_viewer_sees_every_page_and_changes_nothing() -> None:
    forms = [name for name, row in TABLE.items() if row.reads == row.changes]  # nothing to see on them
    assert [name for name, row in TABLE.items() if VIEWER not in row.reads and name not in forms] == []
    assert [name for name, row in TABLE.items() if {VIEWER, SOME_VIEWER} & row.changes] == ["leave"]
