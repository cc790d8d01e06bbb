"""A blocked tenant that goes on calling as fast as it is refused: what that costs, and what it does to others.

uv run python -m benchmarks.flood [--rounds 7] [--seconds 2] [--clients 8]

The other tenant calls from one connection: alone, beside the flood, and beside the same flood of an unmetered view, which
shows how much of the harm is only the machine being full.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from benchmarks import stage
from benchmarks.load import Connection, Measured, drive
from benchmarks.product import served

METERED, UNMETERED = "/sandbox/v1/auth/session", "/sandbox/v1/unmetered/auth/session"
ALONE, REFUSED, CONTROL = "alone", "beside the refused flood", "beside as many unmetered calls"
LEAD_SECONDS = 0.3


def main() -> None:
    options = stage.options(__doc__, rounds=(7, 1), seconds=(2.0, 0.4), clients=(8, 4))
    with stage.servers():
        blocked, other = stage.tenant(included=1).api_key, stage.tenant().api_key
        before = _statements()
        with served() as web:
            flood = Flood(web.address, blocked, options.clients)
            flood.hammer(METERED, 0.5)
            measured = flood.hammer(METERED, options.seconds * 2)
        # Read when the workers are gone: a server process reports its statements when it ends.
        refused, statements = len(measured.refused), _statements() - before
        print(
            f"One blocked tenant, {options.clients} connections, gunicorn gthread, 2 workers: "
            f"{refused / measured.seconds:,.0f} refused calls/s; {statements / refused:.3f} SQL statements a refused call "
            f"({statements:,} in all from start to stop: renewals, flushes, key checks, and the limit asked again ten times a "
            "second).\n"
        )
        found, answered = _beside(blocked, other, options)
        _print(found, options)
        is_balanced = stage.balance(answered + 1)
    sys.exit(0 if is_balanced else 1)


@dataclass(frozen=True, slots=True)
class Flood:
    address: tuple[str, int]
    key: str
    clients: int

    def hammer(self, path: str, seconds: float, start_at: float = 0.0) -> Measured:
        """All connections call as fast as they are answered, from `start_at` (wall clock) on."""
        connections = [Connection(self.address, self.key) for _ in range(self.clients)]
        time.sleep(max(0.0, start_at - time.time()))
        measured = drive(connections, path, seconds=seconds)
        for connection in connections:
            connection.close()
        return measured


def _beside(blocked: str, other: str, options: Any) -> tuple[dict[str, list[Measured]], int]:
    found: dict[str, list[Measured]] = {ALONE: [], REFUSED: [], CONTROL: []}
    answered = 0
    with served() as web, ProcessPoolExecutor(1, get_context("spawn")) as pool:
        connection, flood = Connection(web.address, other), Flood(web.address, blocked, options.clients)
        answered += drive([connection], METERED, seconds=0.5).calls
        for _ in range(options.rounds):
            for name, path in ((ALONE, ""), (REFUSED, METERED), (CONTROL, UNMETERED)):
                start_at = time.time() + LEAD_SECONDS
                if path:
                    noise = pool.submit(flood.hammer, path, options.seconds + 2 * LEAD_SECONDS, start_at)
                time.sleep(2 * LEAD_SECONDS)
                measured = drive([connection], METERED, seconds=options.seconds)
                if path:
                    noise.result()
                if measured.refused:
                    raise SystemExit(f"The other tenant's call was answered {measured.refused[0]}.")
                answered += measured.calls
                found[name].append(measured)
        connection.close()
    return found, answered


def _print(found: dict[str, list[Measured]], options: Any) -> None:
    def middle(name: str, rank: float) -> float:
        return stage.median([stage.percentile(sorted(it.latencies_us), rank) for it in found[name]])

    print(f"Another tenant's calls, one connection; medians of {options.rounds} interleaved rounds.\n")
    rows = [
        [
            name, f"{stage.median([it.calls / it.seconds for it in measured]):,.0f}",
            *(f"{middle(name, rank):,.0f}" for rank in (50, 99)), f"{middle(name, 99) / middle(ALONE, 99):.2f}",
        ]
        for name, measured in found.items()
    ]  # fmt: skip
    stage.print_table(["another tenant", "calls/s", "p50 us", "p99 us", "p99 against alone"], rows)


def _statements() -> int:
    """Transactions of this database so far; the engine's and the key lookup's statements are one each."""
    return int(stage.row("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")[0])


if __name__ == "__main__":
    main()
