"""One small tenant for each state that the pages can be in, made by the product's own code when somebody asks for them.

Making them again makes what is missing and leaves the rest alone.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from django.db import connection
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing import accounts, catalogue, changes, onboarding
from billing.accounts import Agreed
from billing.models import Account
from metering import ledger, partitions, periods, recorder
from tenants import members
from tenants.models import ApiKey, Role, Tenant, User

from . import latencies, simulated, subscribers
from .loading import call_id

ACTOR = "sandbox states"
BEFORE = timedelta(days=12)  # how long the period has run
LOGGED_DAYS = 5
CAPABILITIES = ("database", "database", "database", "auth", "auth", "storage")
SMALL = Agreed(included=2_000)


@dataclass(frozen=True, slots=True)
class State:
    """A state, the tenant that is in it (its slug), and the page that shows it."""

    slug: str
    title: Promise
    explains: Promise
    page: str = "overview"
    query: str = ""
    plan: str = "launch"
    used: int = 0
    refused: int = 0
    agreed: Agreed = Agreed()  # noqa: RUF009 -- frozen
    hard_limit: int | None = None
    at_stripe: str = ""  # what happens there; empty: Stripe does not know the tenant

    @property
    def name(self) -> str:
        return self.slug.replace("-", " ").capitalize()


STATES = (
    State("no-usage-yet", _("No usage yet"), _("One command to copy, and a page that waits for the first call."), plan="free"),
    State(
        "no-result", _("No result for a filter"), _("A filter that nothing answers to, and the way back."),
        page="usage", query="?capability=auth&outcome=refused", plan="free", used=300,
    ),
    State("near-limit", _("Near the limit"), _("More than 90 % of the included calls are used."), plan="free", used=4_690),
    State("over-included", _("Over the included calls"), _("Each further call has a price."), used=2_410, agreed=SMALL),
    State(
        "hard-limit-reached", _("Hard limit reached"), _("Calls are refused until the period ends."),
        used=1_000, refused=140, agreed=SMALL, hard_limit=1_000,
    ),
    State(
        "trial-ending", _("Trial ending"), _("Two days are left; what is due afterwards stands beside it."),
        used=640, at_stripe="trial",
    ),
    State(
        "change-scheduled", _("Plan change scheduled"), _("A smaller plan from the next period on, which can be taken back."),
        plan="scale", used=900, at_stripe="downgrade",
    ),
    State("past-due", _("Past due"), _("The amount, the next attempt, and when service changes."), used=800, at_stripe="past due"),
    State(
        "suspended", _("Suspended"), _("Calls are refused; reading, exporting and paying still work."),
        used=700, at_stripe="unpaid",
    ),
    State(
        "stripe-unreachable", _("Stripe unreachable"), _("What we know ourselves stays; what only Stripe knows is missing."),
        page="pay", used=600, at_stripe="away",
    ),
)  # fmt: skip


def made() -> frozenset[str]:
    """The slugs of the tenants that exist already."""
    return frozenset(Tenant.objects.filter(slug__in=[state.slug for state in STATES]).values_list("slug", flat=True))


def make(*, user: User, now: datetime) -> None:
    """The tenant of every state exists and this user owns it; those that need Stripe only where it is simulated.

    Raises StripeError; what was made until then stays, and the next time goes on from there.
    """
    partitions.ensure(calls_from=now - timedelta(days=LOGGED_DAYS + 1), hours_from=now - BEFORE, now=now)
    if simulated.is_here() and catalogue.missing_versions():
        catalogue.make(now=now)
    for state in STATES:
        if state.at_stripe and not simulated.is_here():
            continue
        tenant = Tenant.objects.filter(slug=state.slug).first() or _open(state, user, now)
        if not tenant.memberships.filter(user=user).exists():
            members.add(tenant=tenant, user=user, role=Role.OWNER, actor=ACTOR)
        _arrange(
            state, Account.objects.select_related("tenant__allowance", "plan_version__plan").get(pk=tenant.pk), now
        )


def _open(state: State, user: User, now: datetime) -> Tenant:
    owned = onboarding.onboard(
        name=state.name, slug=state.slug, email=user.email, plan_code=state.plan, actor=ACTOR, now=now,
        anchor=periods.day_of(now - BEFORE), agreed=state.agreed, hard_limit=state.hard_limit, project_name="Production",
    )  # fmt: skip
    entries = _entries(state, owned.key, periods.containing(owned.account.anchor, now), now)
    if entries:
        connection.ensure_connection()
        ledger.commit(connection.connection, recorder.Batch(entries, {}))
    return owned.tenant


def _entries(state: State, key: ApiKey, period: periods.Period, now: datetime) -> tuple[recorder.Entry, ...]:
    """As many calls as the state says, over the last days; the refused ones come last."""
    random = Random(state.slug)
    span = (now - max(period.start, now - timedelta(days=LOGGED_DAYS))).total_seconds()
    moments = sorted(now.timestamp() - random.random() * span for _ in range(state.used + state.refused))
    points = {name: latencies.quantiles_us(name, is_slow=False) for name in set(CAPABILITIES)}

    def entry(place: int, at: float) -> recorder.Entry:
        capability = random.choice(CAPABILITIES)
        is_served = place < state.used
        outcome, reason, status = ("billable", "", 200) if is_served else ("refused", "quota", 429)
        latency_us = latencies.draw_us(random, points[capability]) if is_served else random.randrange(400, 1600)
        return recorder.Entry(
            str(call_id(at, random)), key.tenant_id, key.project_id, key.pk, capability, outcome, reason, status,
            int(is_served), latency_us, at, period.start.timestamp(), period.end.timestamp(), None,
        )  # fmt: skip

    return tuple(entry(place, at) for place, at in enumerate(moments))


def _arrange(state: State, account: Account, now: datetime) -> None:
    """Stripe knows the tenant, and what the state says has happened there."""
    if not state.at_stripe:
        return
    if account.subscription_id is None and account.fetched_at is None:
        subscribers.subscribe_one(account, now)
        _happen(state.at_stripe, account.pk, now)
    if state.at_stripe == "away" and account.customer_id:
        simulated.lose(customer_id=account.customer_id)


def _happen(what: str, account_id: UUID, now: datetime) -> None:
    account = Account.objects.select_related("tenant__allowance", "plan_version__plan").get(pk=account_id)
    if what == "trial":
        simulated.begin_trial(account, ends_at=now + timedelta(days=2))
    elif what == "downgrade":
        changes.request(account=account, version=accounts.public_version(plan_code="launch"), actor=ACTOR, now=now)
    else:
        simulated.fail_payment(account, prices=accounts.public_version(plan_code="scale").stripe_prices)
        if what == "unpaid":
            simulated.give_up(account)
    subscribers.sync(account, now)
    if what == "away":
        simulated.lose(customer_id=stripe_customer(account_id))


def stripe_customer(account_id: UUID) -> str:
    return Account.objects.values_list("customer_id", flat=True).get(pk=account_id) or ""
