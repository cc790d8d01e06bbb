"""What it costs and what Stripe knows: plans, accounts, changes of plan, and what came from and went to Stripe."""

from .accounts import Account, PaymentState
from .changes import Consent, PlanChange
from .plans import Plan, PlanVersion
from .reconciliation import Drift, ReportingStop
from .stripe import StripeEvent, StripePrices, UsageReport
from .usage import BilledPeriod, Charge

__all__ = [
    "Account", "BilledPeriod", "Charge", "Consent", "Drift", "PaymentState", "Plan", "PlanChange", "PlanVersion",
    "ReportingStop", "StripeEvent", "StripePrices", "UsageReport",
]  # fmt: skip
