"""Somebody who came by an invitation's link: signing up offers that address only, counts it as confirmed and opens no
organisation of their own.

The page of an invitation calls `remember` for a visitor who is not signed in, and links to `login` and `sign-up`; both
lead back to it. Whoever has the link has read the mailbox: so it must only ever be mailed, and shown to nobody.
"""

from dataclasses import dataclass

from django.http import HttpRequest

KEY = "invited"


@dataclass(frozen=True, slots=True)
class Invited:
    """Whom the invitation was mailed to, what they were invited to, and the page where they accept it."""

    email: str
    organisation: str
    page: str


def remember(request: HttpRequest, *, email: str, organisation: str, page: str) -> None:
    """Sign-up in this browser is for this address, and ends at `page`, an address of ours."""
    request.session[KEY] = {"email": email.strip().lower(), "organisation": organisation, "page": page}


def invited(request: HttpRequest) -> Invited | None:
    """The invitation this browser came by, if any."""
    found = request.session.get(KEY)
    return Invited(**found) if found else None


def forget(request: HttpRequest) -> None:
    """The invitation was accepted, or is no longer valid."""
    request.session.pop(KEY, None)
