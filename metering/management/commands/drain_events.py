"""`manage.py drain_events`: events that services put on the stream go into the ledger, until it is stopped."""

import argparse
import logging
import signal
import threading
from typing import Any

import redis
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from metering.database import Database, Unreachable
from metering.events import stream

logger = logging.getLogger(__name__)
IDLE_SECONDS, AWAY_SECONDS = 0.2, 1.0


class Command(BaseCommand):
    help = (
        "Drain the stream of events into the ledger, each exactly once, until SIGTERM or Ctrl-C. Any number of them may run, "
        "on any machine: each takes the shards that no other one is at."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--once", action="store_true", help="End when every shard is empty.")

    def handle(self, **options: Any) -> None:
        if not settings.EVENTS_STREAM_URL:
            raise CommandError("EVENTS_STREAM_URL is not set: the Redis that carries the stream, see docs/events.md.")
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        database = Database()
        try:
            while not stopping.is_set():
                drained = self._round(database)
                if drained == 0 and options["once"]:
                    break
                if not drained:
                    stopping.wait(IDLE_SECONDS if drained == 0 else AWAY_SECONDS)
        finally:
            database.close()

    def _round(self, database: Database) -> int | None:
        """How many entries all shards gave; None while a server is away."""
        try:
            source = stream.client(settings.EVENTS_STREAM_URL)
            return sum(
                stream.drain(shard=stream.shard(place), source=source, database=database).entries
                for place in range(settings.EVENTS_STREAM_SHARDS)
            )
        except (Unreachable, redis.RedisError, OSError) as error:
            logger.warning("Events wait in the stream: %s", str(error).strip() or type(error).__name__)
            return None
