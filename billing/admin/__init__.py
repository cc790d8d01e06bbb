"""The operators' pages of billing; each module registers its own."""

from . import accounts, corrections, drifts, plans, records, stripe_events

__all__ = ["accounts", "corrections", "drifts", "plans", "records", "stripe_events"]
