"""The examples of the pages about ways in: each runs as it stands there, against real web processes."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.conf import settings
from pytest_django import DjangoDbBlocker
from standardwebhooks import Webhook

from billing.onboarding import Onboarded
from metering import engine, invariants
from metering.database import Database
from metering.events import stream
from metering.models import Call
from tenants import keys
from tests.conftest import ROOT, MakeTenant, Product, products, wait_until
from tests.metering.ledger import books

pytestmark = pytest.mark.usefixtures("committed")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="The pages' examples use curl, which is not here.")
SECRET = "a secret that only this test's proxy knows"
SCOPES = frozenset({"calls", "events:write", "usage:read"})


@pytest.fixture(scope="module")
def product(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    with django_db_blocker.unblock(), products(tmp_path_factory.mktemp("product")) as start:
        yield start(workers=1, GATE_SECRETS=SECRET)


def examples(page: str, language: str = "bash") -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, page
    return found


def told(example: str, **variables: str) -> tuple[str, Any]:
    """What the command prints: the status line and fields, where it asks for them, and the document."""
    done = subprocess.run(
        ["bash", "-euc", example], env={"PATH": os.environ["PATH"], **variables}, capture_output=True, text=True,
        timeout=30, check=True,
    )  # fmt: skip
    head, _, body = done.stdout.partition("\n\n") if done.stdout.startswith("HTTP/") else ("", "", done.stdout)
    return head, json.loads(body) if body else None


@needs_curl
def test_the_examples_of_ways_in(product: Product, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    key, secret = keys.issue(project=acme.key.project, name="all", actor="test", scopes=SCOPES)
    view, gate, outcome, asks, tells = examples("ways-in.md")
    known = {"URL": product.url, "KEY": secret}
    assert told(view, **known)[0].startswith("HTTP/1.1 200")
    head, _ = told(gate, **known)
    assert head.startswith("HTTP/1.1 204")
    (call_id,) = re.findall(r"Meterhouse-Call-Id: (\S+)", head)
    assert told(outcome, CALL=call_id, GATE_SECRET=SECRET, **known)[1]["settled"] == 1
    assert told(asks, **known)[1]["events"][0]["status"] == "accepted"
    assert told(tells, **known)[1]["accepted"] == 2
    (code,) = examples("ways-in.md", "python")
    about = {"stream_url": settings.REDIS_URL, "tenant_id": str(acme.tenant.id), "key_prefix": key.prefix}
    exec(compile(code, "docs/ways-in.md", "exec"), about)  # noqa: S102 -- our own page
    drain(stream.shard_of(acme.tenant.id))
    units = {"auth": 1, "storage": 1, "renders": 10}
    wait_until(lambda: counted(acme) == units, what="the view's flush")
    assert books(acme.tenant.id).used == 12


@needs_curl
def test_the_examples_of_events_and_the_gateway(product: Product, make_tenant: MakeTenant) -> None:
    acme = make_tenant(included=100, burst_per_second=10**6)
    key, secret = keys.issue(project=acme.key.project, name="all", actor="test", scopes=SCOPES)
    post, add = examples("events.md")
    document = told(post, URL=product.url, KEY=secret)[1]
    says = json.loads(examples("events.md", "json")[0])
    assert {**document, "events": None, "limit": None} == {**says, "events": None, "limit": None}
    assert document["limit"]["used"] == says["limit"]["used"]
    assert document["events"][0].keys() == says["events"][0].keys()
    _, command, shard, *rest = shlex.split(add)
    stream.client(settings.REDIS_URL).execute_command(
        command, shard, *[part.replace("mh_live_Abc123Abc123", key.prefix).replace("render-81", "new") for part in rest]
    )
    drain(shard)
    assert counted(acme) == {"storage": 6}
    (outcome, *_) = [one for one in examples("gateway.md") if "/gate/outcomes" in one]
    head, _ = told(examples("ways-in.md")[1], URL=product.url, KEY=secret)
    (call_id,) = re.findall(r"Meterhouse-Call-Id: (\S+)", head)
    example = outcome.replace("019a...", call_id).replace("6f0c...", str(acme.tenant.id))
    assert told(example, URL=product.url, GATE_SECRET=SECRET)[1]["settled"] == 1
    assert counted(acme) == {"storage": 6}  # it failed with 502
    engine.stop()
    assert invariants.broken(tenant_id=acme.tenant.id) == {}


def test_the_example_of_webhooks() -> None:
    secret, body = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", '{"type": "alert.fired"}'
    at = datetime.now(UTC)
    signed = Webhook(secret).sign("msg_1", at, body)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signed}
    (code,) = examples("alerts-and-webhooks.md", "python")
    about: dict[str, Any] = {"secret": secret, "body": body, "headers": headers}
    exec(compile(code, "docs/alerts-and-webhooks.md", "exec"), about)  # noqa: S102 -- our own page
    assert about["event"]


def drain(shard: str) -> None:
    database = Database()
    try:
        while stream.drain(shard=shard, source=stream.client(settings.REDIS_URL), database=database).entries:
            pass
    finally:
        database.close()


def counted(tenant: Onboarded) -> dict[str, int]:
    """Billed units in the call log by capability."""
    found: dict[str, int] = {}
    for call in Call.objects.filter(tenant=tenant.tenant, outcome="billable"):
        found[call.capability] = found.get(call.capability, 0) + call.units
    return found
