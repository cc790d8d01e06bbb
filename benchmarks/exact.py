"""Whether the limit is exact over HTTP: limit 50,000, 100,000 requests from 64 connections, four web workers.

uv run python -m benchmarks.exact [--limit 50000] [--clients 64] [--processes 4]
"""

import sys

from benchmarks import stage
from benchmarks.load import Connection, drive
from benchmarks.product import served


def main() -> None:
    options = stage.options(__doc__, limit=(50_000, 500), clients=(64, 16), processes=(4, 2))
    with stage.servers():
        key = stage.tenant(included=options.limit).api_key
        with served(workers=options.processes) as web:
            clients = [Connection(web.address, key) for _ in range(options.clients)]
            measured = drive(clients, "/sandbox/v1/auth/session", calls=2 * options.limit)
            for client in clients:
                client.close()
        others = sorted(set(measured.refused) - {429})
        admitted = measured.calls - len(measured.refused)
        is_exact = admitted == options.limit and not others
        stage.print_table(
            ["limit", "requests", "connections", "web workers", "answered 200", "answered 429", "answers/s"],
            [
                [
                    *(f"{each:,}" for each in (options.limit, measured.calls, options.clients, options.processes)),
                    f"{admitted:,}", f"{measured.refused.count(429):,}", f"{measured.calls / measured.seconds:,.0f}",
                ]
            ],
        )  # fmt: skip
        print(f"Other answers: {others or 'none'}. {'Exact.' if is_exact else 'NOT EXACT.'}")
        is_balanced = stage.balance(admitted)
    sys.exit(0 if is_exact and is_balanced else 1)


if __name__ == "__main__":
    main()
