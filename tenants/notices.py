"""Mails that are owed to a tenant's people: written in the transaction of what they tell of, sent afterwards.

A notice is written once for each tenant, kind and key. It is sent at least once: a worker that is killed after the mail
server took a mail, and before that is on record, sends it again.
"""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import transaction
from django.db.models import F

from . import audit, invitation_links
from .models import MailChoice, Membership, Notice, Role, Tenant
from .wording import plain_name

logger = logging.getLogger(__name__)
ATTEMPTS = 10
FIRST_WAIT = timedelta(minutes=2)  # doubled with each attempt: a mail server may be away for most of a day
SENT_AT_A_TIME = 200
TOLD_ROLES = (Role.OWNER, Role.BILLING)
TOPICS = {"alert.fired": MailChoice.Topic.ALERTS, "limit.reached": MailChoice.Topic.ALERTS}
INVITATION = "invitation"


def tell(
    *,
    tenant: Tenant,
    kind: str,
    key: str,
    title: str,
    text: str,
    due_at: datetime | None = None,
    recipient: str = "",
) -> bool:
    """The tenant's people, or this one address, will get this mail once; False when they were told before.

    Part of the caller's transaction.
    """
    told: dict[str, Any] = {
        "recipient": recipient,
        "title": " ".join(title.split())[:200],
        "text": text,
        **({"due_at": due_at} if due_at else {}),
    }
    with transaction.atomic():
        _, is_new = Notice.objects.get_or_create(tenant=tenant, kind=kind[:60], key=key[:120], defaults=told)
    return is_new


def send_due(*, now: datetime) -> int:
    """Every notice that is due was given to the mail server, or waits for its next attempt; how many it took."""
    waiting = Notice.objects.filter(sent_at=None, due_at__lte=now, attempts__lt=ATTEMPTS)
    found = list(waiting.select_related("tenant").order_by("due_at")[:SENT_AT_A_TIME])
    if not found:
        return 0
    connection = get_connection()  # one session with the mail server for all of them
    try:
        connection.open()
    except OSError as error:  # nobody's mail is at fault: no attempt is spent
        logger.warning("The mail server is unreachable, %s or more notices wait: %s", len(found), error)
        return 0
    try:
        return sum(_send(notice, connection, now) for notice in found)
    finally:
        connection.close()


def recipients(tenant: Tenant, kind: str = "") -> list[str]:
    """The members who were chosen for such mails; else the billing address, owners and billing members. Nobody twice."""
    chosen = Membership.objects.filter(mail_choices__topic=TOPICS.get(kind, ""), tenant=tenant, user__is_active=True)
    if addresses := list(chosen.order_by("created_at").values_list("user__email", flat=True)):
        return addresses
    members = Membership.objects.filter(tenant=tenant, role__in=TOLD_ROLES, user__is_active=True)
    found: dict[str, str] = {}
    for address in (tenant.email, *members.order_by("created_at").values_list("user__email", flat=True)):
        found.setdefault(address.lower(), address)
    return list(found.values())


def choose(*, tenant: Tenant, topic: MailChoice.Topic, membership_ids: Iterable[int], actor: str) -> None:
    """Mails of this topic go to these members of the tenant; none chosen: to owners and billing members, as by default."""
    with transaction.atomic():
        Tenant.objects.select_for_update().get(pk=tenant.pk)
        members = list(Membership.objects.filter(tenant=tenant, pk__in=list(membership_ids)).select_related("user"))
        MailChoice.objects.filter(tenant=tenant, topic=topic).delete()
        MailChoice.objects.bulk_create(MailChoice(tenant=tenant, topic=topic, membership=one) for one in members)
        audit.record(
            tenant=tenant, actor=actor, action="mail.recipients_chosen", subject=topic,
            members=sorted(one.user.email for one in members),
        )  # fmt: skip


def _send(notice: Notice, connection: BaseEmailBackend, now: datetime) -> bool:
    if not _claim(notice, now):
        return False
    try:
        first, *others = [notice.recipient] if notice.recipient else recipients(notice.tenant, notice.kind)
        EmailMessage(
            subject=notice.title, body=_body(notice), to=[first], bcc=others, connection=connection,
            headers={"Message-ID": f"<{notice.id}@notices.meterhouse>", "Auto-Submitted": "auto-generated"},
        ).send()  # fmt: skip
    except Exception as error:  # noqa: BLE001 -- one mail that cannot be sent holds up no other
        _fail(notice, error)
        return False
    Notice.objects.filter(pk=notice.pk).update(sent_at=now, error="")
    return True


def _claim(notice: Notice, now: datetime) -> bool:
    """Whether this process sends the notice: its next attempt is moved on before anything is sent."""
    unclaimed = Notice.objects.filter(pk=notice.pk, sent_at=None, attempts=notice.attempts)
    return bool(unclaimed.update(attempts=F("attempts") + 1, due_at=now + FIRST_WAIT * 2**notice.attempts))


def _fail(notice: Notice, error: Exception) -> None:
    said = f"{type(error).__name__}: {error}"
    Notice.objects.filter(pk=notice.pk).update(error=said[:300])
    is_last = notice.attempts + 1 >= ATTEMPTS
    level = logging.ERROR if is_last else logging.WARNING
    ending = "given up" if is_last else "will be tried again"
    logger.log(level, "Notice %s (%s) could not be mailed, %s: %s", notice.pk, notice.kind, ending, said)


def _body(notice: Notice) -> str:
    tenant, text = notice.tenant, notice.text.rstrip()
    if notice.kind == INVITATION:  # the link lies nowhere in the database
        text += f"\n{invitation_links.address(notice.key)}"
    return f"{text}\n\n-- \nMeterhouse, for {plain_name(tenant.name)}\n{settings.PUBLIC_URL}/t/{tenant.slug}/\n"
