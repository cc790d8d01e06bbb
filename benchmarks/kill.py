"""What a SIGKILL of a web worker costs: 50 of them at random under load, every answer compared with the ledger.

uv run python -m benchmarks.kill [--kills 50] [--processes 2] [--clients 8]
"""

import os
import random
import signal
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks import stage
from benchmarks.load import Connection, drive
from benchmarks.product import Web, served

TENANTS = 4
INCLUDED = 10_000_000  # bounded, so that leaked units would be missing
WINDOW_MS = 50
WORKER_FIELD = "Benchmark-Worker"


@dataclass(slots=True)
class Seen:
    """What the client and the killer saw. Times are perf_counter_ns of this process."""

    answers: dict[int, list[tuple[int, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # by worker: when, call
    kills: dict[int, int] = field(default_factory=dict)  # worker: when
    refused: list[int] = field(default_factory=list)
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """What one kill took."""

    lost: int
    answered_in_window: int
    oldest_ms: float  # how long before the kill the oldest lost call had been answered


def main() -> None:
    options = stage.options(__doc__, kills=(50, 3), processes=(2, 2), clients=(8, 4))
    with stage.servers("benchmarks.named_settings"):
        keys = [stage.tenant(included=INCLUDED).api_key for _ in range(TENANTS)]
        with served(workers=options.processes) as web:
            clients = [Connection(web.address, keys[number % TENANTS]) for number in range(options.clients)]
            seen = _under_load(web, clients, options.kills)
            for client in clients:
                client.close()
        is_fine = _compare(seen)
        leaked = _leaked()
    sys.exit(0 if is_fine and not leaked else 1)


def _under_load(web: Web, clients: list[Connection], kills: int) -> Seen:
    seen = Seen()
    killer = threading.Thread(target=_kill_at_random, args=(web, kills, seen.kills))

    def watch(client: Connection, status: int, at: int) -> None:
        if status == 200:
            seen.answers[int(client.field(WORKER_FIELD))].append((at, client.field("Meterhouse-Call-Id")))

    killer.start()
    try:
        measured = drive(clients, "/sandbox/v1/auth/session", goes_on=killer.is_alive, watch=watch, tolerant=True)
    finally:
        killer.join()
    seen.refused, seen.cut = measured.refused, measured.cut
    return seen


def _kill_at_random(web: Web, kills: int, killed: dict[int, int]) -> None:
    while len(killed) < kills:
        time.sleep(random.uniform(0.3, 1.0))
        pid = random.choice(web.workers())
        if pid not in killed:
            killed[pid] = time.perf_counter_ns()
            os.kill(pid, signal.SIGKILL)
    time.sleep(1.0)


def _compare(seen: Seen) -> bool:
    """Print what the kills took; whether nothing was counted that was not called, and nothing is missing of workers that lived."""
    from metering.models import Call  # noqa: PLC0415 -- only after the environment is set

    logged = [str(call_id) for call_id in Call.objects.values_list("id", flat=True)]
    in_ledger = set(logged)
    answered = {call_id for answers in seen.answers.values() for _, call_id in answers}
    losses = [_loss(seen.answers[pid], at, in_ledger) for pid, at in seen.kills.items()]
    lost = sum(loss.lost for loss in losses)
    elsewhere = len(answered - in_ledger) - lost
    unanswered = len(in_ledger - answered)
    over = len(logged) - len(in_ledger) + max(0, unanswered - seen.cut)
    beyond = sum(loss.lost > loss.answered_in_window for loss in losses)
    worst = max(losses, key=lambda loss: loss.lost)
    stage.print_table(
        ["SIGKILL of a web worker", ""],
        [
            ["kills", len(losses)],
            ["calls answered 200", f"{len(answered):,}"],
            ["calls that a kill cut off before their answer", f"{seen.cut:,}"],
            ["of these in the ledger all the same", f"{unanswered:,}"],
            ["**over-counted** (in the ledger twice, or never called)", f"**{over}**"],
            ["answered and not in the ledger, all kills", f"{lost:,}"],
            ["the same, median and most for one kill", f"{stage.median([it.lost for it in losses]):g}, {worst.lost}"],
            [
                f"that process answered in its last {WINDOW_MS} ms, median and at that worst kill",
                f"{stage.median([it.answered_in_window for it in losses]):g}, {worst.answered_in_window}",
            ],
            [f"**kills that took more than the last {WINDOW_MS} ms**", f"**{beyond}**"],
            ["the oldest call that was lost, before the kill", f"{max(it.oldest_ms for it in losses):.1f} ms"],
            ["answered by workers that lived, and not in the ledger", elsewhere],
            ["answers other than 200", len(seen.refused)],
        ],
    )
    return over == elsewhere == 0 and not seen.refused


def _loss(answers: list[tuple[int, str]], killed_at: int, in_ledger: set[str]) -> Loss:
    lost = [at for at, call_id in answers if call_id not in in_ledger]
    first = bisect_left(answers, (killed_at - WINDOW_MS * 1_000_000, ""))
    oldest_ms = (killed_at - min(lost)) / 1e6 if lost else 0.0
    return Loss(len(lost), len(answers) - first, oldest_ms)


def _leaked() -> int:
    """Units that are still reserved after dead processes' leases have expired and were reclaimed; says so."""
    from django.conf import settings  # noqa: PLC0415

    from metering.tasks import reclaim_dead  # noqa: PLC0415

    held = stage.books().reserved
    time.sleep(settings.METERING["LEASE_SECONDS"] + 1)
    reclaim_dead()
    books = stage.books()
    is_balanced = stage.balance(books.logged)
    print(f"Units that the dead processes held: {held:,}; reserved after they expired: {books.reserved:,}.")
    return books.reserved if is_balanced else 1


if __name__ == "__main__":
    main()
