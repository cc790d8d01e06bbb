"""The stream of events while its servers are killed and come back: a day's backlog, nothing doubled, nothing lost."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connections
from django.utils import timezone

from config.stack import ports, programs
from metering import partitions
from metering.events import stream
from metering.models import Call, SetAside
from tenants import keys
from tests.conftest import ROOT, MakeTenant, environment, wait_until
from tests.faults.conftest import Breakable, sound

DAY = timedelta(days=1)


class Keeper:
    """A Valkey that writes down each entry before it answers, as docs/events.md asks of the one that carries the stream."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, ports.free()
        self.program = next(programs.valkey_candidates(os.environ)).path
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {"--port": self.port, "--bind": "127.0.0.1", "--dir": self.folder, "--save": "", "--appendonly": "yes",
                   "--appendfsync": "always"}  # fmt: skip
        command = [str(self.program), *(str(part) for option in options.items() for part in option)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: ports.answers(self.port), what="Valkey's start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    running = Keeper(tmp_path)
    yield running
    running.kill()


@pytest.fixture
def worker(breakable: Breakable, keeper: Keeper) -> Iterator[subprocess.Popen[bytes]]:
    env = {**environment(0), "EVENTS_STREAM_URL": keeper.url, "EVENTS_STREAM_SHARDS": "2"}
    command = [sys.executable, "manage.py", "drain_events"]
    with subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) as process:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


class Service:
    """It adds events of the last day, each until it is told that it was taken: so some are added twice."""

    def __init__(self, shard: str, prefix: str, keeper: Keeper) -> None:
        self.shard, self.prefix, self.keeper, self.added = shard, prefix, keeper, 0
        self.source: Any = redis.Redis.from_url(keeper.url)

    def add(self, count: int) -> None:
        for _ in range(count):
            at = timezone.now() - DAY * ((self.added * 37) % 1000) / 1000
            event = {"id": f"{self.added}", "capability": "storage", "occurred_at": at.isoformat()}
            fields: Any = stream.fields(key_prefix=self.prefix, event=json.dumps(event))
            wait_until(lambda fields=fields: self._tried(fields), what="the stream")  # type: ignore[misc]
            self.added += 1

    def _tried(self, fields: Any) -> bool:
        with suppress(redis.RedisError, OSError):
            self.source.xadd(self.shard, fields)
            return True
        return False

    @property
    def waiting(self) -> int:
        return int(self.source.xlen(self.shard))


def test_servers_that_die_under_a_days_backlog_double_and_lose_nothing(
    breakable: Breakable,
    keeper: Keeper,
    make_tenant: MakeTenant,
    request: pytest.FixtureRequest,
    is_long: bool,
) -> None:
    now = timezone.now()
    partitions.ensure(calls_from=now - 2 * DAY, hours_from=now - 2 * DAY, now=now)
    acme = make_tenant(plan="scale", included=10**6, anchor=now - 5 * DAY)
    key, _ = keys.issue(project=acme.key.project, name="s", actor="test", scopes=frozenset({"events:write"}))
    service = Service(stream.shard_of(acme.tenant.id, 2), key.prefix, keeper)
    size = 20_000 if is_long else 1_500
    service.add(size)
    request.getfixturevalue("worker")
    faults: list[Callable[[], None]] = [
        lambda: postgresql_dies(breakable, service),
        lambda: valkey_dies(keeper, service),
    ]
    for fault in faults * (10 if is_long else 1):
        before = service.waiting
        if before:  # else the worker was faster than the service
            wait_until(lambda before=before: service.waiting < before, seconds=60, what="a batch")  # type: ignore[misc]
        fault()
        service.add(size // 3)
    wait_until(lambda: service.waiting == 0, seconds=300, what="the end of the backlog")
    kept = sound(acme.tenant.id)
    assert (kept.used, kept.reserved) == (service.added, 0)
    assert Call.objects.filter(tenant=acme.tenant).count() == service.added
    assert not SetAside.objects.filter(tenant_id=acme.tenant.id).exists()


def postgresql_dies(breakable: Breakable, service: Service) -> None:
    connections.close_all()
    with breakable.down(breakable.postgres, signal.SIGKILL):
        service.add(100)


def valkey_dies(keeper: Keeper, service: Service) -> None:
    keeper.kill()
    keeper.start()
    service.add(100)
