"""`manage.py demo`: from a fresh clone to a running product in one command."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import endings
from config.demo import Demo, DemoError, Options
from config.stack import StackError


class Command(BaseCommand):
    help = (
        "Run the whole product with demo data and live traffic until stopped. Needs nothing but the installed packages."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        default = Options()
        parser.add_argument("--host", default=default.host, help=f"address to listen on (default: {default.host})")
        parser.add_argument("--port", type=int, default=default.port, help=f"default: {default.port}")
        parser.add_argument("--state-dir", type=Path, default=default.state_dir, help=f"default: {default.state_dir}")
        parser.add_argument("--no-traffic", action="store_true", help="no traffic generator")
        parser.add_argument("--fresh", action="store_true", help="forget what an earlier demo in the state folder kept")

    def handle(self, **options: Any) -> None:
        endings.raise_on_first()
        demo = Demo(
            Options(
                host=options["host"],
                port=options["port"],
                state_dir=options["state_dir"],
                traffic=not options["no_traffic"],
                fresh=options["fresh"],
            ),
            self.say,
        )
        try:
            self.welcome(demo, demo.start())
            demo.watch()
        except (DemoError, StackError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.say("Stopping ...")
        finally:
            demo.stop()
        self.say("Stopped; nothing is left running.")

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

    def welcome(self, demo: Demo, document: dict[str, Any]) -> None:
        first = document["tenants"][0]
        lines = [f"\nReady. Dashboard: {document['url']}\n"]
        lines += [f"  {'plan':11} {'e-mail':26} {'password':18} key"]
        for tenant in document["tenants"]:
            lines.append(f"  {tenant['plan']:11} {tenant['email']:26} {tenant['password']:18} {tenant['api_key']}")
        for person in document["also"]:
            lines.append(f"  {'':11} {person['email']:26} {person['password']:18} {person.get('note', '')}")
        admin = document["admin"]
        lines += [f"\nOperators: {admin['url']}   {admin['email']}   {admin['password']}"]
        if document["stripe_simulator"]["url"]:
            lines += [f"Simulated Stripe (no real money): {document['stripe_simulator']['url']}"]
        lines += ["\nTry it, and watch the call arrive on the dashboard:\n"]
        lines += [
            f'  curl -i -H "Authorization: Bearer {first["api_key"]}" {document["url"]}/sandbox/v1/auth/session\n'
        ]
        lines += [f"All of this is in {demo.options.state_dir / 'demo.json'}. Ctrl-C stops everything."]
        self.say("\n".join(lines))
