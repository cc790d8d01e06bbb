"""Calls that were admitted and whose outcome is told later: held in the database from the flush on, until they are settled.

Their units move from the lease of the process that admitted them to one of the holder, a process that never dies (`metering_hold`,
migration 0011). A kill after that loses nothing; before it, what a kill of a view's process loses.
"""

import uuid
from collections.abc import Sequence
from uuid import UUID

from .database import Connection
from .recorder import Entry, Settled

HOLDER = UUID("6d657465-7268-8675-8365-686f6c646572")
HOLD = "SELECT * FROM metering_hold(%s, %s, %s, %s::uuid[], %s, %s, %s, %s, %s, %s)"


def hold(connection: Connection, batch_id: UUID, entries: Sequence[Entry]) -> list[Settled]:
    """The calls wait in the database, each once; empty when they do already. Raises psycopg's errors."""
    parameters = (
        uuid.uuid5(batch_id, "held"), HOLDER, [e.tenant_id for e in entries], [e.id for e in entries],
        [e.project_id for e in entries], [e.key_id for e in entries], [e.capability for e in entries],
        [e.units for e in entries], [e.occurred_at for e in entries], [e.lease_id for e in entries],
    )  # fmt: skip
    return [Settled(*row) for row in connection.execute(HOLD, parameters)]
