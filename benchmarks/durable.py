"""What it costs to commit a call before its answer: a durable tenant against a buffered one over HTTP.

uv run python -m benchmarks.durable [--rounds 7] [--seconds 1]
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import stage
from benchmarks.load import Connection, drive
from benchmarks.product import served

CONNECTIONS = (1, 8)


@dataclass(frozen=True, slots=True)
class Stretch:
    per_second: float
    p50: float
    p99: float


def main() -> None:
    options = stage.options(__doc__, rounds=(7, 1), seconds=(1.0, 0.3))
    with stage.servers():
        keys = {name: stage.tenant(recording=name).api_key for name in ("buffered", "durable")}
        found: dict[tuple[str, int], list[Stretch]] = {(name, count): [] for count in CONNECTIONS for name in keys}
        answered = 0
        with served() as web:
            clients = {
                name: [Connection(web.address, key) for _ in range(max(CONNECTIONS))] for name, key in keys.items()
            }
            for number in range(-1, options.rounds):  # the first warms up
                for (name, count), stretches in found.items():
                    measured = drive(clients[name][:count], "/sandbox/v1/auth/session", seconds=options.seconds)
                    if measured.refused:
                        raise SystemExit(f"A {name} tenant's call was answered {measured.refused[0]}.")
                    answered += measured.calls
                    if number >= 0:
                        ordered = sorted(measured.latencies_us)
                        p50, p99 = (stage.percentile(ordered, rank) for rank in (50, 99))
                        stretches.append(Stretch(measured.calls / measured.seconds, p50, p99))
            for client in [*clients["buffered"], *clients["durable"]]:
                client.close()
        _print(found, options.rounds)
        is_balanced = stage.balance(answered)
    sys.exit(0 if is_balanced else 1)


def _print(found: dict[tuple[str, int], list[Stretch]], rounds: int) -> None:
    def middle(stretches: list[Stretch], value: Callable[[Stretch], float]) -> str:
        return f"{stage.median([value(each) for each in stretches]):,.0f}"

    print(f"gunicorn gthread, 2 workers, one tenant each; medians of {rounds} interleaved rounds.\n")
    rows = []
    for (name, count), stretches in found.items():
        base = found["buffered", count]
        ratio = stage.median([each.per_second / of.per_second for each, of in zip(stretches, base, strict=True)])
        rows.append([
            name, count, middle(stretches, lambda it: it.per_second), f"{ratio:.3f}",
            middle(stretches, lambda it: it.p50), middle(stretches, lambda it: it.p99),
        ])  # fmt: skip
    stage.print_table(["recording", "connections", "calls/s", "against buffered", "p50 us", "p99 us"], rows)


if __name__ == "__main__":
    main()
