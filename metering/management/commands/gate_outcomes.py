"""`manage.py gate_outcomes --follow FILE`: how the proxy answered what the gateway admitted, out of its access log."""

import argparse
import signal
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from metering.gateway import shipping

IDLE_SECONDS = 0.3


class Command(BaseCommand):
    help = (
        "Follow an access log of the proxy (docs/gateway.md has its format) and tell the gateway how each admitted call was "
        "answered, until SIGTERM or Ctrl-C. Goes on where it was after a restart, and with the new file after a rotation."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--follow", required=True, type=Path, metavar="FILE", help="The access log.")
        parser.add_argument("--url", help="The product's address; default: PUBLIC_URL.")
        parser.add_argument("--position", type=Path, metavar="FILE", help="Where to remember; default: FILE.position.")
        parser.add_argument("--once", action="store_true", help="End when everything that stands there is told.")

    def _follow(self, log: shipping.Log, teller: shipping.Teller, stopping: threading.Event, *, is_once: bool) -> None:
        while not stopping.is_set():
            if not shipping.ship(log, teller, stopping=stopping.is_set, pause=stopping.wait):
                if is_once:
                    return
                stopping.wait(IDLE_SECONDS)

    def handle(self, **options: Any) -> None:
        if not settings.GATE["SECRETS"]:
            raise CommandError("GATE_SECRETS is not set: the secret that outcomes are told with, see docs/gateway.md.")
        path: Path = options["follow"].absolute()
        if not path.parent.is_dir():
            raise CommandError(f"{path.parent} is no folder.")
        position = options["position"] or path.with_name(f"{path.name}.position")
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        url = (options["url"] or settings.PUBLIC_URL).rstrip("/")
        teller = shipping.Teller(f"{url}/gate/outcomes", settings.GATE["SECRETS"][0])
        log = shipping.Log(path, position.absolute())
        try:
            self._follow(log, teller, stopping, is_once=options["once"])
        except shipping.Refused as error:
            raise CommandError(f"{url} refuses outcomes: {error}") from None
        except OSError as error:
            raise CommandError(f"{path} or {position} cannot be used: {error}") from None
        finally:
            log.close()
