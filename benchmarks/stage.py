"""What both benchmarks stand on: real servers in a temporary folder, migrated, with tenants, and the machine's facts."""

import os
import platform
import secrets
import statistics
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import django

from config.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
BURST_PER_SECOND = 10_000_000


@contextmanager
def servers() -> Iterator[None]:
    """PostgreSQL (fsync on) and Valkey of this run's own, and the environment in which every process works on them."""
    with (
        tempfile.TemporaryDirectory(prefix="meterhouse-benchmark-") as folder,
        Stack(Path(folder), durable=True, environ=_without_servers()) as stack,
    ):
        os.environ.update(
            DATABASE_URL=stack.urls.database_url,
            REDIS_URL=stack.urls.redis_url,
            SECRET_KEY=secrets.token_urlsafe(50),
            API_KEY_SECRET=secrets.token_urlsafe(50),
            PUBLIC_URL="http://127.0.0.1:8000",
            SANDBOX="true",
            DEBUG="false",
            LOG_LEVEL="WARNING",
        )
        yield


def _without_servers() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}


def set_up(settings_module: str = "config.settings") -> None:
    """Django is ready in this process and the database is migrated."""
    from django.core.management import call_command  # noqa: PLC0415 -- only after the environment is set

    os.environ["DJANGO_SETTINGS_MODULE"] = settings_module
    django.setup()
    call_command("migrate", verbosity=0)


def tenant(*, included: int | None = None) -> Any:
    """An Enterprise tenant with a key: unlimited, or blocked after `included` calls. The burst limit never refuses."""
    from billing import accounts, onboarding  # noqa: PLC0415
    from metering.models import Policy  # noqa: PLC0415

    unique = uuid.uuid4().hex[:10]
    agreed = accounts.Agreed(included=included, policy=Policy.BLOCK, burst_per_second=BURST_PER_SECOND)
    return onboarding.onboard(
        name=f"Benchmark {unique}",
        slug=f"benchmark-{unique}",
        email=f"{unique}@benchmark.example",
        plan_code="enterprise",
        actor="benchmark",
        now=datetime.now(UTC),
        agreed=agreed,
    )


def row(sql: str, *parameters: object) -> tuple[Any, ...]:
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
