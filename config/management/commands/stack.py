"""`manage.py stack`: PostgreSQL and Valkey until stopped."""

import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import endings
from config.stack import Stack, StackError

POLL_SECONDS = 0.2


class Command(BaseCommand):
    help = "Run real PostgreSQL and Valkey servers until stopped; prints DATABASE_URL= and REDIS_URL= lines."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--state-dir", type=Path, default=Path("var/stack"), help="default: var/stack")
        parser.add_argument("--postgres-port", type=int, help="default: a free one")
        parser.add_argument("--redis-port", type=int, help="default: a free one")

    def handle(self, **options: Any) -> None:
        endings.raise_on_first()
        stack = Stack(
            options["state_dir"],
            postgres_port=options["postgres_port"],
            redis_port=options["redis_port"],
            say=self.say,
        )
        try:
            with stack:
                self.run(stack)
        except StackError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.say("Stopped.")

    def run(self, stack: Stack) -> None:
        """Returns never: ends with the signal that stops us, or with the sentence about a server that died."""
        self.stdout.write(f"DATABASE_URL={stack.urls.database_url}\nREDIS_URL={stack.urls.redis_url}")
        self.stdout.flush()
        while not (obituary := stack.dead()):
            time.sleep(POLL_SECONDS)
        raise CommandError(obituary)

    def say(self, line: str) -> None:
        self.stderr.write(line, self.style.NOTICE)
        self.stderr.flush()
