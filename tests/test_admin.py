"""Operators' pages: every table opens, ledgers take no changes, what an operator changes is on record, nobody else gets in."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from billing import accounts
from billing.models import (
    Account,
    BilledPeriod,
    Charge,
    Consent,
    Drift,
    PlanChange,
    PlanVersion,
    ReportingStop,
    StripeEvent,
    StripePrices,
    UsageReport,
)
from billing.onboarding import Onboarded
from metering import adjustments, engine, limits, periods
from metering.models import (
    Adjustment,
    Alert,
    Allowance,
    Batch,
    Call,
    Crossing,
    Lease,
    LimitKind,
    Process,
    Quota,
    SetAside,
    SubLimit,
    UsageHour,
    UsageMonth,
)  # fmt: skip
from metering.recorder import call_id
from tenants import endpoints, invitations, notices
from tenants.models import (
    ApiKey,
    AuditEntry,
    Delivery,
    DeliveryAttempt,
    Event,
    Invitation,
    MailChoice,
    MemberProject,
    Membership,
    Notice,
    Project,
    Role,
    Tenant,
    User,
    WebhookEndpoint,
)
from tests.conftest import MakeTenant
from tests.metering.test_limit_is_exact import attempt, caller_of

MODELS = [model for app in ("tenants", "metering", "billing") for model in apps.get_app_config(app).get_models()]
READ_ONLY = [
    Call,
    UsageHour,
    UsageMonth,
    Adjustment,
    SubLimit,
    Quota,
    Lease,
    Process,
    Batch,
    SetAside,
    AuditEntry,
    Allowance,
    Notice,
    MemberProject,
    Invitation,
    Consent,
    PlanChange,
    StripePrices,
    UsageReport,
    BilledPeriod,
    Charge,
    Drift,
    ReportingStop,
    Alert,
    Crossing,
    Event,
    WebhookEndpoint,
    Delivery,
    DeliveryAttempt,
    MailChoice,
]


def page(model: Any, name: str = "changelist", *arguments: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=arguments)


@pytest.fixture
def operator(committed: None) -> Client:
    """Signed in as an operator with every right."""
    client = Client()
    user = User.objects.create_superuser(f"olivia-{timezone.now().timestamp()}@meterhouse.example")
    client.force_login(user)
    client.operator = user  # type: ignore[attr-defined]
    return client


@pytest.fixture
def acme(committed: None, make_tenant: MakeTenant) -> Onboarded:
    """A tenant that used all of its three calls and was refused two."""
    made = make_tenant(included=3, burst_per_second=10**6)
    attempt(caller_of(made.api_key), 5)
    engine.stop()
    return made


@pytest.fixture
def leftovers(acme: Onboarded) -> Iterator[None]:
    """A lease, a process and a set-aside batch, which a clean stop does not leave; a correction and a limit."""
    limits.put(tenant=acme.tenant, kind=LimitKind.DAY, calls=100, actor="test")
    corrected = Call.objects.filter(tenant=acme.tenant, outcome="billable").values_list("id", flat=True)[0]
    adjustments.apply(
        adjustments.planned_void(tenant=acme.tenant, call_id=corrected), actor="olivia", reason="Served twice."
    )
    now, process = timezone.now(), call_id(timezone.now().timestamp())
    row = {"host": "web-1", "pid": 7, "started_at": now, "renewed_at": now, "expires_at": now, "counted_to": now}
    Process.objects.create(id=process, **row)
    lease = Lease.objects.create(
        id=call_id(now.timestamp()), tenant=acme.tenant, process_id=process, period_start=now, units=1, granted_at=now
    )
    aside = SetAside.objects.create(id=process, tenant_id=acme.tenant.pk, calls=2, error="out of range", records=[])
    rows_about_webhooks(acme)
    others = [seen_project(acme), invitation(acme), *rows_about_stripe(acme)]
    yield
    for row_ in (lease, aside, *others):
        row_.delete()
    Process.objects.filter(pk=process).delete()


def seen_project(acme: Onboarded) -> MemberProject:
    """What a member who is restricted to one project sees."""
    bob = User.objects.create_user(f"bob-{timezone.now().timestamp()}@acme.example")
    membership = acme.tenant.memberships.create(user=bob, role="viewer", is_restricted=True)
    return MemberProject.objects.create(tenant=acme.tenant, membership=membership, project=acme.key.project)


def rows_about_webhooks(acme: Onboarded) -> None:
    """An endpoint with a delivery that failed, and one who was chosen to get mails."""
    endpoint, _ = endpoints.add(
        tenant=acme.tenant, url="https://203.0.114.9/hook", events=["alert.fired"], actor="test"
    )
    delivery = endpoints.test(endpoint=endpoint, actor="test", now=timezone.now())
    DeliveryAttempt.objects.create(delivery=delivery, latency_ms=3, error="Unreachable")
    member = Membership.objects.get(tenant=acme.tenant, user=acme.user)
    notices.choose(tenant=acme.tenant, topic=MailChoice.Topic.ALERTS, membership_ids=[member.pk], actor="test")


def invitation(acme: Onboarded) -> Invitation:
    return invitations.invite(
        tenant=acme.tenant,
        email="carol@acme.example",
        role=Role.VIEWER,
        project_ids=None,
        actor="test",
        now=timezone.now(),
    )


def rows_about_stripe(acme: Onboarded) -> list[Any]:
    """One row of each table that Stripe's events, changes of plan and reports fill."""
    notices.tell(tenant=acme.tenant, kind="payment.failed", key="in_1", title="A payment failed", text="Please look.")
    now, version, account = timezone.now(), acme.account.plan_version, acme.account
    versions: dict[str, Any] = {"account": account, "from_version": version, "to_version": version}
    event = StripeEvent.objects.create(
        id=f"evt_{acme.key.public_id}", kind="snapshot", type="invoice.paid", is_live=False, created_at=now,
        body={"id": "evt_1"},
    )  # fmt: skip
    consent = Consent.objects.create(
        **versions, currency="usd", fee_minor=4900, fallback="block", text="x", given_by="a"
    )
    change = PlanChange.objects.create(
        **versions, kind="automatic", state="announced", consent=consent, requested_by="a", due_at=now
    )
    report = UsageReport.objects.create(
        account=account, subscription_id="sub_1", meter_id="mtr_1", period_start=now, window_start=now,
        window_end=now + timedelta(minutes=1), quantity=5, stamped_at=now,
    )  # fmt: skip
    prices = StripePrices.objects.create(version=version, product_id="prod_1", fee_price_id=f"price_{version.pk}")
    return [event, change, consent, report, prices, *rows_about_billing(acme)]


def rows_about_billing(acme: Onboarded) -> list[Any]:
    """One row of each table about what was billed, and whether all sides agree; what is referred to comes last."""
    account, now = acme.account, timezone.now()
    start, end = now - timedelta(days=30), now
    period = BilledPeriod.objects.create(
        account=account, version=account.plan_version, currency="usd", subscription_id="sub_1", start=start, end=end,
        counts_from=start,
    )  # fmt: skip
    charge = Charge.objects.create(
        account=account, period=period, kind="late", units=2, amount_minor=2, currency="usd", description="Late calls",
        state="written_off",
    )  # fmt: skip
    drift = Drift.objects.create(
        account=account, meter_id="mtr_1", period_start=start, period_end=end, kind="duplicated", units=1, ledger=5,
        reported=5, written_off=0, stripe=6, last_seen=now, detail="Stripe has 1 more than we reported.",
    )  # fmt: skip
    stop = ReportingStop.objects.create(account=account, why="Stripe has 1 more than we reported.")
    return [charge, period, drift, stop]


def post(client: Client, address: str, **fields: object) -> Any:
    """Send a form that Django rendered with these fields; fails when it comes back with errors."""
    response = client.post(address, fields)
    assert response.status_code == 302, [form.errors for form in [response.context["adminform"].form]]
    return response


def entries(tenant: Tenant | None, action: str) -> list[AuditEntry]:
    return list(AuditEntry.objects.filter(tenant=tenant, action=action))


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["stranger", "acme", "initech"])
def test_customers_and_strangers_see_no_admin_page(acme: Onboarded, make_tenant: MakeTenant, who: str) -> None:
    client = Client()
    if who != "stranger":
        client.force_login(acme.user if who == "acme" else make_tenant("Initech").user)
    pages = [page(model, *rest) for model in MODELS for rest in ((), ("add",), ("change", acme.tenant.pk))]
    for address in (reverse("admin:index"), *pages):
        response = client.get(address)
        assert response.status_code == 302
        assert response["Location"].startswith(reverse("admin:login"))


def test_an_operator_without_rights_sees_no_list(acme: Onboarded) -> None:
    client = Client()
    client.force_login(User.objects.create_user(f"new-{timezone.now().timestamp()}@meterhouse.example", is_staff=True))
    model: Any
    for model in MODELS:
        assert client.get(page(model)).status_code == 403


# -- every table opens -------------------------------------------------------------------------------------------------


def test_every_model_has_its_page() -> None:
    assert [model for model in MODELS if not admin.site.is_registered(model)] == []
    assert admin.site.site_header == "Meterhouse operators"


def test_lists_and_rows_open(operator: Client, acme: Onboarded, leftovers: None) -> None:
    model: Any
    for model in MODELS:
        assert operator.get(page(model), {"q": "acme"}).status_code == 200, model
        assert operator.get(page(model)).status_code == 200, model
        of_a_tenant = any(field.name == "tenant" for field in model._meta.get_fields())
        row = (model.objects.filter(tenant=acme.tenant) if of_a_tenant else model.objects.all()).first()
        assert row is not None, model
        shown = operator.get(page(model, "change", quote(row.pk)))
        assert shown.status_code == 200, model
        assert "default-src 'self'" in shown["Content-Security-Policy"], model
        assert operator.get(page(model, "history", quote(row.pk))).status_code == 200, model


@pytest.mark.parametrize("model", [Call, UsageHour, Quota, ApiKey, Membership, Project, Account, Allowance, AuditEntry])
def test_a_list_asks_no_more_for_more_rows(operator: Client, make_tenant: MakeTenant, model: Any) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as asked:
            assert operator.get(page(model)).status_code == 200
        return len(asked)

    one = make_tenant()
    attempt(caller_of(one.api_key), 1)
    engine.stop()
    operator.get(page(model))
    before = queries()
    for _ in range(3):
        attempt(caller_of(make_tenant().api_key), 2)
    engine.stop()
    assert queries() <= before


@pytest.mark.parametrize("key", ["nonsense", "1", "' OR 1=1", "0193-not-a-uuid"])
def test_an_unknown_row_is_an_answer(operator: Client, key: str) -> None:
    for model in (Call, UsageHour, Quota, Lease):
        assert operator.get(page(model, "change", quote(key))).status_code == 302


# -- ledgers -----------------------------------------------------------------------------------------------------------


def test_a_ledger_takes_no_change(operator: Client, leftovers: None) -> None:
    model: Any
    for model in READ_ONLY:
        row = model.objects.first()
        key, chosen = quote(row.pk), {"action": "delete_selected", "_selected_action": [row.pk]}
        for address in (page(model, "add"), page(model, "change", key), page(model, "delete", key)):
            assert operator.post(address, chosen).status_code == 403, address
        answer = operator.post(page(model), chosen)
        assert answer.status_code in {302, 403}, model  # a list with actions of its own says that there is no such one
        assert model.objects.filter(pk=row.pk).exists(), model
        assert b'name="_save"' not in operator.get(page(model, "change", key)).content, model


def test_a_call_is_found_by_its_id_in_one_partition(operator: Client, acme: Onboarded) -> None:
    call = Call.objects.filter(tenant=acme.tenant).latest("occurred_at")
    with CaptureQueriesContext(connection) as asked:
        found = operator.get(page(Call), {"q": str(call.id)})
    assert [one.id for one in found.context["cl"].result_list] == [call.id]
    searches = [query["sql"] for query in asked if 'FROM "metering_call"' in query["sql"]]
    assert searches
    assert all('"occurred_at" >=' in sql and '"occurred_at" <=' in sql for sql in searches)


def test_a_calls_page_names_the_period_that_holds_its_time(operator: Client, acme: Onboarded) -> None:
    call = Call.objects.filter(tenant=acme.tenant).latest("occurred_at")
    (quota,) = Quota.objects.filter(
        tenant=acme.tenant, period_start__lte=call.occurred_at, period_end__gt=call.occurred_at
    )
    found = operator.get(page(Call, "change", quote(str(call.pk))))
    assert f"{quota.period_start:%d %B %Y %H:%M} to {quota.period_end:%d %B %Y %H:%M} (UTC)" in found.content.decode()


def test_an_unnarrowed_list_of_calls_reads_one_day_and_counts_a_few_thousand(operator: Client, acme: Onboarded) -> None:
    with CaptureQueriesContext(connection) as asked:
        operator.get(page(Call))
    searches = [query["sql"] for query in asked if 'FROM "metering_call"' in query["sql"]]
    assert all('"occurred_at" >=' in sql for sql in searches)
    counts = [sql for sql in searches if "COUNT(" in sql]
    assert counts
    assert all("LIMIT" in sql for sql in counts)


def test_calls_of_a_key_are_those_of_that_key_alone(operator: Client, acme: Onboarded, make_tenant: MakeTenant) -> None:
    attempt(caller_of(make_tenant("Globex").api_key), 2)
    engine.stop()
    found = operator.get(page(Call), {"q": acme.key.prefix})
    assert {call.api_key_id for call in found.context["cl"].result_list} == {acme.key.pk}


# -- from a refused call to its reason ---------------------------------------------------------------------------------


def test_a_tenant_is_found_by_the_beginning_of_a_key(
    operator: Client, acme: Onboarded, make_tenant: MakeTenant
) -> None:
    make_tenant("Globex")
    for wanted in (acme.key.prefix, acme.key.public_id, acme.tenant.slug, acme.tenant.email):
        found = operator.get(page(Tenant), {"q": wanted})
        assert [tenant.pk for tenant in found.context["cl"].result_list] == [acme.tenant.pk]


@pytest.mark.parametrize("model", [Tenant, ApiKey, Call, Account, User])
def test_of_a_pasted_key_only_the_public_id_stays(operator: Client, acme: Onboarded, model: Any) -> None:
    sent = operator.get(page(model), {"q": f" Bearer {acme.api_key} ", "o": "1"})
    assert sent.status_code == 302
    assert sent["Location"] == f"{page(model)}?q={acme.key.prefix}&o=1"
    shown = operator.get(sent["Location"])
    secret = acme.api_key.rpartition("_")[2]
    assert secret not in shown.content.decode()
    assert "Only the public id of the key was used." in shown.content.decode()


def test_the_tenants_page_says_why_the_next_call_is_refused(operator: Client, acme: Onboarded) -> None:
    text = operator.get(page(Tenant, "change", acme.tenant.pk)).content.decode()
    assert "What is enforced" in text
    assert "used 3 · reserved 0 · failed 0 · refused 2" in text
    assert "Refused (429, quota-exceeded): all 3 calls are used until" in text
    assert text.count(str(acme.key)) == 2
    assert "<td>quota</td>" in text
    refused = f"{page(Call)}?tenant__id__exact={acme.tenant.pk}&amp;outcome__exact=refused"
    assert refused in text
    found = operator.get(refused.replace("&amp;", "&"))
    assert [call.reason for call in found.context["cl"].result_list] == ["quota", "quota"]


def test_the_tenants_page_of_a_tenant_without_a_plan(
    operator: Client, committed: None, make_tenant: MakeTenant
) -> None:
    globex = make_tenant("Globex")
    assert (
        "Admitted, up to 50 calls a second" in operator.get(page(Tenant, "change", globex.tenant.pk)).content.decode()
    )
    Allowance.objects.filter(tenant=globex.tenant).delete()
    Account.objects.filter(tenant=globex.tenant).delete()
    text = operator.get(page(Tenant, "change", globex.tenant.pk)).content.decode()
    assert "Refused (403, no-plan)" in text
    assert "None: the tenant has no plan." in text


# -- changes are on record ---------------------------------------------------------------------------------------------


def test_revoking_a_key_is_audited(operator: Client, acme: Onboarded) -> None:
    chosen = {"action": "revoke", "_selected_action": [acme.key.pk]}
    assert "Revoked: 1." in operator.post(page(ApiKey), chosen, follow=True).content.decode()
    assert ApiKey.objects.get(pk=acme.key.pk).revoked_at is not None
    (entry,) = entries(acme.tenant, "key.revoked")
    assert entry.actor == operator.operator.email  # type: ignore[attr-defined]
    assert "Revoked: 0." in operator.post(page(ApiKey), chosen, follow=True).content.decode()
    assert len(entries(acme.tenant, "key.revoked")) == 1


def test_the_digest_of_a_key_is_never_shown(operator: Client, acme: Onboarded) -> None:
    text = operator.get(page(ApiKey, "change", acme.key.pk)).content.decode()
    assert "digest" not in text.lower()
    assert operator.post(page(ApiKey, "add")).status_code == 403


def test_changing_a_tenant_is_audited(operator: Client, acme: Onboarded) -> None:
    fields = {"name": "Acme & Sons", "slug": acme.tenant.slug, "email": acme.tenant.email}
    post(operator, page(Tenant, "change", acme.tenant.pk), **fields)
    (entry,) = entries(acme.tenant, "tenant.changed")
    assert entry.detail["changes"] == {"name": {"before": "Acme", "after": "Acme & Sons"}}
    post(operator, page(Tenant, "change", acme.tenant.pk), **fields)
    assert len(entries(acme.tenant, "tenant.changed")) == 1


def test_members_come_and_go_on_record(operator: Client, acme: Onboarded, make_tenant: MakeTenant) -> None:
    bob = make_tenant("Globex").user
    post(operator, page(Membership, "add"), tenant=acme.tenant.pk, user=bob.pk, role="viewer")
    membership = Membership.objects.get(tenant=acme.tenant, user=bob)
    post(operator, page(Membership, "change", membership.pk), role="billing")
    post(operator, page(Membership), action="delete_selected", _selected_action=membership.pk, post="yes")
    assert not Membership.objects.filter(pk=membership.pk).exists()
    (changed,) = entries(acme.tenant, "member.changed")
    assert changed.detail["changes"] == {"role": {"before": "viewer", "after": "billing"}}
    assert len(entries(acme.tenant, "member.removed")) == 1


def test_a_project_beyond_the_plan_is_refused_in_words(
    operator: Client, acme: Onboarded, make_tenant: MakeTenant
) -> None:
    refused = operator.post(page(Project, "add"), {"tenant": acme.tenant.pk, "name": "Second"}, follow=True)
    assert "The plan allows 1 project(s); 1 exist." in refused.content.decode()
    globex = make_tenant("Globex", plan="scale")
    post(operator, page(Project, "add"), tenant=globex.tenant.pk, name="Second")
    assert Project.objects.get(tenant=globex.tenant, slug="second").name == "Second"
    assert "project.added" in {
        entry.action for entry in AuditEntry.objects.filter(tenant=globex.tenant, subject="second")
    }
    again = operator.post(page(Project, "add"), {"tenant": globex.tenant.pk, "name": "Second"}, follow=True)
    assert again.status_code == 200
    assert "Second" in again.content.decode()


def test_a_project_with_keys_is_not_deleted(operator: Client, acme: Onboarded) -> None:
    assert operator.post(page(Project, "delete", acme.key.project_id), {"post": "yes"}).status_code == 403
    assert Project.objects.filter(pk=acme.key.project_id).exists()


def test_a_new_operator_and_a_new_password_are_audited_without_it(operator: Client) -> None:
    email = f"Oscar-{timezone.now().timestamp()}@Meterhouse.example"
    password = "correct horse battery"
    secret = {"usable_password": "true", "password1": password, "password2": password}
    post(operator, page(User, "add"), email=email, name="Oscar", **secret)
    user = User.objects.get(email=email.lower())
    assert user.check_password(password)
    assert b"pbkdf2_sha256" in operator.get(page(User, "change", user.pk)).content
    post(operator, reverse("admin:auth_user_password_change", args=[user.pk]), **{**secret, "password1": password[::-1],
         "password2": password[::-1]})  # fmt: skip
    kept = list(AuditEntry.objects.filter(subject=user.email))
    assert {entry.action for entry in kept} == {"user.added", "user.password_set"}
    assert not any(word in str(entry.detail) for entry in kept for word in (password, password[::-1]))


def test_an_operator_who_is_no_superuser_makes_nobody_one(operator: Client) -> None:
    clerk = User.objects.create_user(f"clerk-{timezone.now().timestamp()}@meterhouse.example", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="tenants"))
    client = Client()
    client.force_login(clerk)
    post(client, page(User, "change", clerk.pk), email=clerk.email, name="Clerk", is_active="on", is_superuser="on")
    clerk.refresh_from_db()
    assert (clerk.name, clerk.is_superuser) == ("Clerk", False)
    boss = operator.operator.pk  # type: ignore[attr-defined]
    assert client.post(page(User, "change", boss), {"email": "x@x.example"}).status_code == 403
    assert client.post(reverse("admin:auth_user_password_change", args=[boss]), {}).status_code == 403


# -- accounts and plans ------------------------------------------------------------------------------------------------


def test_a_hard_limit_needs_a_reason_and_is_enforced(operator: Client, acme: Onboarded) -> None:
    address, version = page(Account, "change", acme.tenant.pk), acme.account.plan_version_id
    without = operator.post(address, {"plan_version": version, "hard_limit": 2, "reason": " "})
    assert without.context["adminform"].form.errors == {"reason": ["This field is required."]}
    post(operator, address, plan_version=version, hard_limit=2, reason="Asked for by mail, ticket 81")
    assert Allowance.objects.get(tenant=acme.tenant).hard_limit == 2
    assert Quota.objects.get(tenant=acme.tenant).admits == 2
    (entry,) = entries(acme.tenant, "hard_limit.set")
    assert (entry.detail["before"], entry.detail["reason"]) == (None, "Asked for by mail, ticket 81")
    assert entry.actor == operator.operator.email  # type: ignore[attr-defined]
    assert entries(acme.tenant, "plan.changed") == []


def test_a_change_of_plan_is_enforced_and_stays_within_the_tenants_versions(
    operator: Client, acme: Onboarded, make_tenant: MakeTenant
) -> None:
    address, scale = page(Account, "change", acme.tenant.pk), accounts.public_version(plan_code="scale")
    others = make_tenant("Globex", included=77).account.plan_version_id
    refused = operator.post(address, {"plan_version": others, "hard_limit": "", "reason": "x"})
    assert "plan_version" in refused.context["adminform"].form.errors
    post(operator, address, plan_version=scale.pk, hard_limit="", reason="Upgrade by phone")
    assert Allowance.objects.get(tenant=acme.tenant).label == "Scale"
    (entry,) = entries(acme.tenant, "plan.changed")
    assert entry.detail["reason"] == "Upgrade by phone"


def test_a_used_version_is_read_only_and_says_why(operator: Client, acme: Onboarded) -> None:
    version = PlanVersion.objects.get(pk=acme.account.plan_version_id)
    address = page(PlanVersion, "change", version.pk)
    text = operator.get(address).content.decode()
    assert "what somebody subscribed to never changes" in text
    assert b'name="_save"' not in text.encode()
    assert operator.post(address, {"fee_minor": 1}).status_code == 403
    assert operator.post(page(PlanVersion, "delete", version.pk), {"post": "yes"}).status_code == 403
    following = text.partition("/planversion/add/?")[2].partition('"')[0].replace("&amp;", "&")
    offered = operator.get(f"{page(PlanVersion, 'add')}?{following}").context["adminform"].form.initial
    assert (offered["included"], offered["number"]) == ("3", str(version.number + 1))


def test_an_unused_version_is_changed_on_record(operator: Client, acme: Onboarded) -> None:
    source = accounts.public_version(plan_code="free")
    fields = {
        name: getattr(source, name)
        for name in ("currency", "fee_minor", "included", "policy", "burst_per_second", "support")
    }
    fields |= {
        "plan": source.plan_id,
        "tenant": acme.tenant.pk,
        "number": 900,
        "unit_price_minor": "0",
        "minimum_minor": 0,
        "trial_days": 0,
    }
    post(operator, page(PlanVersion, "add"), **fields)
    version = PlanVersion.objects.get(tenant=acme.tenant, number=900)
    post(operator, page(PlanVersion, "change", version.pk), **{**fields, "included": 4})
    (entry,) = entries(acme.tenant, "plan_version.changed")
    assert entry.detail["changes"] == {"included": {"before": 5000, "after": 4}}
    post(operator, page(PlanVersion, "delete", version.pk), post="yes")
    assert len(entries(acme.tenant, "plan_version.removed")) == 1


def test_a_change_that_fails_leaves_no_entry(operator: Client, acme: Onboarded, make_tenant: MakeTenant) -> None:
    taken = make_tenant("Globex").tenant.slug
    response = operator.post(
        page(Tenant, "change", acme.tenant.pk), {"name": "x", "slug": taken, "email": "x@x.example"}
    )
    assert response.status_code == 200
    assert entries(acme.tenant, "tenant.changed") == []


def test_the_filter_of_time_widens_with_a_click(operator: Client, acme: Onboarded) -> None:
    for when in ("hour", "day", "week", "all"):
        listed = operator.get(page(Call), {"when": when})
        assert acme.tenant.pk in {call.tenant_id for call in listed.context["cl"].queryset}


# -- months ------------------------------------------------------------------------------------------------------------


def test_a_month_lists_all_tenants_the_largest_first(
    operator: Client, acme: Onboarded, make_tenant: MakeTenant
) -> None:
    globex = make_tenant("Globex")
    attempt(caller_of(globex.api_key), 9)
    engine.stop()
    listed = operator.get(page(UsageMonth)).context["cl"].queryset
    own = [row.tenant_id for row in listed if row.tenant_id in {acme.tenant.pk, globex.tenant.pk}]
    assert own == [globex.tenant.pk, acme.tenant.pk]
    before = periods.months_after(periods.month_of(timezone.now()), -1)
    earlier = operator.get(page(UsageMonth), {"month": f"{before:%Y-%m}"}).context["cl"].queryset
    assert not earlier.filter(tenant=acme.tenant).exists()
    for month in ("all", "nonsense"):
        assert operator.get(page(UsageMonth), {"month": month}).status_code == 200


# -- corrections -------------------------------------------------------------------------------------------------------


def correction_page(acme: Onboarded, outcome: str = "billable") -> tuple[Call, str]:
    call = Call.objects.filter(tenant=acme.tenant, outcome=outcome)[0]
    return call, reverse("admin:metering_adjustment_correct", args=(acme.tenant.id, call.id))


def test_a_call_is_voided_after_its_effect_was_shown(operator: Client, acme: Onboarded) -> None:
    call, address = correction_page(acme)
    assert address in operator.get(page(Call, "change", call.id)).content.decode()
    fields = {"kind": "void", "reason": "Served twice.", "source": "ticket 17"}
    shown = operator.post(address, {**fields, "preview": "1"})
    assert (shown.context["dry_run"].effect.before, shown.context["dry_run"].effect.after) == (3, 2)
    assert not Adjustment.objects.filter(tenant=acme.tenant).exists()
    assert (
        operator.post(address, {**fields, "apply": "1", "seen": "amend 5"}).status_code == 200
    )  # other than what was shown
    assert not Adjustment.objects.filter(tenant=acme.tenant).exists()
    assert operator.post(address, {**fields, "apply": "1", "seen": shown.context["seen"]}).status_code == 302
    made = Adjustment.objects.get(tenant=acme.tenant)
    assert (made.units, made.reason, made.actor) == (-1, "Served twice.", operator.operator.email)  # type: ignore[attr-defined]
    assert address not in operator.get(page(Call, "change", call.id)).content.decode()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "void"}, "required"),
        ({"kind": "amend", "reason": "x"}, "Say what the call costs"),
        ({"kind": "amend", "units": "1", "reason": "x"}, "costs 1 units already"),
    ],
)
def test_a_correction_without_sense_is_refused(
    operator: Client, acme: Onboarded, fields: dict[str, str], message: str
) -> None:
    _, address = correction_page(acme)
    answer = operator.post(address, {**fields, "apply": "1"})
    assert (answer.status_code, message in answer.content.decode()) == (200, True)
    assert not Adjustment.objects.filter(tenant=acme.tenant).exists()


def test_only_operators_with_the_right_correct(acme: Onboarded) -> None:
    _, address = correction_page(acme)
    client = Client()
    client.force_login(User.objects.create_user(f"new-{timezone.now().timestamp()}@meterhouse.example", is_staff=True))
    assert client.get(address).status_code == 403
    client.force_login(acme.user)
    assert client.get(address).status_code == 302
