"""Django's PostgreSQL backend with connections that do not wait for ever, and whose health is seen without a question."""

from types import SimpleNamespace

import psycopg
from django.db.backends.postgresql import base

from . import ServingConnection, is_dead


class DatabaseWrapper(base.DatabaseWrapper):
    """Differs from Django's in the class of its connections, and in how it sees that one was closed (CONN_HEALTH_CHECKS)."""

    Database = SimpleNamespace(**{**vars(psycopg), "connect": ServingConnection.connect})  # type: ignore[assignment]

    def is_usable(self) -> bool:
        """Django asks `SELECT 1` once a request; the connection's state and its socket say the same without a round trip.

        A server that is frozen tells by its silence to the next statement, as it would to that question.
        """
        connection = self.connection
        if connection is None or connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
            return False
        return not is_dead(connection)
