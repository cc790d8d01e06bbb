"""The demo's Stripe: the simulated one, unless the environment names another server or brings a key of Stripe's test mode."""

import secrets
import string
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config.stack import ports

OWN = ("STRIPE_API_BASE", "STRIPE_TEST_SECRET_KEY", "STRIPE_WEBHOOK_SECRETS", "STRIPE_THIN_WEBHOOK_SECRETS")
THEIRS = {
    "STRIPE_SIMULATOR_API_KEYS": "STRIPE_TEST_SECRET_KEY",
    "STRIPE_SIMULATOR_WEBHOOK_SECRETS": "STRIPE_WEBHOOK_SECRETS",
    "STRIPE_SIMULATOR_THIN_SECRETS": "STRIPE_THIN_WEBHOOK_SECRETS",
}
LETTERS = string.ascii_letters + string.digits


def new_secrets() -> dict[str, str]:
    """Secrets that only this demo and its simulated Stripe know, in the form that Stripe's have."""
    return {
        "STRIPE_TEST_SECRET_KEY": f"sk_test_{_random(32)}",
        "STRIPE_WEBHOOK_SECRETS": f"whsec_{_random(32)}",
        "STRIPE_THIN_WEBHOOK_SECRETS": f"whsec_{_random(32)}",
    }


def _random(length: int) -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(length))


@dataclass(frozen=True, slots=True)
class DemoStripe:
    """Where the demo's Stripe is. `port` is None when it is not ours to start."""

    environment: dict[str, str]
    port: int | None = None

    @property
    def url(self) -> str | None:
        """The simulated Stripe's own pages."""
        return None if self.port is None else f"http://127.0.0.1:{self.port}"

    def command(self, *, state_dir: Path, product_url: str) -> list[str]:
        """What starts the simulated Stripe; it finds its secrets in the environment."""
        webhooks = f"{product_url}/webhooks/stripe"
        return [
            sys.executable, "-m", "sandbox.stripe_simulator", "--port", str(self.port),
            "--state", str(state_dir / "stripe.sqlite3"), "--webhook-url", f"{webhooks},thin={webhooks}/thin",
        ]  # fmt: skip

    @property
    def simulator_environment(self) -> dict[str, str]:
        """The secrets under the names that the simulated Stripe knows."""
        return {name: self.environment[ours] for name, ours in THEIRS.items()}


def chosen(*, environ: Mapping[str, str], kept: Mapping[str, str], kept_port: int | None) -> DemoStripe:
    """The Stripe that the environment names, or a simulated one on the port it had before, if that is free."""
    if environ.get("STRIPE_API_BASE") or environ.get("STRIPE_TEST_SECRET_KEY"):
        return DemoStripe({name: environ[name] for name in OWN if name in environ})
    port = kept_port if kept_port and not ports.answers(kept_port) else ports.free()
    return DemoStripe({"STRIPE_API_BASE": f"http://127.0.0.1:{port}", **{name: kept[name] for name in OWN[1:]}}, port)
