"""Whether a call of ten busy tenants costs more when there are many others: databases of 10 to 100,000 tenants, in turn.

uv run python -m benchmarks.hot_set [--tenants 100000] [--calls 3000] [--rounds 7]

Through Django's WSGI handler in process. The last variant's process has just served so many of the others that it keeps
only some of them in memory.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import stage

HOT = 10


def main() -> None:
    options = stage.options(__doc__, tenants=(100_000, 200), seen=(15_000, 50), calls=(3_000, 500), rounds=(7, 1))
    with stage.servers():
        from benchmarks import wsgi_runs  # noqa: PLC0415 -- only after the environment is set

        counts = sorted({HOT, min(1_000, options.tenants // 2), options.tenants})
        urls = {count: stage.database(f"tenants_{count}") for count in counts}
        keys = {
            count: stage.in_processes(1, stage.tenants_in_bulk, count, database_url=url)[0]
            for count, url in urls.items()
        }
        variants = [(f"{count:,}", count, 0) for count in urls]
        variants.append((f"{options.tenants:,}, {options.seen:,} of them seen", options.tenants, options.seen))
        found: dict[str, list[Any]] = {name: [] for name, _, _ in variants}
        answered = dict.fromkeys(urls, 0)
        for number in range(options.rounds):
            shift = number % len(variants)
            for name, count, seen in variants[shift:] + variants[:shift]:
                tail = keys[count][HOT : HOT + seen]
                run = stage.in_processes(
                    1, wsgi_runs.added_in_process, keys[count][:HOT], options.calls, os.getpid(), tail, database_url=urls[count]
                )  # fmt: skip
                found[name].append(run[0])
                answered[count] += run[0].metered_calls
        _print(found, options.rounds)
        balances = [
            stage.in_processes(1, stage.balance, answered[count], database_url=urls[count])[0] for count in counts
        ]
    sys.exit(0 if all(balances) else 1)


def _print(found: dict[str, list[Any]], rounds: int) -> None:
    values: dict[str, Callable[[Any], float]] = {
        "p50 of the thread": lambda it: it.metered_p50,
        "of it added": lambda it: it.metered_p50 - it.unmetered_p50,
        "whole process": lambda it: it.metered_cpu,
        "of it added ": lambda it: it.metered_cpu - it.unmetered_cpu,
        "PostgreSQL + Valkey": lambda it: it.metered_servers,
        "process and servers": lambda it: it.metered_cpu + it.metered_servers,
    }
    middles = {
        name: [stage.median([value(each) for each in runs]) for value in values.values()]
        for name, runs in found.items()
    }
    base = next(iter(middles.values()))[-1]
    rows = [
        [name, *(f"{middle:,.0f}" for middle in of_variant), f"{of_variant[-1] / base:.2f}"]
        for name, of_variant in middles.items()
    ]
    print(f"{HOT} busy tenants, CPU us a metered call; medians of {rounds} interleaved rounds.\n")
    stage.print_table(["tenants in the database", *(each.strip() for each in values), "against the first"], rows)


if __name__ == "__main__":
    main()
