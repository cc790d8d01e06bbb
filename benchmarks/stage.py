"""What the benchmarks stand on: real servers in a temporary folder, migrated, with tenants, the books, the machine's facts."""

import argparse
import os
import platform
import random
import secrets
import signal
import statistics
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import django
import psycopg

from config.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
BURST_PER_SECOND = 10_000_000
BULK = 5_000  # rows in one INSERT


def options(doc: str | None, **defaults: tuple[Any, Any]) -> argparse.Namespace:
    """What the command line says, or each option's default: (normally, with --quick)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that all of it runs, measures nothing")
    for name, (normal, _) in defaults.items():
        parser.add_argument(f"--{name}", type=type(normal), help=f"default: {normal}")
    found = parser.parse_args()
    for name, values in defaults.items():
        if getattr(found, name) is None:
            setattr(found, name, values[found.quick])
    return found


@contextmanager
def servers(settings_module: str = "config.settings") -> Iterator[None]:
    """PostgreSQL (fsync on) and Valkey of this run's own, migrated; every process of this run works on them."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then, too
    with (
        tempfile.TemporaryDirectory(prefix="meterhouse-benchmark-") as folder,
        Stack(Path(folder), durable=True, environ=_without_servers(), say=_say_nothing) as stack,
    ):
        os.environ.update(
            DATABASE_URL=stack.urls.database_url,
            REDIS_URL=stack.urls.redis_url,
            SECRET_KEY=secrets.token_urlsafe(50),
            API_KEY_SECRET=secrets.token_urlsafe(50),
            PUBLIC_URL="http://127.0.0.1:8000",
            METERING_SPOOL_DIR=f"{folder}/spool",
            SANDBOX="true",
            DEBUG="false",
            LOG_LEVEL="WARNING",
            DJANGO_SETTINGS_MODULE=settings_module,
        )
        _set_up()
        print_machine()
        yield


def _say_nothing(_line: str) -> None:
    pass


def _without_servers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}


def _set_up() -> None:
    from django.core.management import call_command  # noqa: PLC0415 -- only after the environment is set

    django.setup()
    call_command("migrate", verbosity=0)


def in_processes(count: int, run: Callable[..., Any], *arguments: object, database_url: str = "") -> list[Any]:
    """What `run` returned in each of `count` fresh processes with Django set up."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (database_url or os.environ["DATABASE_URL"],))
    with pool:
        return [future.result() for future in [pool.submit(run, *arguments) for _ in range(count)]]


def _begin(database_url: str) -> None:
    os.environ["DATABASE_URL"] = database_url
    django.setup()


def database(name: str) -> str:
    """Another database of the same server, migrated and without tenants; returns its address."""
    from django.db import connection  # noqa: PLC0415

    connection.close()  # nobody may be connected to a template
    url = urlsplit(os.environ["DATABASE_URL"])
    with psycopg.connect(url._replace(path="/postgres").geturl(), autocommit=True) as maintenance:
        maintenance.execute(f'CREATE DATABASE "{name}" TEMPLATE "{url.path[1:]}"'.encode())
    return url._replace(path=f"/{name}").geturl()


# -- tenants -------------------------------------------------------------------------------------------------------------


def tenant(*, included: int | None = None, recording: str = "buffered", anchor: datetime | None = None) -> Any:
    """An Enterprise tenant with a key: unlimited, or blocked after `included` calls. The burst limit never refuses."""
    from billing import accounts, onboarding  # noqa: PLC0415
    from metering.models import Allowance, Policy  # noqa: PLC0415

    unique = uuid.uuid4().hex[:10]
    agreed = accounts.Agreed(included=included, policy=Policy.BLOCK, burst_per_second=BURST_PER_SECOND)
    made = onboarding.onboard(
        name=f"Benchmark {unique}",
        slug=f"benchmark-{unique}",
        email=f"{unique}@benchmark.example",
        plan_code="enterprise",
        actor="benchmark",
        now=datetime.now(UTC),
        anchor=anchor,
        agreed=agreed,
    )
    Allowance.objects.filter(pk=made.tenant.pk).update(recording=recording)
    return made


def tenants_in_bulk(count: int) -> list[str]:
    """So many tenants with a million calls each, a project and a key as `tenants.keys` makes them; returns the keys."""
    from django.db import connection  # noqa: PLC0415

    from metering import periods  # noqa: PLC0415

    now = datetime.now(UTC)
    keys = [key for first in range(0, count, BULK) for key in _some_tenants(min(BULK, count - first), now)]
    period = periods.containing(now, now)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT metering_open_period(tenant_id, %s, %s, %s) FROM metering_allowance",
            [period.start, period.end, now],
        )
        cursor.execute("VACUUM ANALYZE")  # now, not some time while something is measured
    return keys


def _some_tenants(count: int, now: datetime) -> list[str]:
    from metering.models import Allowance, Policy  # noqa: PLC0415
    from tenants.keys import DEFAULT_SCOPES, ID_LENGTH, digest  # noqa: PLC0415
    from tenants.models import ApiKey, Project, Tenant  # noqa: PLC0415

    names = [f"tail-{uuid.uuid4().hex}" for _ in range(count)]
    made = Tenant.objects.bulk_create(Tenant(slug=name, name=name, email=f"{name}@benchmark.example") for name in names)
    projects = Project.objects.bulk_create(Project(tenant=each, slug="default", name="Default") for each in made)
    keys = [_key() for _ in made]
    ApiKey.objects.bulk_create(
        ApiKey(
            tenant_id=project.tenant_id, project=project, name="First key", public_id=key[8 : 8 + ID_LENGTH],
            last_four=key[-4:], digest=digest(key), scopes=sorted(DEFAULT_SCOPES),
        )
        for project, key in zip(projects, keys, strict=True)
    )  # fmt: skip
    Allowance.objects.bulk_create(
        Allowance(
            tenant=each, label="Benchmark", included=1_000_000, policy=Policy.BLOCK, anchor=now,
            burst_per_second=BURST_PER_SECOND,
        )
        for each in made
    )  # fmt: skip
    return keys


def _key() -> str:
    from tenants.keys import ALPHABET, ID_LENGTH, SECRET_LENGTH, checksum  # noqa: PLC0415

    letters = "".join(random.choices(ALPHABET, k=ID_LENGTH + SECRET_LENGTH))
    return f"mh_live_{letters[:ID_LENGTH]}_{letters[ID_LENGTH:]}{checksum(letters)}"


# -- the books -----------------------------------------------------------------------------------------------------------


class Books(NamedTuple):
    """Units as the call log, the usage hours and the quotas count them, and what is still reserved."""

    logged: int
    rolled_up: int
    used: int
    reserved: int


def books(tenant_ids: Sequence[object] | None = None) -> Books:
    """The books of these tenants, or of all."""
    which = "" if tenant_ids is None else "WHERE tenant_id = ANY(%(ids)s)"
    found = row(
        f"SELECT (SELECT coalesce(sum(units), 0) FROM metering_call {which}), "
        f"(SELECT coalesce(sum(units), 0) FROM metering_usage_hour {which}), "
        f"coalesce(sum(used), 0), coalesce(sum(reserved), 0) FROM metering_quota {which}",
        {"ids": tenant_ids},
    )
    return Books(*map(int, found))


def balance(answered: int) -> bool:
    """Whether the books of all tenants say what the clients saw, and nothing in the database contradicts itself; says so."""
    from metering import invariants  # noqa: PLC0415

    found, broken = books(), invariants.broken()
    is_equal = found == (answered, answered, answered, 0) and not broken
    print(
        f"Metered calls answered 200: {answered:,}; in the call log: {found.logged:,}; in the usage hours: "
        f"{found.rolled_up:,}; quota used: {found.used:,}; still reserved: {found.reserved:,}. "
        f"{'Equal.' if is_equal else 'NOT EQUAL.'}"
    )
    for name, violations in broken.items():
        print(f"Invariant '{name}' is broken for {len(violations)} tenant(s), first: {violations[0].detail}")
    return is_equal


def row(sql: str, parameters: Any = None) -> tuple[Any, ...]:
    from django.db import connection  # noqa: PLC0415

    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        found: tuple[Any, ...] = cursor.fetchone()
        return found


def print_machine() -> None:
    """Where and on what these figures were measured. Needs the database."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.processor())
    version, fsync, synchronous = row(
        "SELECT current_setting('server_version'), current_setting('fsync'), current_setting('synchronous_commit')"
    )
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({model}), Linux {platform.release()}")
    print(
        f"Python {platform.python_version()}, Django {django.__version__}, PostgreSQL {version}, fsync {fsync}, "
        f"synchronous_commit {synchronous}"
    )
    load = os.getloadavg()[0]
    quiet = "" if load < 0.5 else "  -- not a quiet machine: something else is running, repeat this later"
    print(f"Load of the machine at the start: {load:.2f}{quiet}\n")


def percentile(ordered: Sequence[float], rank: float) -> float:
    """The value below which `rank` per cent of an ordered sequence lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * rank / 100))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table in Markdown, so that it can go into the documentation as it is."""
    cells = [[str(cell) for cell in line] for line in [head, *rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines.insert(1, "-|-".join("-" * width for width in widths))
    for line in lines:
        print(f"| {line} |" if "-|-" not in line else f"|-{line}-|")
    sys.stdout.write("\n")
    sys.stdout.flush()
