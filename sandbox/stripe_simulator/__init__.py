"""A simulated Stripe on this machine: stateful, over HTTP, with a clock of its own. No real money, no real network."""

from .endpoints import Endpoint
from .simulator import DEFAULT_SECRET, THIN_SECRET, StripeSimulator
from .world import API_VERSION, Settings

__all__ = ["API_VERSION", "DEFAULT_SECRET", "THIN_SECRET", "Endpoint", "Settings", "StripeSimulator"]
