"""Connections to PostgreSQL that do not wait for ever. `tenants.postgresql` is the database ENGINE in the settings.

A server that is stopped refuses at once; one that is frozen, or behind a network that swallows packets, says nothing, and
no option of libpq ends a wait for an answer. So each wait has an end on our side, after which the connection is closed:
a request then fails with OperationalError, which is answered 503, instead of holding its thread until none is left.
"""

import select
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen

Result = TypeVar("Result")


class NoAnswer(psycopg.OperationalError):
    """The server said nothing for too long. What was sent may or may not have happened."""


class ImpatientConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that raises NoAnswer after `patience_seconds` without the end of an answer; None: never."""

    patience_seconds: float | None = None

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        try:
            return super().wait(gen, interval, timeout or self.patience_seconds)
        except errors._WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()  # a polite close would wait for the server, too
            message = f"PostgreSQL did not answer within {self.patience_seconds:g} s"
            raise NoAnswer(message) from None


class ServingConnection(ImpatientConnection):
    """What Django's requests use. Commands and tasks may wait: only `limit_waits` sets an end."""


def limit_waits(seconds: float) -> None:
    """From here on Django's connections in this process give up after so many seconds. For processes that serve."""
    ServingConnection.patience_seconds = seconds


def is_dead(connection: "psycopg.Connection[Any]") -> bool:
    """Whether the server has closed the connection: then its socket is readable; a live idle one is silent. No round trip."""
    if connection.closed:
        return True
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))
