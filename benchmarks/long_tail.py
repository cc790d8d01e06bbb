"""What the first call of a tenant costs that the process knows nothing about, one of 100,000, each with a key.

uv run python -m benchmarks.long_tail [--tenants 100000] [--calls 2000] [--rounds 7]

Through Django's WSGI handler in process; the unmetered view authenticates with a key that it has not seen either.
"""

import itertools
import random
import sys
from typing import Any

from benchmarks import stage, wire


def main() -> None:
    options = stage.options(__doc__, tenants=(100_000, 500), calls=(2_000, 200), rounds=(7, 1))
    with stage.servers():
        from benchmarks import wsgi_runs  # noqa: PLC0415 -- only after the environment is set

        keys = stage.tenants_in_bulk(options.tenants)
        random.shuffle(keys)
        whose = itertools.cycle(keys)
        found = []
        for _ in range(options.rounds):
            unmetered, metered = (list(itertools.islice(whose, options.calls)) for _ in range(2))
            found += stage.in_processes(1, wsgi_runs.long_tail, unmetered, metered)
        print(
            f"{options.tenants:,} tenants, {options.rounds} fresh processes with {options.calls:,} tenants each, medians:\n"
        )
        _print_costs([(each[wsgi_runs.UNMETERED], each[wsgi_runs.METERED]) for each in found])
        _print_sent([each[wsgi_runs.UNMETERED] for each in found], "an unmetered call sends")
        _print_sent([each[wsgi_runs.METERED] for each in found], "a metered call sends")
        _print_sent([each["other threads"] for each in found], "the flush thread, for each metered call")
        is_balanced = stage.balance(options.rounds * options.calls)
    sys.exit(0 if is_balanced else 1)


def _print_costs(found: list[tuple[Any, Any]]) -> None:
    rows = []
    for name, taken, rank in (("p50", "wall_us", 50), ("p99", "wall_us", 99), ("p50, CPU of the thread", "cpu_us", 50)):
        both = [[stage.percentile(sorted(getattr(cold, taken)), rank) for cold in pair] for pair in found]
        added = [metered - unmetered for unmetered, metered in both]
        rows.append([name, *(f"{stage.median(values):,.0f}" for values in (*zip(*both, strict=True), added))])
    stage.print_table(["us a call, each of another tenant", "unmetered", "metered", "added"], rows)


def _print_sent(found: list[Any], title: str) -> None:
    whats = sorted({what for cold in found for what in cold.sent})
    rows = [[f"`{what}`", f"{stage.median([cold.sent.get(what, 0.0) for cold in found]):.2f}"] for what in whats]
    statements = stage.median([cold.sent.total() - cold.sent[wire.VALKEY] for cold in found])
    stage.print_table([title, "times"], [*rows, ["**SQL round trips in all**", f"**{statements:.2f}**"]])


if __name__ == "__main__":
    main()
