"""`manage.py traffic`: live calls to a product on this machine, until stopped."""

import argparse
import signal
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from sandbox.traffic import Generator, TrafficError, sources


class Command(BaseCommand):
    help = "Call the sandbox's product API like a few customers would, in a daily and weekly rhythm. Loopback only."
    requires_system_checks = ()

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--url", required=True, help="Where the product is, for example http://127.0.0.1:8000.")
        parser.add_argument("--keys-file", required=True, type=Path, help="demo.json, or tenants with their api_keys.")
        parser.add_argument(
            "--rate", type=calls_per_second, default=4.0, help="Calls a second, on average over a week."
        )
        parser.add_argument("--seed", type=int, default=None, help="Makes the sequence of calls repeatable.")
        parser.add_argument("--seconds", type=float, default=None, help="Stop after so many seconds.")

    def handle(self, *_: Any, **options: Any) -> None:
        try:
            found = sources(options["keys_file"])
            generator = Generator(
                url=options["url"], found=found, calls_per_second=options["rate"], seed=options["seed"]
            )
        except TrafficError as error:
            raise CommandError(str(error)) from error
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: generator.stop())
        self.stderr.write(f"  {options['rate']:g} calls a second to {options['url']}", self.style.NOTICE)
        generator.run(seconds=options["seconds"])
        answered = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(generator.answers.items()))
        self.stderr.write(f"  Answers by status: {answered or 'none'}", self.style.NOTICE)


def calls_per_second(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1000:  # noqa: PLR2004
        raise argparse.ArgumentTypeError("a rate is above 0 and at most 1,000 calls a second")
    return value
