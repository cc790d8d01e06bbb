"""Consent to an automatic upgrade: what is offered, who may give it, what it changes, how it ends."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from billing import accounts, catalogue, changes, consents
from billing.models import Consent, PlanChange
from metering.models import Policy
from tenants.models import AuditEntry
from tests.billing.plan_story import Story, customer, simulated_stripe, subscribed, terms_of
from tests.conftest import MakeTenant


@pytest.fixture
def story(settings: Any, db: None, make_tenant: MakeTenant) -> Iterator[Story]:
    with simulated_stripe(settings) as simulator:
        yield subscribed(simulator, make_tenant)


def given(story: Story, fallback: Policy = Policy.RATE) -> Consent:
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    return consents.give(
        account=story.account, offered=offered, fallback=fallback, actor="owner@acme.example", now=story.now
    )


def test_the_offer_states_prices_and_what_happens(story: Story) -> None:
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    assert (offered.to_version.plan.code, offered.fee_minor, offered.needs_card) == ("scale", 49_00, False)
    for words in ("10 calls that Launch includes", "49.00 USD", "1,000,000 calls", "60 minutes", "never dearer"):
        assert words in offered.text


def test_what_was_agreed_to_is_kept_word_for_word(story: Story) -> None:
    consent = given(story)
    assert "10 calls" in consent.text
    assert (consent.fee_minor, consent.given_by, consent.given_at) == (49_00, "owner@acme.example", story.now)
    assert given(story) == consent
    assert AuditEntry.objects.filter(tenant=story.acme.tenant, action="consent.given").count() == 1


def test_calls_beyond_are_served_with_consent_and_as_chosen_afterwards(story: Story) -> None:
    accounts.set_policy(account=story.account, policy=Policy.BLOCK, actor="owner", now=story.now)
    assert story.account.tenant.allowance.admits == 10
    given(story, Policy.BLOCK)
    assert story.account.tenant.allowance.admits is None
    assert consents.withdraw(account=story.account, actor="owner", now=story.now)
    assert story.account.tenant.allowance.admits == 10
    assert story.consent.end == Consent.End.WITHDRAWN
    assert not consents.withdraw(account=story.account, actor="owner", now=story.now)


def test_what_is_offered_no_more_cannot_be_agreed_to(story: Story) -> None:
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    with pytest.raises(consents.OfferIsStale):
        consents.give(
            account=story.account, offered=replace(offered, fee_minor=48_00), fallback=Policy.RATE, actor="owner",
            now=story.now,
        )  # fmt: skip
    assert not Consent.objects.exists()


def test_globex_on_the_free_plan_leaves_a_card_first(story: Story, make_tenant: MakeTenant, now: datetime) -> None:
    globex = make_tenant("Globex", included=3)
    offered = consents.offer(account=globex.account, now=now)
    assert offered is not None
    assert (offered.to_version.plan.code, offered.bridge_calls, offered.needs_card) == ("launch", 3, True)
    about: dict[str, Any] = {"offered": offered, "actor": "owner", "now": now}
    with pytest.raises(consents.CardNeeded):
        consents.give(account=globex.account, fallback=Policy.BLOCK, **about)
    customer(globex)
    globex.account.refresh_from_db()
    with pytest.raises(consents.FallbackImpossible):
        consents.give(account=globex.account, fallback=Policy.RATE, **about)
    consents.give(account=globex.account, fallback=Policy.BLOCK, **about)
    globex.tenant.allowance.refresh_from_db()
    assert (globex.tenant.allowance.admits, globex.tenant.allowance.included) == (6, 3)


def test_nothing_is_offered_above_the_last_plan_for_sale(story: Story, make_tenant: MakeTenant, now: datetime) -> None:
    initech = make_tenant("Initech", plan="enterprise")
    assert consents.offer(account=initech.account, now=now) is None
    changes.cancel(account=story.account, actor="owner", now=story.now)
    assert consents.offer(account=story.account, now=story.now) is None


def test_a_change_on_request_overtakes_the_consent(story: Story) -> None:
    consent = given(story)
    changes.request(
        account=story.account, version=accounts.public_version(plan_code="scale"), actor="owner", now=story.now
    )
    consent.refresh_from_db()
    assert consent.end == Consent.End.OVERTAKEN
    assert story.change.kind == PlanChange.Kind.UPGRADE


def test_an_upgrade_that_is_being_made_is_not_withdrawn(story: Story) -> None:
    consent = given(story)
    change = PlanChange.objects.create(
        account=story.account, kind=PlanChange.Kind.AUTOMATIC, state=PlanChange.State.SETTLING, consent=consent,
        from_version=consent.from_version, to_version=consent.to_version, requested_by="test", due_at=story.now,
        cut_at=story.now - timedelta(hours=1),
    )  # fmt: skip
    with pytest.raises(consents.TooLate):
        consents.withdraw(account=story.account, actor="owner", now=story.now)
    PlanChange.objects.filter(pk=change.pk).update(state=PlanChange.State.ANNOUNCED)
    assert consents.withdraw(account=story.account, actor="owner", now=story.now)
    assert story.change.state == PlanChange.State.UNDONE


def test_terms_agreed_with_initech_are_not_offered_to_acme(story: Story, make_tenant: MakeTenant) -> None:
    initech = make_tenant("Initech")
    terms_of(initech, "scale", fee_minor=1_00)
    catalogue.make(now=story.now)
    offered = consents.offer(account=story.account, now=story.now)
    assert offered is not None
    assert offered.fee_minor == 49_00
