"""Django's PostgreSQL backend with connections that do not wait for ever."""

from types import SimpleNamespace

import psycopg
from django.db.backends.postgresql import base

from . import ServingConnection


class DatabaseWrapper(base.DatabaseWrapper):
    """Differs from Django's only in the class of its connections."""

    Database = SimpleNamespace(**{**vars(psycopg), "connect": ServingConnection.connect})  # type: ignore[assignment]
