"""Repairs what lost events leave behind: accounts that Stripe knows are read again, the ones in trouble every minute.

A sweep decides by the clock and by what was read last, so that no event is needed for anything to come right.
"""

import logging
import time
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet

from . import payment_mails, subscriptions
from .errors import StripeNotConfigured, StripeUnavailable
from .models import Account, PaymentState, PlanChange

logger = logging.getLogger(__name__)
READ_AGAIN = timedelta(hours=6)
READ_AGAIN_IN_TROUBLE = timedelta(seconds=55)  # each run of a sweep that runs every minute
TRIAL_TOLD = timedelta(days=3)  # before its end, as Stripe's event does
RUN_SECONDS = 50.0
OUTAGES_IN_A_ROW = 3  # then the run ends: the rest waits for the next one instead of for its own timeout


def sweep(*, now: datetime, limit: int = 2_000) -> int:
    """Every account that is due follows what Stripe has now, as far as a run's time goes; how many were read."""
    started, read, outages = time.monotonic(), 0, 0
    # In any order: accounts that fail every time must not keep the others from their turn.
    for account_id in due(now=now).order_by("?").values_list("pk", flat=True)[:limit]:
        passed = time.monotonic() - started
        try:
            _read(account_id, now + timedelta(seconds=passed))
        except (StripeUnavailable, StripeNotConfigured) as error:
            outages += 1
            logger.warning("Account %s could not be read from Stripe: %s", account_id, error)
        except Exception:  # one account that cannot be read holds up no other
            logger.exception("Account %s could not be brought up to date with Stripe", account_id)
        else:
            outages, read = 0, read + 1
        if outages == OUTAGES_IN_A_ROW or passed > RUN_SECONDS:
            break
    return read


def due(*, now: datetime) -> QuerySet[Account]:
    """Accounts that Stripe knows and whose last reading is too old for the state they are in."""
    changes = PlanChange.objects.filter(account=OuterRef("pk"), state__in=PlanChange.OPEN_STATES)
    in_trouble = (
        Q(state__in=(PaymentState.PAST_DUE, PaymentState.RESTRICTED))
        | Q(Exists(changes))
        | Q(subscription_id__isnull=False) & _has_ended(now)
    )
    is_old = Q(fetched_at=None) | Q(fetched_at__lte=now - READ_AGAIN)
    is_stale = Q(fetched_at__lte=now - READ_AGAIN_IN_TROUBLE)
    return Account.objects.filter(is_old | (is_stale & in_trouble), customer_id__isnull=False)


def _has_ended(now: datetime) -> Q:
    """Something ran out that Stripe had dated: period, trial or subscription."""
    return Q(period_end__lte=now) | Q(trial_ends_at__lte=now, state=PaymentState.TRIALING) | Q(cancels_at__lte=now)


def _read(account_id: UUID, now: datetime) -> None:
    account = subscriptions.sync(account_id=account_id, now=now)
    payment_mails.tell_unpaid(account=account)
    if account.trial_ends_at is not None and account.trial_ends_at - now <= TRIAL_TOLD:
        payment_mails.tell_trial_ending(account=account)
