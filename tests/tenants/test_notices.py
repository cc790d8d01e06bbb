"""Mails that are owed: told once, sent to the right people, tried again, and never mixed between tenants."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core import mail
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connections, transaction
from pytest_django import Settings

from tenants import notices
from tenants.models import Membership, Notice, Role, User
from tests.conftest import MakeTenant

HERE = "tests.tenants.test_notices"
TOLD: dict[str, Any] = {"kind": "payment.failed", "key": "in_1", "title": "A payment failed", "text": "Please look."}


class Refusing(BaseEmailBackend):
    """A mail server that refuses every mail to globex and takes the others."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        for message in email_messages:
            if "globex" in message.to[0]:
                raise OSError("550 no such mailbox")
            mail.outbox.append(message)
        return len(email_messages)


class Away(BaseEmailBackend):
    """A mail server that cannot be reached."""

    def open(self) -> bool:
        raise ConnectionRefusedError("no route")


def test_a_notice_is_told_once(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme, globex = make_tenant(), make_tenant("Globex")
    assert notices.tell(tenant=acme.tenant, **TOLD)
    assert not notices.tell(tenant=acme.tenant, **{**TOLD, "text": "Another text."})
    assert notices.tell(tenant=acme.tenant, **{**TOLD, "key": "in_2"})
    assert notices.tell(tenant=globex.tenant, **TOLD)
    assert notices.send_due(now=now + timedelta(seconds=5)) == 3
    assert notices.send_due(now=now + timedelta(days=5)) == 0
    assert len(mail.outbox) == 3
    assert {message.body.splitlines()[0] for message in mail.outbox} == {"Please look."}


def test_what_is_rolled_back_is_not_told(db: None, make_tenant: MakeTenant) -> None:
    acme = make_tenant()
    with transaction.atomic():
        assert notices.tell(tenant=acme.tenant, **TOLD)
        transaction.set_rollback(True)
    assert not Notice.objects.filter(tenant=acme.tenant).exists()


def test_many_at_once_tell_it_once(committed: None, make_tenant: MakeTenant) -> None:
    acme, answers = make_tenant(), []

    def run() -> None:
        try:
            answers.append(notices.tell(tenant=acme.tenant, **TOLD))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]


def test_mail_goes_to_the_billing_address_owners_and_billing_members(
    db: None, make_tenant: MakeTenant, now: datetime
) -> None:
    acme, initech = make_tenant(), make_tenant("Initech")
    roles = {"clerk": Role.BILLING, "dora": Role.DEVELOPER, "vera": Role.VIEWER, "gone": Role.OWNER}
    for name, role in roles.items():
        user = User.objects.create_user(f"{name}@acme.example", is_active=name != "gone")
        Membership.objects.create(tenant=acme.tenant, user=user, role=role)
    acme.tenant.email = acme.user.email.upper()  # the owner's own: told once
    acme.tenant.save()
    notices.tell(tenant=acme.tenant, **TOLD)
    notices.send_due(now=now + timedelta(seconds=5))
    (message,) = mail.outbox
    assert (message.to, message.bcc) == ([acme.tenant.email], ["clerk@acme.example"])
    assert f"/t/{acme.tenant.slug}/" in message.body
    assert initech.tenant.slug not in message.message().as_string()


def test_a_notice_waits_for_its_time(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    notices.tell(tenant=acme.tenant, **TOLD, due_at=now + timedelta(hours=1))
    assert notices.send_due(now=now + timedelta(minutes=59)) == 0
    assert notices.send_due(now=now + timedelta(hours=1)) == 1


def test_a_title_of_two_lines_adds_no_header(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    notices.tell(tenant=make_tenant().tenant, **{**TOLD, "title": "Paid\r\nBcc: eve@evil.example"})
    notices.send_due(now=now + timedelta(seconds=5))
    (message,) = mail.outbox
    assert message.message()["Subject"] == "Paid Bcc: eve@evil.example"
    assert message.message()["Bcc"] is None


def test_a_mail_that_is_refused_is_tried_ten_times_and_holds_up_no_other(
    db: None, make_tenant: MakeTenant, now: datetime, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMAIL_BACKEND = f"{HERE}.Refusing"
    acme, globex = make_tenant(), make_tenant("Globex")
    notices.tell(tenant=globex.tenant, **TOLD, due_at=now)
    notices.tell(tenant=acme.tenant, **TOLD, due_at=now + timedelta(seconds=1))
    at, taken = now + timedelta(seconds=2), 0
    for _ in range(12):
        taken += notices.send_due(now=at)
        at += timedelta(days=1)
    assert taken == len(mail.outbox) == 1
    stuck = Notice.objects.get(tenant=globex.tenant)
    assert (stuck.attempts, stuck.sent_at, stuck.error) == (10, None, "OSError: 550 no such mailbox")
    assert [record.levelname for record in caplog.records if "could not be mailed" in record.message][-1] == "ERROR"


def test_the_next_attempt_waits_twice_as_long(
    db: None, make_tenant: MakeTenant, now: datetime, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = f"{HERE}.Refusing"
    globex = make_tenant("Globex")
    notices.tell(tenant=globex.tenant, **TOLD, due_at=now)
    waits = []
    at = now
    for _ in range(4):
        notices.send_due(now=at)
        due_at = Notice.objects.get(tenant=globex.tenant).due_at
        waits.append((due_at - at) // timedelta(minutes=1))
        at = due_at
    assert waits == [2, 4, 8, 16]


def test_a_mail_server_that_is_away_costs_no_attempt(
    db: None, make_tenant: MakeTenant, now: datetime, settings: Settings
) -> None:
    settings.EMAIL_BACKEND = f"{HERE}.Away"
    acme = make_tenant()
    notices.tell(tenant=acme.tenant, **TOLD, due_at=now)
    assert notices.send_due(now=now) == 0
    assert Notice.objects.get(tenant=acme.tenant).attempts == 0
    settings.EMAIL_BACKEND = f"{HERE}.Refusing"
    assert notices.send_due(now=now) == 1


def test_a_notice_that_another_worker_has_taken_is_left_to_it(db: None, make_tenant: MakeTenant, now: datetime) -> None:
    acme = make_tenant()
    notices.tell(tenant=acme.tenant, **TOLD, due_at=now)
    notice = Notice.objects.get(tenant=acme.tenant)
    assert notices._claim(notice, now)
    assert not notices._claim(notice, now)
    assert notices.send_due(now=now) == 0
    assert notices.send_due(now=now + timedelta(minutes=2)) == 1  # that worker was killed
