"""`python -m sandbox.stripe_simulator --port 12111 --state var/stripe.sqlite --webhook-url http://127.0.0.1:8000/webhooks/stripe`."""

import argparse
import os
import signal
import sqlite3
import sys
import threading
from types import FrameType

from .endpoints import Endpoint
from .errors import StripeError
from .server import NotLoopback
from .simulator import DEFAULT_SECRET, THIN_SECRET, StripeSimulator
from .world import Settings


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m sandbox.stripe_simulator", description=__doc__)
    made.add_argument("--host", default="127.0.0.1", help="an address of this machine (loopback only)")
    made.add_argument("--port", type=int, default=12111, help="0 takes a free one")
    made.add_argument("--state", default=":memory:", help="the SQLite file that keeps everything")
    made.add_argument("--webhook-url", default="", metavar="URL[,thin=URL]", help="where snapshot and thin events go")
    made.add_argument("--start", type=int, help="seconds since 1970 at which a new state begins (default: now)")
    made.add_argument("--frozen", action="store_true", help="the clock moves only when told")
    made.add_argument("--seed", type=int, help="makes ids and faults repeatable")
    made.add_argument("--summary-delay", type=float, default=1.0, metavar="SECONDS", help="until usage is visible")
    made.add_argument("--synchronous-meter-checks", action="store_true", help="refuse bad payloads at once")
    made.epilog = (
        "Secrets come from the environment, several separated by commas: STRIPE_SIMULATOR_API_KEYS,"
        " STRIPE_SIMULATOR_WEBHOOK_SECRETS, STRIPE_SIMULATOR_THIN_SECRETS."
    )
    return made


def _secrets(name: str, default: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in os.environ.get(name, default).split(",") if one.strip())


def _endpoints(given: str) -> list[Endpoint]:
    snapshot = _secrets("STRIPE_SIMULATOR_WEBHOOK_SECRETS", DEFAULT_SECRET)
    thin = _secrets("STRIPE_SIMULATOR_THIN_SECRETS", THIN_SECRET)
    found = []
    for url in filter(None, given.split(",")):
        is_thin = url.startswith("thin=")
        found.append(Endpoint(url.removeprefix("thin="), thin if is_thin else snapshot, thin=is_thin))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM."""
    given = parser().parse_args(arguments)
    settings = Settings(
        api_keys=_secrets("STRIPE_SIMULATOR_API_KEYS", Settings.api_keys[0]),
        summary_delay_seconds=given.summary_delay,
        meter_checks="synchronous" if given.synchronous_meter_checks else "asynchronous",
    )
    try:
        stripe = StripeSimulator(
            _endpoints(given.webhook_url), host=given.host, port=given.port, state=given.state, start=given.start,
            is_frozen=given.frozen, seed=given.seed, settings=settings,
        )  # fmt: skip
    except (NotLoopback, StripeError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with stripe:
        sys.stdout.write(f"Simulated Stripe at {stripe.url} (no real money)\n")
        sys.stdout.flush()
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
