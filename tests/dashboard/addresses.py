"""Every address below a tenant, so that a new page is covered when it is added, and what to fill into it."""

from collections.abc import Callable, Iterator

from django.urls import URLPattern, reverse
from django.utils import timezone

from billing.onboarding import Onboarded
from dashboard.urls import urlpatterns
from tenants import endpoints, invitations
from tenants.models import Invitation, Role, WebhookEndpoint
from tests.billing import mirrored

from .conftest import add_call


def endpoint_of(owned: Onboarded) -> WebhookEndpoint:
    """The tenant's webhook endpoint, made when there is none."""
    found = WebhookEndpoint.objects.filter(tenant=owned.tenant).first()
    return (
        found
        or endpoints.add(tenant=owned.tenant, url="https://hooks.example.com/", events=["alert.fired"], actor="test")[0]
    )


def invited(owned: Onboarded) -> Invitation:
    """An open invitation of the tenant."""
    found = owned.tenant.invitations.first()
    return found or invitations.invite(
        tenant=owned.tenant,
        email="carol@hooli.example",
        role=Role.VIEWER,
        project_ids=None,
        actor="test",
        now=timezone.now(),
    )


# What stands in an address beside the tenant, by its name there: something of the tenant's own that exists.
VALUES: dict[str, Callable[[Onboarded], object]] = {
    "tenant_slug": lambda owned: owned.tenant.slug,
    "invoice_id": lambda owned: mirrored.invoice(owned.account, now=timezone.now()),
    "project_slug": lambda owned: owned.key.project.slug,
    "public_id": lambda owned: owned.key.public_id,
    "endpoint_id": lambda owned: endpoint_of(owned).pk,
    "member_id": lambda owned: owned.tenant.memberships.get(user=owned.user).pk,
    "invitation_id": lambda owned: invited(owned).pk,
    "call_id": lambda owned: add_call(owned.key, timezone.now()),
}


def tenant_pages() -> Iterator[str]:
    """The names of all of them."""
    for pattern in urlpatterns:
        if isinstance(pattern, URLPattern) and "tenant_slug" in pattern.pattern.converters and pattern.name:
            unknown = set(pattern.pattern.converters) - VALUES.keys()
            assert not unknown, f"teach tests/dashboard/addresses.py what {unknown} of {pattern.name} may be"
            yield pattern.name


def address_of(name: str, owned: Onboarded) -> str:
    """The page of this name, about what is the tenant's own."""
    (pattern,) = (one for one in urlpatterns if isinstance(one, URLPattern) and one.name == name)
    return reverse(name, kwargs={part: VALUES[part](owned) for part in pattern.pattern.converters})
