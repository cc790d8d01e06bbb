"""What the engine itself can do, without HTTP: recorded calls a second, the price of an admission, exactness.

uv run python -m benchmarks.engine [--seconds 8] [--rounds 7]
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import stage
from benchmarks.stage import in_processes

PROCESSES = 2
TENANTS = 8
LIMIT, LIMIT_PROCESSES = 50_000, 4


def main() -> None:
    options = stage.options(__doc__, seconds=(8.0, 0.3), rounds=(7, 1), calls=(3000, 500))
    with stage.servers():
        _throughput(options.seconds, options.rounds)
        _admission()
        _added(options.rounds, options.calls)
        is_exact = _exactness()
    sys.exit(0 if is_exact else 1)


def _throughput(seconds: float, rounds: int) -> None:
    from benchmarks import engine_runs  # noqa: PLC0415 -- only after the environment is set

    variants = {
        "engine: admit, record": engine_runs.record_directly,
        "whole call: burst, admit, close, header fields": engine_runs.record_whole_calls,
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            tenancies = _tenancies(TENANTS)
            done = in_processes(PROCESSES, run, tenancies, seconds, time.time() + 4)
            total = sum(each.calls for each in done)
            _check(tenancies, total)
            span = max(each.committed for each in done) - min(each.started for each in done)
            rates[name].append(total / span)
            cpu[name].append(sum(each.cpu_seconds for each in done) / total * 1e6)
    print(f"Recorded by {PROCESSES} processes for {TENANTS} tenants, first call to last commit; medians of {rounds}:\n")
    rows = [[name, f"{stage.median(rates[name]):,.0f}", f"{stage.median(cpu[name]):.1f}"] for name in variants]
    stage.print_table(["what each call does", "calls/s", "CPU us a call in these processes"], rows)


def _admission() -> None:
    from benchmarks import engine_runs  # noqa: PLC0415

    rows = []
    for name, count, units in (("out of a lease", 100_000, 1000), ("taking a lease", 3_000, 1)):
        (p50, p99) = in_processes(1, engine_runs.admission_us, _tenancies(1)[0], count, units)[0]
        rows.append([name, f"{p50:,.1f}", f"{p99:,.1f}"])
    stage.print_table(["one admission", "p50 us", "p99 us"], rows)


def _added(rounds: int, count: int) -> None:
    from benchmarks import wsgi_runs  # noqa: PLC0415

    found = [in_processes(1, wsgi_runs.added_in_process, [stage.tenant().api_key], count)[0] for _ in range(rounds)]

    def middle(value: Callable[[Any], float]) -> str:
        return f"{stage.median([value(each) for each in found]):,.0f}"

    rows = [
        ["p50 of the request's thread", middle(lambda it: it.unmetered_p50), middle(lambda it: it.metered_p50),
         middle(lambda it: it.metered_p50 - it.unmetered_p50)],
        ["whole process, flush included", middle(lambda it: it.unmetered_cpu), middle(lambda it: it.metered_cpu),
         middle(lambda it: it.metered_cpu - it.unmetered_cpu)],
    ]  # fmt: skip
    stage.print_table(["CPU us a request, in process", "unmetered", "metered", "added"], rows)


def _exactness() -> bool:
    from benchmarks import engine_runs  # noqa: PLC0415

    tenancy = _tenancies(1, included=LIMIT)[0]
    admitted = in_processes(LIMIT_PROCESSES, engine_runs.admit_until_refused, tenancy, time.time() + 8)
    books = stage.books([tenancy.tenant_id])
    is_exact = sum(admitted) == LIMIT and books == (LIMIT, LIMIT, LIMIT, 0)
    print(
        f"{LIMIT_PROCESSES} processes against a limit of {LIMIT:,}: admitted {sum(admitted):,} "
        f"({', '.join(f'{each:,}' for each in admitted)}); call log {books.logged:,}, usage hours {books.rolled_up:,}, "
        f"quota used {books.used:,}, reserved {books.reserved:,}. {'Exact.' if is_exact else 'NOT EXACT.'}"
    )
    return is_exact


def _tenancies(count: int, *, included: int | None = None) -> list[Any]:
    from benchmarks.engine_runs import Tenancy  # noqa: PLC0415

    made = [stage.tenant(included=included) for _ in range(count)]
    return [Tenancy(each.tenant.id, each.key.project_id, each.key.id, each.tenant.slug) for each in made]


def _check(tenancies: Sequence[Any], total: int) -> None:
    found = stage.books([each.tenant_id for each in tenancies])
    if found != (total, total, total, 0):
        raise SystemExit(f"Recorded {total:,}, but {found}.")


if __name__ == "__main__":
    main()
