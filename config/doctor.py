"""What `manage.py doctor` looks at: each check is a small function that returns a finding, named with its mend.

What the checks judge (server settings, offsets of clocks, ages) is read first and handed to them, so that each of them
can be asked about any state. Nothing here changes anything, and a server that is away is a finding, never a crash.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import redis
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor
from redis.backoff import NoBackoff
from redis.retry import Retry

from config import doctor_stripe
from config.findings import Finding, Grade, information, ok, problem
from metering import invariants, partitions, periods
from metering.invariants import Violation
from metering.tasks import HEARTBEAT
from tenants.models import Tenant

OLDEST_POSTGRESQL, OLDEST_REDIS = 150_000, 7
CLOCK_SECONDS = 2.0
HEARTBEAT_SECONDS = 60
QUEUE = "celery"  # Celery's default queue: a list of this name
LONG_QUEUE = 1000
DAYS_AHEAD = 2
NAMED = 3
START = "start it, or run `uv run manage.py stack`, which starts both servers and prints their addresses."
SERVER_VALUES = (
    "server_version", "server_version_num", "fsync", "synchronous_commit", "full_page_writes", "TimeZone", "max_connections",
    "superuser_reserved_connections", "reserved_connections",
)  # fmt: skip


def examine(*, now: datetime, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Every finding, in the order in which a person would mend them."""
    complaints = [message for message in checks.run_checks(tags=["meterhouse"]) if not message.is_silenced()]
    yield from configuration(complaints=complaints)
    named = {one.id for one in complaints}
    offsets: dict[str, float] = {}
    if named & {"meterhouse.E003", "meterhouse.E004"}:
        yield information("PostgreSQL", "not checked: DATABASE_URL does not name one")
    else:
        yield from _guarded("PostgreSQL", lambda: on_postgresql(now=now, environ=environ, offsets=offsets))
    if "meterhouse.E005" in named:
        yield information("Redis", "not checked: REDIS_URL does not name one")
    else:
        yield from _guarded("Redis", lambda: on_redis(now=now, offsets=offsets))
    yield clocks(offsets=offsets)
    yield from doctor_stripe.at_stripe()


def _guarded(name: str, found: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What the checks find until a server fails them; then that, in one line."""
    setting = "DATABASE_URL" if name == "PostgreSQL" else "REDIS_URL"
    try:
        yield from found()
    except (DatabaseError, InterfaceError, ImproperlyConfigured, redis.RedisError, ValueError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield problem(name, reason, f"Check that {setting} is right and the server runs: {START}")


# -- configuration -------------------------------------------------------------------------------------------------------


def configuration(*, complaints: Sequence[checks.CheckMessage]) -> list[Finding]:
    """The start-up checks, one finding for each complaint."""
    return [
        Finding("Configuration", Grade.PROBLEM if one.is_serious() else Grade.INFORMATION, str(one.msg), one.hint or "")
        for one in complaints
    ] or [ok("Configuration", f"complete; this deployment is {settings.PUBLIC_URL}")]


# -- PostgreSQL ----------------------------------------------------------------------------------------------------------


def on_postgresql(*, now: datetime, environ: Mapping[str, str], offsets: dict[str, float]) -> Iterator[Finding]:
    """The server, its tables and what is in them; notes its clock's offset."""
    values = server_values()
    offsets["PostgreSQL"] = _postgresql_offset()
    yield postgresql(values=values)
    yield connections_needed(values=values, environ=environ)
    pending = pending_migrations()
    yield migrations(pending=pending)
    if pending:
        yield information("Metering", "not checked: migrations are pending")
        return
    yield partitions_ahead(now=now)
    yield default_partitions()
    yield from metering_invariants()
    yield from doctor_stripe.in_database(now=now)


def server_values() -> dict[str, str]:
    """The server's settings as this connection has them."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(SERVER_VALUES)])
        return dict(cursor.fetchall())


def _postgresql_offset() -> float:
    asked = time.time()
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        row: Any = cursor.fetchone()
    return float(row[0]) - (asked + time.time()) / 2


def postgresql(*, values: Mapping[str, str]) -> Finding:
    """A committed call survives a power cut, and the server is new enough and in UTC."""
    version = values["server_version"].split(" ")[0]
    wrong = [name for name in ("fsync", "full_page_writes") if values[name] != "on"]
    if values["synchronous_commit"] == "off":
        wrong.append("synchronous_commit")
    if int(values["server_version_num"]) < OLDEST_POSTGRESQL:
        return problem("PostgreSQL", f"{version} is too old", "Use PostgreSQL 15 or newer.")
    if wrong:
        lost = f"{version}, off: {', '.join(wrong)}; committed calls may be lost in a power cut"
        return problem(
            "PostgreSQL", lost, f"Set {', '.join(f'{name} = on' for name in wrong)} in postgresql.conf and reload."
        )
    if values["TimeZone"] not in {"UTC", "Etc/UTC"}:
        return problem(
            "PostgreSQL", f"{version}, time zone {values['TimeZone']}", "Set timezone = 'UTC' for this database."
        )
    return ok("PostgreSQL", f"{version}, fsync on, synchronous_commit {values['synchronous_commit']}, UTC")


def connections_needed(*, values: Mapping[str, str], environ: Mapping[str, str]) -> Finding:
    """Every web thread, every engine and every Celery process can have its connection at once."""
    workers, threads = int(environ.get("WEB_WORKERS", "2")), int(environ.get("WEB_THREADS", "8"))
    need = workers * (threads + settings.METERING["POOL_SIZE"]) + (os.cpu_count() or 1) + 2
    kept = sum(int(values.get(name, 0)) for name in ("superuser_reserved_connections", "reserved_connections"))
    offered = int(values["max_connections"]) - kept
    detail = f"{offered} offered, {need} needed by {workers} web workers of {threads} threads and Celery"
    if offered < need:
        return problem(
            "Connections", detail, f"Set max_connections = {need + kept} or more, or lower WEB_WORKERS or WEB_THREADS."
        )
    return ok("Connections", detail)


def pending_migrations() -> list[str]:
    executor = MigrationExecutor(connection)
    return [str(migration) for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]


def migrations(*, pending: Sequence[str]) -> Finding:
    """The tables are those that this code expects."""
    if pending:
        return problem("Migrations", f"{len(pending)} pending: {_some(pending)}", "Run `uv run manage.py migrate`.")
    return ok("Migrations", "none pending")


def partitions_ahead(*, now: datetime) -> Finding:
    """Today's and the coming days' calls, this and next month's usage hours have partitions of their own."""
    wanted = [
        *partitions.of_days(now, now + timedelta(days=DAYS_AHEAD)),
        *partitions.of_months(now, periods.months_after(periods.month_of(now), 2)),
    ]
    existing = {*partitions.names("metering_call"), *partitions.names("metering_usage_hour")}
    missing = [partition.name for partition in wanted if partition.name not in existing]
    if missing:
        mend = "Run `uv run manage.py migrate`, which makes them; a running worker and beat do so every hour."
        return problem("Partitions", f"{len(missing)} missing: {_some(missing)}", mend)
    return ok("Partitions", f"made ahead to {now + timedelta(days=DAYS_AHEAD):%d %B %Y}")


def default_partitions() -> Finding:
    """No rows wait outside their partition."""
    parents = ("metering_call", "metering_usage_hour")
    with connection.cursor() as cursor:
        filled = [parent for parent in parents if _has_rows(cursor, f"{parent}_default")]
    if filled:
        mend = (
            "They are counted, but slow every read: make the partitions of their days with "
            "metering.partitions.ensure(calls_from=..., hours_from=..., now=...), which moves them."
        )
        return problem("Strays", f"rows in the default partition of {', '.join(filled)}", mend)
    return ok("Strays", "no rows outside their partitions")


def _has_rows(cursor: Any, table: str) -> bool:
    cursor.execute(f"SELECT EXISTS (SELECT FROM {table})")
    return bool(cursor.fetchone()[0])


# -- what is in the ledger -----------------------------------------------------------------------------------------------


def metering_invariants() -> list[Finding]:
    """I4 of the ledger, read in one snapshot, and what waits for a person."""
    stop = "Bill nothing for these tenants, keep the database as it is, and compare the rows named with metering_call."
    wake = "They come back when a call needs them: nothing to do unless they grow."
    read = (
        "Read error and records in the admin under Set aside; the calls are not in the ledger and not billed. Then "
        "`uv run manage.py adjust` with --set-aside bills them after all, with --dismiss never."
    )
    with invariants.snapshot():
        since = invariants.kept_since()
        log = invariants.usage_hours_equal_call_log(since=since) if since else []
        return [
            violated("Quotas", invariants.quotas_equal_usage_hours(), good="equal to the usage hours", mend=stop),
            violated("Reserved", invariants.reserved_equals_leases(), good="equal to the leases", mend=stop),
            violated("Held", invariants.held_equals_pending(), good="equal to the calls that await it", mend=stop),
            violated("Months", invariants.months_equal_usage_hours(), good="equal to the usage hours", mend=stop),
            violated("Windows", invariants.windows_equal_ledger(), good="equal to usage hours and leases", mend=stop),
            violated("Periods", invariants.periods_do_not_overlap(), good="no two of a tenant overlap", mend=stop),
            violated(
                "Call log",
                log,
                good=f"equal to the usage hours, period by period, since {since:%d %B %Y}" if since else "empty",
                mend=stop,
            ),
            violated(
                "Append-only",
                invariants.ledger_is_append_only(),
                good="calls, adjustments and audit entries refuse to be changed",
                mend="Find out who removed the trigger; the migrations of metering and tenants say how to make it again.",
            ),
            violated("Set aside", invariants.nothing_is_set_aside(), good="nothing", mend=read),
            violated(
                "Dead leases",
                invariants.no_dead_leases(lease_seconds=settings.METERING["LEASE_SECONDS"]),
                good="none",
                mend=wake,
                grade=Grade.INFORMATION,
            ),
        ]


def violated(name: str, found: Sequence[Violation], *, good: str, mend: str, grade: Grade = Grade.PROBLEM) -> Finding:
    """The finding about an invariant, naming the first tenants that it does not hold for."""
    if not found:
        return ok(name, good)
    tenants = Tenant.objects.in_bulk({one.tenant_id for one in found[:NAMED] if one.tenant_id})
    lines = [
        f"{tenants[one.tenant_id].slug if one.tenant_id in tenants else one.tenant_id or 'all tenants'}: {one.detail}"
        for one in found[:NAMED]
    ]
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return Finding(name, grade, "; ".join(lines) + more, mend)


# -- Redis, Celery, clocks -----------------------------------------------------------------------------------------------


def on_redis(*, now: datetime, offsets: dict[str, float]) -> Iterator[Finding]:
    """The server and what Celery does with it; notes its clock's offset."""
    retry = Retry(NoBackoff(), 0)
    client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2, retry=retry)
    with client:
        values: Any = client.info()
        offsets["Redis"] = _redis_offset(client)
        yield broker(values=values)
        heartbeat: Any = client.get(HEARTBEAT)
        yield celery(heartbeat=heartbeat.decode() if heartbeat else None, now=now)
        waiting: Any = client.llen(QUEUE)
        yield queue(waiting=waiting)


def _redis_offset(client: Any) -> float:
    asked = time.time()
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6 - (asked + time.time()) / 2)


def broker(*, values: Mapping[str, Any]) -> Finding:
    """The broker forgets no task and knows the commands that burst limits use."""
    version, policy = str(values["redis_version"]), str(values.get("maxmemory_policy", "noeviction"))
    name = f"Valkey {values['valkey_version']}" if "valkey_version" in values else version
    if int(version.split(".", maxsplit=1)[0]) < OLDEST_REDIS:
        return problem("Redis", f"{name} is too old", "Use Redis 7 or newer, or Valkey.")
    if policy != "noeviction":
        mend = "Set maxmemory-policy noeviction: with any other, queued tasks vanish when memory is short."
        return problem("Redis", f"{name}, maxmemory-policy {policy}", mend)
    return ok("Redis", f"{name}, noeviction")


def celery(*, heartbeat: str | None, now: datetime) -> Finding:
    """Beat, broker and worker are alive: a task that all three take part in ran a moment ago."""
    mend = "Run `celery -A config.celery worker` and `celery -A config.celery beat`; the first heartbeat comes 5 s after beat."
    if heartbeat is None:
        return problem("Celery", "no worker or beat: no heartbeat within the last hour", mend)
    age = (now - datetime.fromisoformat(heartbeat)).total_seconds()
    if age > HEARTBEAT_SECONDS:
        return problem("Celery", f"no worker or beat: the last heartbeat is {age:.0f} s old", mend)
    return ok("Celery", f"heartbeat {max(age, 0):.0f} s ago")


def queue(*, waiting: int) -> Finding:
    """Tasks are done as fast as they come."""
    if waiting > LONG_QUEUE:
        return problem(
            "Queue",
            f"{waiting:,} tasks wait",
            "Start more Celery workers, or look in their log for what holds them up.",
        )
    return ok("Queue", f"{waiting} waiting")


def clocks(*, offsets: Mapping[str, float]) -> Finding:
    """This machine, PostgreSQL and Redis agree on the time."""
    if not offsets:
        return information("Clocks", "not compared: no server answers")
    every = {"this machine": 0.0, **offsets}
    spread = max(every.values()) - min(every.values())
    said = ", ".join(f"{name} {offset:+.3f} s" for name, offset in offsets.items())
    if spread >= CLOCK_SECONDS:
        return problem("Clocks", f"{spread:.1f} s apart: {said}", "Run chrony or systemd-timesyncd on every machine.")
    return ok("Clocks", f"agree: {said}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
