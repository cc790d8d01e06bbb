"""`manage.py prepare_demo`: the database is migrated and holds the demo's data. Run by the demo, in one start of Django."""

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor


class Command(BaseCommand):
    help = "Migrate the database and fill it with the demo's data; prints what seed_demo prints."

    def handle(self, **_: Any) -> None:
        try:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                self.stderr.write("  Migrating the database", self.style.NOTICE)
                call_command("migrate", verbosity=0, interactive=False)
            call_command("seed_demo", json=True, stdout=self.stdout, stderr=self.stderr)
            call_command("subscribe_demo", stdout=self.stderr, stderr=self.stderr)
        except (OperationalError, InterfaceError) as error:
            raise CommandError(f"PostgreSQL is unreachable: {error}. Check DATABASE_URL.") from error
