"""What a metered call costs over HTTP, against the same view unmetered, under DRF's throttle, and with an INSERT a call.

    uv run python -m benchmarks.http [--rounds 7] [--workers gthread,sync] [--profile 10]

One run, one machine, real gunicorn, rounds interleaved; the ratios are the result. `--profile` adds so many seconds under a
sampler, metered and unmetered, and the functions that the workers' CPU goes to.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import sampler, stage
from benchmarks.load import Connection, Measured, drive
from benchmarks.product import cpu_seconds, served

METERED, UNMETERED = "metered", "unmetered"
PATHS = {
    UNMETERED: "/sandbox/v1/unmetered/auth/session",
    METERED: "/sandbox/v1/auth/session",
    "DRF throttle (Redis)": "/peers/throttle/auth/session",
    "INSERT per call": "/peers/insert/auth/session",
}
TENANTS = 8
CLIENTS = 8
LATENCY_SHARE = 0.45  # of a throughput stretch


@dataclass(slots=True)
class Cell:
    """One variant in one round."""

    per_second: float
    p50: float
    p95: float
    p99: float
    cpu_us: dict[str, float]  # by whom, a call


@dataclass(slots=True)
class Results:
    cells: dict[str, list[Cell]] = field(default_factory=lambda: {name: [] for name in PATHS})
    metered_calls: int = 0
    client_share: list[float] = field(default_factory=list)  # of one core
    foreign_share: list[float] = field(default_factory=list)


def main() -> None:
    options = stage.options(
        __doc__, rounds=(7, 1), seconds=(1.3, 0.2), workers=("gthread,sync", "gthread"), profile=(0.0, 1.0)
    )
    with stage.servers("benchmarks.peers_settings"):
        _make_log_table()
        keys = [stage.tenant().api_key for _ in range(TENANTS)]
        answered = 0
        for worker_class in options.workers.split(","):
            answered += _measure(worker_class, keys, options.rounds, options.seconds)
        if options.profile:
            answered += _profile(keys, options.profile)
        is_equal = stage.balance(answered)
    sys.exit(0 if is_equal else 1)


def _make_log_table() -> None:
    from django.db import connection  # noqa: PLC0415 -- only after the environment is set

    from benchmarks.peers_urls import CREATE_LOG  # noqa: PLC0415

    with connection.cursor() as cursor:
        cursor.execute(CREATE_LOG)


def _measure(worker_class: str, keys: list[str], rounds: int, seconds: float) -> int:
    """Print the worker class's tables; returns how many metered calls were answered 200."""
    results = Results()
    with served(worker_class=worker_class) as web:
        clients = [Connection(web.address, keys[number % len(keys)]) for number in range(CLIENTS)]
        for path in PATHS.values():  # connections, caches, leases and code are warm
            _count(results, path, drive(clients, path, seconds=0.5))
        names = list(PATHS)
        for number in range(rounds):
            shift = number % len(names)  # nobody always comes after the same neighbour
            for name in names[shift:] + names[:shift]:
                results.cells[name].append(_cell(results, PATHS[name], clients, web.pid, seconds))
        for client in clients:
            client.close()
    _print(worker_class, rounds, results)
    return results.metered_calls


def _cell(results: Results, path: str, clients: list[Connection], web_pid: int, seconds: float) -> Cell:
    before, wall = cpu_seconds(benchmark_pid=os.getpid(), web_pid=web_pid), time.perf_counter()
    busy = drive(clients, path, seconds=seconds)
    wall, after = time.perf_counter() - wall, cpu_seconds(benchmark_pid=os.getpid(), web_pid=web_pid)
    alone = drive(clients[:1], path, seconds=seconds * LATENCY_SHARE)
    _count(results, path, busy)
    _count(results, path, alone)
    used = {who: after[who] - before[who] for who in after}
    results.client_share.append(used["client"] / wall)
    machine = used.pop("machine")
    results.foreign_share.append(max(0.0, machine - sum(used.values())) / wall)
    ordered = sorted(alone.latencies_us)
    return Cell(
        busy.calls / busy.seconds,
        *(stage.percentile(ordered, rank) for rank in (50, 95, 99)),
        cpu_us={who: seconds / busy.calls * 1e6 for who, seconds in used.items()},
    )


def _count(results: Results, path: str, measured: Measured) -> None:
    if measured.refused:
        raise SystemExit(f"{path} answered {measured.refused[0]}: this run measures nothing.")
    if path == PATHS[METERED]:
        results.metered_calls += measured.calls


def _profile(keys: list[str], seconds: float) -> int:
    """Print where the workers' CPU goes, metered and unmetered; returns how many metered calls were answered 200."""
    results, folders = Results(), {}
    with tempfile.TemporaryDirectory(prefix="meterhouse-profile-") as above:
        for name in (UNMETERED, METERED):
            folder = Path(above, name)
            folder.mkdir()
            with served(worker_class="sync", environment={sampler.VARIABLE: str(folder)}) as web:
                clients = [Connection(web.address, keys[number % len(keys)]) for number in range(CLIENTS)]
                _count(results, PATHS[name], drive(clients, PATHS[name], seconds=1.0))
                sampler.begin(folder)
                measured = drive(clients, PATHS[name], seconds=seconds)
                for client in clients:
                    client.close()
            _count(results, PATHS[name], measured)
            folders[name] = (folder, measured.calls)
        print(f"gunicorn sync, where the CPU of the web workers goes ({seconds:g} s each, beside the sampler):\n")
        sampler.print_parts(base=folders[UNMETERED], with_metering=folders[METERED])
        sampler.print_functions(*folders[METERED])
    return results.metered_calls


# -- the answer ----------------------------------------------------------------------------------------------------------


def _print(worker_class: str, rounds: int, results: Results) -> None:
    base = results.cells[UNMETERED]

    def over_base(cells: list[Cell], value: Callable[[Cell], float]) -> float:
        return stage.median([value(cell) / value(other) for cell, other in zip(cells, base, strict=True)])

    def added(cells: list[Cell], value: Callable[[Cell], float]) -> str:
        extra = stage.median([value(cell) - value(other) for cell, other in zip(cells, base, strict=True)])
        return f"{extra:+,.0f}"

    def middle(cells: list[Cell], value: Callable[[Cell], float]) -> str:
        return f"{stage.median([value(cell) for cell in cells]):,.0f}"

    print(
        f"gunicorn {worker_class}, 2 workers, {TENANTS} tenants; medians of {rounds} interleaved rounds.\n"
        f"Throughput with {CLIENTS} connections, latency with one.\n"
    )
    stage.print_table(
        [
            "variant", "calls/s", "against unmetered", "p50 us", "p95 us", "p99 us", "added p50", "added p95", "added p99",
        ],
        [
            [
                name,
                middle(cells, lambda cell: cell.per_second),
                f"{over_base(cells, lambda cell: cell.per_second):.3f}",
                *(middle(cells, value) for value in PERCENTILES),
                *(added(cells, value) if name != UNMETERED else "" for value in PERCENTILES),
            ]
            for name, cells in results.cells.items()
        ],
    )  # fmt: skip
    stage.print_table(
        ["variant, CPU us a call", "web workers", "PostgreSQL + Valkey", "both, unmetered against it", "load client"],
        [
            [
                name,
                middle(cells, lambda cell: cell.cpu_us["web"]),
                middle(cells, lambda cell: cell.cpu_us["servers"]),
                f"{1 / over_base(cells, lambda cell: cell.cpu_us['web'] + cell.cpu_us['servers']):.3f}",
                middle(cells, lambda cell: cell.cpu_us["client"]),
            ]
            for name, cells in results.cells.items()
        ],
    )
    cores = os.cpu_count() or 1
    client, foreign = stage.median(results.client_share) / cores, stage.median(results.foreign_share) / cores
    print(
        f"Of the machine's CPU time the load client used {client:.0%}, and what does not belong to this run {foreign:.0%} "
        f"(at most {max(results.foreign_share) / cores:.0%} in one stretch).\n",
        flush=True,
    )


PERCENTILES: tuple[Callable[[Cell], float], ...] = (
    lambda cell: cell.p50,
    lambda cell: cell.p95,
    lambda cell: cell.p99,
)


if __name__ == "__main__":
    main()
