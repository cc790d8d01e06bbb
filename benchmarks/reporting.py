"""How long it takes until an hour's usage of many tenants is at Stripe: windows made, sent, and confirmed by the summaries.

uv run python -m benchmarks.reporting [--tenants 10000] [--senders 8]

Against the simulated Stripe in a process of its own, which refuses a second call at a time for a customer and meter (429), as
Stripe does. The other limit, 1,000 meter events a second, is far away with one event a request (v1); so the v2 stream, which
tells of refusals only afterwards, would gain nothing. Both processes and PostgreSQL share this machine.

It ends after ten minutes of settling at the latest; making the customers before that is not measured, and takes a few minutes.
Exits with 1 when not everything was settled in that time, or when Stripe's total is not the ledger's.
"""

import os
import socket
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks import stage

KEY = "sk_test_" + "simulatedStripe" * 2
UNITS = 7
LIMIT_SECONDS = 600
START_SECONDS = 20


def main() -> None:
    options = stage.options(__doc__, tenants=(10_000, 40), senders=(8, 2))
    port = _free_port()
    os.environ.update(
        STRIPE_API_BASE=f"http://127.0.0.1:{port}", STRIPE_TEST_SECRET_KEY=KEY, STRIPE_LIVE_MODE="false",
        REPORT_SENDERS=str(options.senders),
    )  # fmt: skip
    with stage.servers(), _simulator(port) as _:
        started = time.perf_counter()
        accounts = _subscribers(options.tenants)
        print(
            f"{options.tenants:,} customers made in {time.perf_counter() - started:,.0f} s; not measured.\n", flush=True
        )
        is_right = _print(_settled(accounts), options.tenants, port)
    sys.exit(0 if is_right else 1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _simulator(port: int) -> Any:
    environment = {**os.environ, "STRIPE_SIMULATOR_API_KEYS": KEY}
    command = [sys.executable, "-m", "sandbox.stripe_simulator", "--port", str(port), "--seed", "1"]
    process = subprocess.Popen(command, cwd=stage.ROOT, env=environment, stdout=subprocess.DEVNULL)
    return _Running(process, port)


class _Running:
    """The process, ended at the end."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def __enter__(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("The simulated Stripe did not start.")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


def _subscribers(count: int) -> list[uuid.UUID]:
    """Tenants on Launch, each with a customer and a billed period that began some hours ago, and calls two hours ago."""
    from billing import accounts, catalogue, stripe_api  # noqa: PLC0415 -- only after the environment is set
    from billing.models import Account, BilledPeriod, PaymentState, StripePrices  # noqa: PLC0415
    from metering.models import Allowance  # noqa: PLC0415

    now = datetime.now(UTC)
    begun, end = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=5), now + timedelta(days=27)
    catalogue.make(now=now)
    version = accounts.public_version(plan_code="launch")
    meter_id = StripePrices.objects.get(version=version).meter_id
    stage.tenants_in_bulk(count)
    ids = list(Allowance.objects.values_list("tenant_id", flat=True))
    for at, one in enumerate(ids):
        customer = stripe_api.create_customer(
            tenant_id=one, name=f"Tenant {at}", email=f"{at}@benchmark.example", key=f"customer-{one}"
        )
        Account.objects.create(
            pk=one, plan_version=version, anchor=begun, customer_id=customer, subscription_id=f"sub_{at}",
            state=PaymentState.ACTIVE, period_start=begun, period_end=end,
        )  # fmt: skip
    BilledPeriod.objects.bulk_create(
        BilledPeriod(
            account_id=one, version=version, currency="usd", subscription_id=f"sub_{at}", item_id=f"si_{at}",
            meter_id=meter_id, start=begun, end=end, counts_from=begun,
        )
        for at, one in enumerate(ids)
    )  # fmt: skip
    _used(ids, begun, end)
    return ids


def _used(ids: list[uuid.UUID], begun: datetime, end: datetime) -> None:
    from django.db import connection  # noqa: PLC0415

    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM metering_quota")
        cursor.execute(
            "SELECT metering_open_period(tenant_id, %s, %s, %s) FROM metering_allowance", [begun, end, begun]
        )
        cursor.execute(
            "INSERT INTO metering_usage_hour (tenant_id, hour, period_start, project_id, api_key_id, capability, billable, units)"
            " SELECT tenant_id, %s, %s, 1, 1, 'storage', %s, %s FROM metering_allowance",
            [begun + timedelta(hours=1), begun, UNITS, UNITS],
        )
        cursor.execute("UPDATE metering_quota SET used = %s", [UNITS])
        cursor.execute("VACUUM ANALYZE")


def _settled(ids: list[uuid.UUID]) -> dict[str, tuple[float, int]]:
    """Seconds and runs of each step: its task runs again until nothing is left, as beat would have it, or the time is over."""
    from billing import reporting  # noqa: PLC0415
    from billing.models import UsageReport  # noqa: PLC0415

    state, found, taken = UsageReport.State, UsageReport.objects, {}
    steps: Any = (
        ("made", reporting.make_due, lambda: found.count() == len(ids)),
        ("sent", reporting.send_due, lambda: not found.filter(state__in=(state.PENDING, state.SENDING)).exists()),
        ("confirmed", reporting.confirm_due, lambda: not found.exclude(state=state.CONFIRMED).exists()),
    )
    deadline = time.perf_counter() + LIMIT_SECONDS
    for name, act, is_done in steps:
        started, runs = time.perf_counter(), 0
        while not is_done() and time.perf_counter() < deadline:
            act(now=datetime.now(UTC))
            runs += 1
        taken[name] = (time.perf_counter() - started, runs)
    return taken


def _print(taken: dict[str, tuple[float, int]], count: int, port: int) -> bool:
    """Whether everything is settled, and Stripe's own total is the ledger's."""
    import requests  # noqa: PLC0415

    from billing.models import UsageReport  # noqa: PLC0415

    usage = requests.get(f"http://127.0.0.1:{port}/_simulator/oracle", timeout=60).json()["usage"]
    total = sum(one["accepted"] for one in usage)
    rows = [[name, f"{seconds:,.1f}", f"{count / seconds:,.0f}", str(runs)] for name, (seconds, runs) in taken.items()]
    whole = sum(seconds for seconds, _ in taken.values())
    stage.print_table([f"{count:,} windows of {count:,} tenants", "seconds", "a second", "runs of the task"], [
        *rows, ["**in all**", f"**{whole:,.1f}**", f"**{count / whole:,.0f}**", ""],
    ])  # fmt: skip
    settled = UsageReport.objects.filter(state=UsageReport.State.CONFIRMED).count()
    events = sum(one["events"] for one in usage)
    is_right = (total, settled, len(usage), events) == (count * UNITS, count, count, count)
    print(
        f"{settled:,} windows settled by {events:,} meter events. Stripe counts {total:,} units, the ledger {count * UNITS:,}: "
        f"{'all of it' if is_right else 'NOT ALL OF IT'}.\n"
    )
    return is_right


if __name__ == "__main__":
    main()
