"""What a web process keeps: its resident memory over 1,000,000 calls of 100,000 tenants.

uv run python -m benchmarks.memory [--calls 1000000] [--tenants 100000]

Through Django's WSGI handler in process: one call of each tenant, then ten at a time of random ones. About 12 minutes.
"""

import sys

from benchmarks import stage

STEPS = 10


def main() -> None:
    options = stage.options(__doc__, calls=(1_000_000, 2_000), tenants=(100_000, 400))
    with stage.servers():
        from django.conf import settings  # noqa: PLC0415 -- only after the environment is set

        from benchmarks import wsgi_runs  # noqa: PLC0415
        from tenants.keys import CACHED_KEYS  # noqa: PLC0415

        keys = stage.tenants_in_bulk(options.tenants)
        (readings,) = stage.in_processes(1, wsgi_runs.memory, keys, options.calls, options.calls // STEPS)
        kept = settings.METERING["TENANTS_KEPT"]
        print(f"Bounds: TENANTS_KEPT {kept:,} (above it idle tenants are forgotten), {CACHED_KEYS:,} verified keys.\n")
        rows = [
            [
                f"{it.calls:,}",
                f"{it.resident_mb:.1f}",
                f"{it.tenants_known:,}",
                f"{it.keys_known:,}",
                f"{it.seconds:,.0f}",
            ]
            for it in readings
        ]
        stage.print_table(["calls", "resident MB", "tenants known", "keys known", "after s"], rows)
        is_balanced = stage.balance(options.calls)
    sys.exit(0 if is_balanced else 1)


if __name__ == "__main__":
    main()
