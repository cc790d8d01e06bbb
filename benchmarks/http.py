"""What a metered call costs over HTTP, against the same view unmetered, under DRF's throttle, and with an INSERT a call.

    uv run python -m benchmarks.http [--rounds 7] [--workers gthread,sync]

One run, one machine, real gunicorn, rounds interleaved; the ratios are the result.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import stage
from benchmarks.load import Connection, Measured, drive

METERED, UNMETERED = "metered", "unmetered"
PATHS = {
    UNMETERED: "/sandbox/v1/unmetered/auth/session",
    METERED: "/sandbox/v1/auth/session",
    "DRF throttle (Redis)": "/peers/throttle/auth/session",
    "INSERT per call": "/peers/insert/auth/session",
}
TENANTS = 8
CLIENTS = 8
THROUGHPUT_SECONDS = 1.3
LATENCY_SECONDS = 0.6
TICKS = os.sysconf("SC_CLK_TCK")


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", default="gthread,sync", help="gunicorn's worker classes (default: %(default)s)")
    options = parser.parse_args()
    with stage.servers():
        stage.set_up("benchmarks.peers_settings")
        stage.print_machine()
        _make_log_table()
        made = [stage.tenant() for _ in range(TENANTS)]
        keys = [each.api_key for each in made]
        metered_calls = 0
        for worker_class in options.workers.split(","):
            metered_calls += _measure(worker_class, keys, options.rounds)
        is_equal = _compare_ledger([each.tenant.id for each in made], metered_calls)
    sys.exit(0 if is_equal else 1)


def _make_log_table() -> None:
    from django.db import connection  # noqa: PLC0415 -- only after the environment is set

    from benchmarks.peers_urls import CREATE_LOG  # noqa: PLC0415

    with connection.cursor() as cursor:
        cursor.execute(CREATE_LOG)


def _measure(worker_class: str, keys: list[str], rounds: int) -> int:
    """Print the worker class's tables; returns how many metered calls were answered 200."""
    results = Results()
    with _product(worker_class) as (address, process):
        clients = [Connection(address, keys[number % len(keys)]) for number in range(CLIENTS)]
        for path in PATHS.values():  # connections, caches, leases and code are warm
            _count(results, path, drive(clients, path, seconds=0.5))
        names = list(PATHS)
        for number in range(rounds):
            shift = number % len(names)  # nobody always comes after the same neighbour
            for name in names[shift:] + names[:shift]:
                results.cells[name].append(_cell(results, PATHS[name], clients, process.pid))
        for client in clients:
            client.close()
    _print(worker_class, rounds, results)
    return results.metered_calls


def _cell(results: Results, path: str, clients: list[Connection], web_pid: int) -> Cell:
    before, wall = _cpu_seconds(web_pid), time.perf_counter()
    busy = drive(clients, path, seconds=THROUGHPUT_SECONDS)
    wall, after = time.perf_counter() - wall, _cpu_seconds(web_pid)
    alone = drive(clients[:1], path, seconds=LATENCY_SECONDS)
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


# -- the product ---------------------------------------------------------------------------------------------------------


@contextmanager
def _product(worker_class: str) -> Iterator[tuple[tuple[str, int], subprocess.Popen[bytes]]]:
    """Real gunicorn with two workers, as the product is served; stopped cleanly afterwards, so everything is flushed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address: tuple[str, int] = probe.getsockname()
    env = {**os.environ, "WEB_BIND": f"127.0.0.1:{address[1]}", "WEB_WORKERS": "2", "WEB_WORKER_CLASS": worker_class}
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "config.wsgi"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=stage.ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_it_listens(address, process)
            yield address, process
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _wait_until_it_listens(address: tuple[str, int], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                time.sleep(1.0)  # both workers have loaded
                return
        time.sleep(0.05)
    raise SystemExit("gunicorn did not start.")


def _cpu_seconds(web_pid: int) -> dict[str, float]:
    """CPU used so far: by the whole machine, the web workers, the servers behind them, this client."""
    client = time.process_time()
    parents: dict[int, tuple[int, str, float]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name, _, rest = (folder / "stat").read_text().rpartition(") ")
            except OSError:
                continue
            fields = rest.split()
            # user and system time, its own and that of its children who have ended
            parents[int(folder.name)] = (int(fields[1]), name.partition("(")[2], sum(map(int, fields[11:15])) / TICKS)
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return {
        "machine": (user + nice + system) / TICKS,
        "web": _sum(parents, lambda pid: pid == web_pid or parents[pid][0] == web_pid),
        "servers": _sum(parents, lambda pid: pid != os.getpid() and _is_ours(parents, pid)),
        "client": client,
    }


def _sum(parents: dict[int, tuple[int, str, float]], is_wanted: Callable[[int], bool]) -> float:
    return sum(parents[pid][2] for pid in parents if is_wanted(pid))


def _is_ours(parents: dict[int, tuple[int, str, float]], pid: int) -> bool:
    """Whether the process is a PostgreSQL or Valkey that this run started."""
    if not parents[pid][1].startswith(("postgres", "valkey", "redis")):
        return False
    while pid in parents and pid != os.getpid():
        pid = parents[pid][0]
    return pid == os.getpid()


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


def _compare_ledger(tenant_ids: list[object], answered: int) -> bool:
    logged = stage.row(
        "SELECT coalesce(sum(calls), 0) FROM metering_call WHERE tenant_id = ANY(%s) AND outcome = 'billable'",
        tenant_ids,
    )[0]
    rolled_up = stage.row(
        "SELECT coalesce(sum(units), 0) FROM metering_usage_hour WHERE tenant_id = ANY(%s)", tenant_ids
    )[0]
    used, reserved = stage.row(
        "SELECT sum(used), sum(reserved) FROM metering_quota WHERE tenant_id = ANY(%s)", tenant_ids
    )
    is_equal = answered == logged == rolled_up == used and reserved == 0
    print(
        f"Metered calls answered 200: {answered:,}; in the call log: {logged:,}; in the usage hours: {rolled_up:,}; "
        f"quota used: {used:,}; still reserved: {reserved:,}. {'Equal.' if is_equal else 'NOT EQUAL.'}"
    )
    return is_equal


if __name__ == "__main__":
    main()
