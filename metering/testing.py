"""For the tests of metered views: an engine that works inside the test's own transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connection

from tenants import keys

from . import engine
from .database import Connection, Unreachable


class TestsDatabase:
    """Django's own connection in the place of the engine's: what the test's transaction has made is seen, and undone with it."""

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        connection.ensure_connection()
        raw: Any = connection.connection
        try:
            with (
                raw.transaction()
            ):  # a savepoint inside TestCase, so that a failed statement does not end the test's transaction
                yield raw
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise Unreachable(str(error)) from error

    def close(self) -> None:
        pass


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
    with engine.replaced(inline):
        try:
            yield inline
        finally:
            inline.stop()
            keys.cache.clear()
