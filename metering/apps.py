from datetime import UTC, datetime
from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class MeteringConfig(AppConfig):
    name = "metering"
    verbose_name = "Metering"

    def ready(self) -> None:
        from . import checks  # noqa: F401, PLC0415 -- registers itself; needs the loaded apps

        post_migrate.connect(_make_partitions, sender=self)


def _make_partitions(**_: Any) -> None:
    """A migrated database has the partitions of today and the days ahead; the hourly task keeps it so."""
    from . import partitions  # noqa: PLC0415 -- needs the loaded apps

    if "metering_call_default" in partitions.names("metering_call"):
        now = datetime.now(UTC)
        partitions.ensure(calls_from=now, hours_from=now, now=now)
