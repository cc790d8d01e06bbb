"""What `manage.py doctor` says of Stripe: whether it answers, and what waits between Stripe and us."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings

from billing import catalogue, invariants, stripe_api
from billing.models import PlanChange, ReportingStop, StripeEvent
from billing.stripe_api import StripeError
from config.findings import Finding, information, ok, problem
from tenants.models import Tenant

UNHANDLED = timedelta(minutes=5)
UNFINISHED = timedelta(minutes=15)
NAMED = 3


def is_connected() -> bool:
    return bool(settings.STRIPE_LIVE_SECRET_KEY if settings.STRIPE_LIVE_MODE else settings.STRIPE_TEST_SECRET_KEY)


def at_stripe() -> Iterator[Finding]:
    """Stripe is optional: without it everything but payment works. With it, it takes our key."""
    if not is_connected():
        yield information("Stripe", "not connected: no key is set", "docs/stripe.md says how to connect it.")
        return
    mode = "live" if settings.STRIPE_LIVE_MODE else "test"
    try:
        account_id = stripe_api.account_id()
    except StripeError as error:
        yield problem("Stripe", str(error), "Customers keep what they have; nothing is lost meanwhile.")
        return
    where = "" if settings.STRIPE_IS_REAL else f", at {settings.STRIPE_API_BASE}: no real money"
    yield ok("Stripe", f"{account_id} in {mode} mode, API version {settings.STRIPE_API_VERSION}{where}")


def in_database(*, now: datetime) -> Iterator[Finding]:
    """Every version that is sold has its prices, and no event or change of plan is stuck."""
    if not is_connected():
        return
    yield catalogued([str(version) for version in catalogue.missing_versions()])
    failed = StripeEvent.objects.filter(state=StripeEvent.State.FAILED).count()
    late = StripeEvent.objects.filter(state=StripeEvent.State.RECEIVED, received_at__lt=now - UNHANDLED).count()
    yield events(failed=failed, late=late)
    stuck = PlanChange.objects.filter(state__in=PlanChange.OPEN_STATES, due_at__lt=now - UNFINISHED)
    yield changes([change.account.tenant.slug for change in stuck.select_related("account__tenant")])
    stopped = ReportingStop.objects.filter(released_at=None).select_related("account__tenant")
    yield reconciliation(stopped=[one.account.tenant.slug for one in stopped], broken=_broken())


def _broken() -> list[str]:
    """What does not hold between ledger and Stripe, with the tenants' names."""
    found = [one for violations in invariants.broken().values() for one in violations]
    tenants = Tenant.objects.in_bulk({one.tenant_id for one in found})
    return [f"{tenants[one.tenant_id].slug}: {one.detail}" for one in found if one.tenant_id in tenants]


def catalogued(missing: list[str]) -> Finding:
    """Nobody is offered a version that Stripe does not know."""
    if missing:
        return problem("Catalogue", f"not at Stripe: {', '.join(missing)}", "Run `uv run manage.py stripe_catalogue`.")
    return ok("Catalogue", "every version that is sold has its prices")


def events(*, failed: int, late: int) -> Finding:
    """What Stripe told us was acted on."""
    if failed:
        mend = "Read their errors in the admin under Stripe events; when the cause is gone, replay them there."
        return problem("Stripe events", f"{failed} failed, {late} wait for more than 5 minutes", mend)
    if late:
        return problem(
            "Stripe events", f"{late} wait for more than 5 minutes", "See that a Celery worker and beat run."
        )
    return ok("Stripe events", "none waits")


def changes(slugs: list[str]) -> Finding:
    """No customer waits for a change of plan."""
    if slugs:
        mend = "The worker's log names the cause, most often that Stripe cannot be reached; they go on by themselves."
        return problem("Plan changes", f"under way for more than 15 minutes: {', '.join(slugs)}", mend)
    return ok("Plan changes", "none is stuck")


def reconciliation(*, stopped: list[str], broken: list[str]) -> Finding:
    """Ledger and Stripe agree as far as the last reconciliation tells, and everybody's usage is reported."""
    mend = (
        "Run `uv run manage.py reconcile`: it names each difference with its mend (docs/reconciliation.md). Then release the "
        "tenants in the admin under Drift, with the reason."
    )
    said = [*broken[:NAMED], *([f"and {len(broken) - NAMED} more"] if len(broken) > NAMED else [])]
    if stopped:
        said.append(f"reporting is stopped for {', '.join(stopped)}")
    if said:
        return problem("Reconciliation", "; ".join(said), mend)
    return ok("Reconciliation", "ledger and Stripe agree as far as the last one tells, and no reporting is stopped")
