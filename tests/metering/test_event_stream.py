"""The stream of events: drained exactly once, whoever drains it, whatever is killed, and nothing in it blocks what follows."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as product
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from billing.onboarding import Onboarded
from config.stack import ports, programs
from metering import engine, invariants
from metering.database import Database, Unreachable
from metering.events import ingest, recording, stream
from metering.models import Call, SetAside
from tenants import keys
from tenants.models import ApiKey
from tests.conftest import ROOT, MakeTenant, environment, wait_until
from tests.metering.ledger import books


@pytest.fixture
def source() -> Iterator[Any]:
    """A Redis that carries streams, with nothing of other tests in it."""
    client = stream.client(product.REDIS_URL)
    yield client
    forget(client)


def forget(client: Any) -> None:
    for place in range(product.EVENTS_STREAM_SHARDS):
        client.delete(stream.shard(place))


@pytest.fixture
def database() -> Iterator[Database]:
    made = Database()
    yield made
    made.close()


class Service:
    """A tenant's service that adds events to the stream."""

    def __init__(self, owned: Onboarded, source: Any) -> None:
        self.owned, self.source = owned, source
        self.key, _ = keys.issue(project=owned.key.project, name="s", actor="test", scopes=frozenset({"events:write"}))
        self.shard = stream.shard_of(owned.tenant.id)
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM metering_stream WHERE shard = %s", [self.shard])

    def add(self, event_id: str, *, key: str = "", **members: Any) -> str:
        event = json.dumps({"id": event_id, "capability": "storage", **members})
        return self.put(stream.fields(key_prefix=key or self.key.prefix, event=event))

    def put(self, fields: dict[Any, Any]) -> str:
        added: bytes = self.source.xadd(self.shard, fields)
        return added.decode()

    def drain(self, database: Database, **options: int) -> stream.Drained:
        return stream.drain(shard=self.shard, source=self.source, database=database, **options)

    def settled(self) -> Any:
        engine.stop()
        kept = books(self.owned.tenant.id)
        kept.assert_balanced()
        assert invariants.broken(tenant_id=self.owned.tenant.id) == {}
        return kept


MakeService = Callable[..., Service]


@pytest.fixture
def make_service(committed: None, make_tenant: MakeTenant, source: Any) -> MakeService:
    return lambda **options: Service(make_tenant(**options), source)


def test_events_are_recorded_in_order_and_leave_the_stream(make_service: MakeService, database: Database) -> None:
    acme = make_service()
    for number in range(5):
        acme.add(f"{number}", quantity=number + 1)
    assert acme.drain(database, limit=3) == stream.Drained(entries=3, recorded=3)
    assert acme.source.xlen(acme.shard) == 2
    assert acme.drain(database).recorded == 2
    assert acme.drain(database) == stream.Drained()
    assert acme.source.xlen(acme.shard) == 0
    assert acme.settled().used == 15
    call = Call.objects.filter(tenant=acme.owned.tenant).first()
    assert call is not None
    assert (call.project_id, call.api_key_id, call.capability) == (acme.key.project_id, acme.key.pk, "storage")


def test_what_a_killed_worker_left_on_the_stream_is_taken_off(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = make_service()
    acme.add("1")
    with monkeypatch.context() as patch:
        patch.setattr(stream._Turn, "close", lambda _: None)  # committed; killed before the stream was trimmed
        acme.drain(database)
    assert acme.source.xlen(acme.shard) == 1
    assert acme.drain(database) == stream.Drained()
    assert acme.source.xlen(acme.shard) == 0
    assert acme.settled().used == 1


def test_a_name_counts_once_whichever_way_it_comes(make_service: MakeService, database: Database) -> None:
    from metering.events import ingest, shapes

    acme = make_service()
    caller = stream._caller(acme.key.public_id, _row(acme.key), stream.Entry(f"{2**42}-0", {}))[0]
    ingest.record(caller=caller, events=[shapes.Event(acme.key.prefix, "1", "storage")])
    acme.add("1")
    acme.add("2")
    acme.add("2")
    assert acme.drain(database) == stream.Drained(entries=3, recorded=1, duplicates=2)
    assert acme.settled().used == 2


def _row(key: ApiKey) -> Any:
    return key.tenant_id, key.project_id, key.pk, key.scopes, None, True, key.tenant.slug


def test_what_cannot_be_read_is_set_aside_and_blocks_nothing(make_service: MakeService, database: Database) -> None:
    acme = make_service()
    prefix = acme.key.prefix
    SetAside.objects.filter(tenant_id__in=[acme.owned.tenant.id, stream.NOBODY]).delete()
    for fields in (
        {"x": "y"}, {"key": prefix}, {"key": prefix, "event": "{"}, {"key": prefix, "event": "[]"},
        {"key": "mh_live_nobody", "event": "{}"}, {b"\xff": b"\x00\xff"}, {"key": acme.owned.key.prefix, "event": "{}"},
    ):  # fmt: skip
        acme.put(fields)
    acme.add("good")
    drained = acme.drain(database)
    assert (drained.recorded, drained.set_aside) == (1, 7)
    aside = SetAside.objects.filter(tenant_id__in=[acme.owned.tenant.id, stream.NOBODY])
    reasons = sorted(one.error.partition(":")[0] for one in aside)
    assert reasons == ["event", "event", "event", "key", "key", "key", "key"]
    aside.delete()


def test_what_asks_is_counted_within_the_limit_and_else_as_refused(
    make_service: MakeService, database: Database
) -> None:
    acme = make_service(included=7, burst_per_second=10**6)
    for number in range(5):
        acme.add(f"asks-{number}", quantity=3, admit=True)
    acme.add("asks-0", quantity=3, admit=True)
    acme.add("tells", quantity=2)
    assert acme.drain(database) == stream.Drained(entries=7, recorded=3, duplicates=1, refused=3)
    kept = acme.settled()
    assert (kept.used, kept.reserved, kept.rolled_up) == (8, 0, {"billable": 3, "failed": 0, "refused": 3})


def test_what_asks_takes_no_unit_when_it_cannot_be_recorded(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = make_service(included=4, burst_per_second=10**6)
    acme.add("1", quantity=4, admit=True)
    whole = recording.recorded
    monkeypatch.setattr(recording, "recorded", lambda *_: (_ for _ in ()).throw(Unreachable("away")))
    with pytest.raises(Unreachable):
        acme.drain(database)
    monkeypatch.setattr(recording, "recorded", whole)
    monkeypatch.setattr(ingest, "SURELY_OVER_SECONDS", 0.0)
    assert acme.drain(database).recorded == 1
    kept = acme.settled()
    assert (kept.used, kept.reserved, kept.rolled_up["refused"]) == (4, 0, 0)


def test_a_key_counts_as_long_as_it_was_good(make_service: MakeService, database: Database) -> None:
    acme = make_service()
    acme.add("before")
    wait_until(lambda: acme.source.time()[0] > 0, what="the clock")
    ApiKey.objects.filter(pk=acme.key.pk).update(revoked_at=timezone.now() + timedelta(milliseconds=5))
    acme.source.xadd(
        acme.shard, stream.fields(key_prefix=acme.key.prefix, event='{"id": "2", "capability": "a"}'), id=f"{2**42}-0"
    )
    assert acme.drain(database) == stream.Drained(entries=2, recorded=1, set_aside=1)
    SetAside.objects.filter(tenant_id=acme.owned.tenant.id).delete()


def test_an_entry_that_the_ledger_cannot_take_is_found_and_passed_over(
    make_service: MakeService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from metering.events import recording

    def picky(connection: Any, items: Any, batch_id: Any) -> Any:
        if any(item.event.id == "bad" for item in items):
            raise psycopg.errors.NumericValueOutOfRange("too much")
        return taken(connection, items, batch_id)

    taken = recording.recorded
    monkeypatch.setattr(recording, "recorded", picky)
    acme = make_service()
    for name in ("1", "2", "bad", "3"):
        acme.add(name)
    while acme.drain(database).entries:
        pass
    assert acme.settled().used == 3
    aside = SetAside.objects.filter(tenant_id=stream.NOBODY, error__contains="too much")
    assert aside.count() == 1
    aside.delete()


def test_a_stream_that_was_lost_and_begun_anew_is_read(make_service: MakeService, database: Database) -> None:
    acme = make_service()
    acme.add("1")
    acme.drain(database)
    acme.source.delete(acme.shard)
    for number in (1, 2):
        fields = stream.fields(key_prefix=acme.key.prefix, event=json.dumps({"id": f"{number}", "capability": "a"}))
        acme.source.xadd(acme.shard, fields, id=f"1-{number}")
    drained = acme.drain(database)
    assert (drained.recorded, drained.duplicates, drained.set_aside) == (1, 1, 0)
    assert acme.settled().used == 2


def test_workers_share_shards_and_record_each_once(make_service: MakeService) -> None:
    services = [make_service() for _ in range(3)]
    for number in range(120):
        services[number % 3].add(f"{number}")

    def work() -> None:
        mine = Database()
        try:
            while any(service.source.xlen(service.shard) for service in services):
                for service in services:
                    service.drain(mine, limit=7)
        finally:
            mine.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [service.settled().used for service in services] == [40, 40, 40]


def test_killed_workers_double_and_lose_nothing(make_service: MakeService, pytestconfig: pytest.Config) -> None:
    """Real workers, killed at random moments while they drain."""
    acme, kills, chance = make_service(), 20 if pytestconfig.getoption("--long") else 2, random.Random(5)
    env = {**environment(0), "EVENTS_STREAM_URL": product.REDIS_URL, "EVENTS_STREAM_SHARDS": "16"}
    command = [sys.executable, "manage.py", "drain_events"]
    for number in range(3000):
        acme.add(f"{number}")
    for _ in range(kills):
        left = acme.source.xlen(acme.shard)
        with subprocess.Popen(command, cwd=ROOT, env=env) as worker:
            wait_until(lambda left=left: acme.source.xlen(acme.shard) < left, seconds=60, what="a batch")  # type: ignore[misc]
            threading.Event().wait(chance.random() * 0.05)
            worker.send_signal(signal.SIGKILL)
        for number in range(3):
            acme.add(f"{chance.random()}-{number}")
    subprocess.run([*command, "--once"], cwd=ROOT, env=env, check=True, timeout=60)
    assert acme.source.xlen(acme.shard) == 0
    assert acme.settled().used == 3000 + kills * 3


# -- a cluster ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three real servers that share the slots between them; the address of one."""
    program = next(programs.valkey_candidates(os.environ))
    folder = tmp_path_factory.mktemp("cluster")
    places = [_port() for _ in range(3)]
    with ExitStack() as running:
        for port in places:
            running.enter_context(_server(program.path, folder / f"{port}", port))
        nodes: list[Any] = [redis.Redis(host="127.0.0.1", port=port) for port in places]
        for number, node in enumerate(nodes):
            wait_until(lambda port=places[number]: ports.answers(port), what="a server")  # type: ignore[misc]
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", number * 5462, min(16383, number * 5462 + 5461))
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in places[1:]:
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        for node in nodes:
            wait_until(lambda node=node: b"cluster_state:ok" in _info(node), seconds=30, what="the cluster")  # type: ignore[misc]
        yield f"redis://127.0.0.1:{places[0]}/0?cluster=true"


def _port() -> int:
    """One that leaves room: servers of a cluster talk to each other at 10,000 above it."""
    while (port := ports.free()) > 55_000:
        pass
    return port


def _info(node: Any) -> bytes:
    said = node.execute_command("CLUSTER", "INFO")
    return said if isinstance(said, bytes) else repr(said).replace("': '", ":").encode()


def _server(program: Path, folder: Path, port: int) -> Any:
    folder.mkdir()
    options = {
        "--port": port, "--bind": "127.0.0.1", "--cluster-enabled": "yes", "--dir": folder, "--save": "", "--appendonly": "no",
        "--cluster-node-timeout": 5000,
    }  # fmt: skip
    command = [str(program), *(str(part) for option in options.items() for part in option)]
    stack = ExitStack()
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    stack.callback(process.kill)
    return stack


def test_it_works_when_the_stream_lives_on_a_cluster(
    committed: None, make_tenant: MakeTenant, cluster: str, database: Database, settings: Settings
) -> None:
    client = stream.client(cluster)
    services = [Service(make_tenant(), client) for _ in range(6)]
    for service in services:
        for number in range(10):
            service.add(f"{number}-{uuid.uuid4()}")
    assert len({client.get_node_from_key(stream.shard(place)).name for place in range(16)}) == 3
    for service in services:
        service.drain(database)
    assert [service.settled().used for service in services] == [10] * 6
