"""Who sees what: acme's owner, initech who must see nothing of it, and a person without a tenant."""

from django.test import Client
from django.urls import reverse

from tenants.models import User

from .addresses import address_of, tenant_pages
from .conftest import Visit

ASKS_FOR_MORE = {"change": "?to=no-such-version"}  # 404 without it, to everybody


def test_initech_sees_nothing_of_acme(visit: Visit) -> None:
    acme, initech = visit("Acme"), visit("Initech")
    addresses = {name: address_of(name, acme.owned) for name in tenant_pages()}
    assert len(addresses) > 40
    for name, address in addresses.items():
        assert acme.client.get(address).status_code in ({404} if name in ASKS_FOR_MORE else {200, 302}), address
        assert initech.client.post(address).status_code in {404, 405}, address
        for headers in ({}, {"HX-Request": "true"}):
            answer = initech.client.get(address, headers=headers)
            assert answer.status_code == 404, address
            assert acme.owned.tenant.email not in answer.content.decode(), address
        assert initech.client.get(address.replace(acme.slug, "no-such-tenant")).status_code == 404, address


def test_signed_out_visitors_are_sent_to_sign_in(visit: Visit) -> None:
    owned, stranger = visit().owned, Client()
    for name in tenant_pages():
        address = address_of(name, owned)
        answer = stranger.get(address)
        assert answer.status_code == 302, address
        assert answer["Location"] == f"/login?next={address}"


def test_a_poll_whose_session_ended_sends_the_browser_to_sign_in(visit: Visit) -> None:
    """The browser follows the redirect and keeps the htmx header: the answer must not be a form to swap in."""
    address = reverse("overview", args=[visit().slug])
    answer = Client().get(f"/login?next={address}", headers={"HX-Request": "true"})
    assert answer.status_code == 200
    assert answer["HX-Redirect"] == f"/login?next={address}"
    assert not answer.content


def test_another_tenants_project_and_key_never_show(visit: Visit) -> None:
    acme, initech = visit("Acme"), visit("Initech")
    for by in ("project", "key"):
        assert acme.owned.key.public_id not in initech.page(f"usage?by={by}")


def test_home_leads_to_the_tenant_last_looked_at(visit: Visit) -> None:
    acme, globex = visit("Acme"), visit("Globex")
    globex.owned.tenant.memberships.create(user=acme.owned.user, role="viewer")
    assert acme.client.get("/")["Location"] == f"/t/{acme.slug}/"
    acme.client.get(f"/t/{globex.slug}/usage")
    assert acme.client.get("/")["Location"] == f"/t/{globex.slug}/"
    globex.owned.tenant.memberships.filter(user=acme.owned.user).delete()
    assert acme.client.get("/")["Location"] == f"/t/{acme.slug}/"


def test_home_of_the_signed_out_is_sign_in(db: None) -> None:
    assert Client().get("/")["Location"] == "/login"


def test_a_person_without_a_tenant_is_told_what_to_do(db: None, client: Client) -> None:
    client.force_login(User.objects.create_user("nobody@example.com", "x"))
    text = client.get("/").content.decode()
    assert "not a member of any tenant" in text
    assert "nobody@example.com" in text


def test_a_tenant_without_a_plan_is_told_so(visit: Visit) -> None:
    acme = visit()
    acme.owned.account.delete()
    assert "No plan yet" in acme.page()


def test_the_switcher_lists_only_own_tenants(visit: Visit) -> None:
    acme, globex, initech = visit("Acme"), visit("Globex"), visit("Initech")
    globex.owned.tenant.memberships.create(user=acme.owned.user, role="viewer")
    text = acme.page()
    assert f"/t/{globex.slug}/" in text
    assert initech.slug not in text


def test_only_operators_see_the_way_to_the_admin(visit: Visit) -> None:
    acme = visit()
    assert "Operator admin" not in acme.page()
    acme.owned.user.is_staff = True
    acme.owned.user.save(update_fields=["is_staff"])
    assert "Operator admin" in acme.page()
