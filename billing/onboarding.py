"""A tenant from nothing to the first call: tenant, owner, project, key, account and allowance in one transaction."""

import secrets
from dataclasses import dataclass
from datetime import datetime

from django.db import transaction

from tenants import directory, keys, members, people
from tenants.models import ApiKey, Role, Tenant, User

from . import accounts
from .models import Account


@dataclass(frozen=True, slots=True)
class Onboarded:
    """What the customer needs to begin. `password` is None for a person who had one already, or chose it."""

    tenant: Tenant
    account: Account
    user: User
    password: str | None
    key: ApiKey
    api_key: str


def onboard(
    *,
    name: str,
    email: str,
    plan_code: str,
    actor: str,
    now: datetime,
    slug: str | None = None,
    anchor: datetime | None = None,
    agreed: accounts.Agreed = accounts.Agreed(),  # noqa: B008 -- frozen
    hard_limit: int | None = None,
    project_name: str = "Default",
    password: str | None = None,
) -> Onboarded:
    """The tenant exists, its owner can sign in and its key works. Raises UnknownPlan, SlugTaken or ValidationError.

    A person who chose a `password` signs up: their address must be new (people.EmailTaken), and is not confirmed yet.
    """
    with transaction.atomic():
        tenant = directory.open_tenant(name=name, email=email, actor=actor, slug=slug)
        user, drawn = _owner(email) if password is None else (_newcomer(email, password), None)
        members.add(tenant=tenant, user=user, role=Role.OWNER, actor=actor)
        account = accounts.open_account(
            tenant=tenant,
            plan_code=plan_code,
            actor=actor,
            now=now,
            anchor=anchor,
            agreed=agreed,
            hard_limit=hard_limit,
        )
        project = directory.add_project(tenant=tenant, name=project_name, actor=actor)
        key, api_key = keys.issue(project=project, name="First key", actor=actor, created_by=user)
    return Onboarded(tenant, account, user, drawn, key, api_key)


def _owner(email: str) -> tuple[User, str | None]:
    user = User.objects.filter(email=email.strip().lower()).first()
    if user is not None:
        return user, None
    password = secrets.token_urlsafe(12)
    return User.objects.create_user(email, password), password


def _newcomer(email: str, password: str) -> User:
    return people.register(email=email, password=password, is_confirmed=False)
