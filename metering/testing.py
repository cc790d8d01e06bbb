"""For the tests of metered views: an engine that works inside the test's own transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection, transaction
from psycopg.pq import TransactionStatus

from tenants import keys

from . import engine
from .database import Connection, Unreachable


class TestsDatabase:
    """Django's own connection in the place of the engine's: what the test's transaction has made is seen, and undone with it."""

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        try:
            with transaction.atomic():  # inside TestCase a savepoint: a failed statement ends no more than itself
                yield _raw()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unreachable(str(error)) from error

    def close(self) -> None:
        pass


def _raw() -> Any:
    connection.ensure_connection()
    return connection.connection


@contextmanager
def inline_metering() -> Iterator[engine.Engine]:
    """Inside, metered calls are admitted and recorded on the test's connection, each before its answer: no thread, nothing left.

    For Django's TestCase and pytest-django's `db`, in one thread:

        with inline_metering():
            self.client.get("/storage", headers={"authorization": f"Bearer {key}"})
        assert Call.objects.count() == 1
    """
    keys.cache.clear()
    inline = engine.Engine(database=TestsDatabase(), inline=True)
    try:
        with engine.replaced(inline):
            yield inline
    finally:
        keys.cache.clear()
        if _raw().info.transaction_status != TransactionStatus.INERROR:  # then all is undone, and the test says why
            inline.stop()


class InlineMetering:
    """Each test of the class runs inside `inline_metering()`, async ones too: `class StorageTest(InlineMetering, TestCase)`."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.enterContext(inline_metering())  # type: ignore[attr-defined]
