"""How many events a second `POST /api/v1/events` takes: in batches, with dedup, ledger, rollup and quota in one commit each.

    uv run python -m benchmarks.events [--seconds 20] [--batch 1000] [--senders 4] [--workers 2]

Real gunicorn, senders in threads of this process, each for a tenant of its own; CloudEvents with
a time and a latency, all names new. Then some of the batches are sent once more: all must be duplicates, and nothing
may be added. Exits 1 when the books are wrong.
"""

import http.client
import itertools
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks import stage
from benchmarks.product import Web, served

MARK = "@@"  # in the prepared body, where each batch's own number goes: the sender's CPU is not what is measured
CAPABILITIES = ("auth", "database", "storage")
SENT_AGAIN = 3


@dataclass(frozen=True, slots=True)
class Stretch:
    events: int
    latencies_ms: list[float]
    bodies: list[bytes]
    faults: int


def main() -> None:
    options = stage.options(__doc__, seconds=(20.0, 0.5), batch=(1000, 20), senders=(4, 2), workers=(2, 1))
    with stage.servers():
        keys = [_sender() for _ in range(options.senders)]
        with served(workers=options.workers) as web:
            warm, _ = _drive(web, keys, options.batch, 1.0)
            sent, seconds = _drive(web, keys, options.batch, options.seconds)
            again = sum(_again(web, key, one.bodies) for key, one in zip(keys, sent, strict=True))
        faults = sum(one.faults for one in sent)
        _print(sent, seconds, options)
        print(f"Sent again: {again:,} events, all of them duplicates. Faulty answers: {faults}.")
        is_right = stage.balance(sum(one.events for one in [*warm, *sent])) and faults == 0
    sys.exit(0 if is_right else 1)


def _sender() -> str:
    from tenants import keys  # noqa: PLC0415 -- only after the environment is set

    made = stage.tenant()
    return keys.issue(project=made.key.project, name="events", actor="benchmark", scopes=frozenset({"events:write"}))[1]


def _drive(web: Web, keys: list[str], batch: int, seconds: float) -> tuple[list[Stretch], float]:
    numbers = itertools.count(time.time_ns())
    began = time.perf_counter()
    with ThreadPoolExecutor(len(keys)) as pool:
        sent = list(pool.map(lambda key: _send(web, key, batch, began + seconds, numbers), keys))
    return sent, time.perf_counter() - began


def _send(web: Web, key: str, batch: int, until: float, numbers: Any) -> Stretch:
    template = json.dumps([_event(number) for number in range(batch)])
    connection, latencies, bodies, faults = http.client.HTTPConnection(*web.address), [], [], 0
    while time.perf_counter() < until:
        body = template.replace(MARK, str(next(numbers))).encode()
        asked = time.perf_counter()
        counts = _post(connection, key, body)
        latencies.append((time.perf_counter() - asked) * 1000)
        faults += counts.get("accepted") != batch
        bodies = [*bodies[-SENT_AGAIN + 1 :], body]
    connection.close()
    return Stretch(batch * len(latencies), latencies, bodies, faults)


def _event(number: int) -> dict[str, Any]:
    capability = CAPABILITIES[number % len(CAPABILITIES)]
    return {
        "specversion": "1.0", "type": capability, "source": "/benchmark", "id": f"{MARK}-{number}",
        "time": datetime.now(UTC).isoformat(), "data": {"quantity": 1, "status": 200, "latency_ms": number % 90},
    }  # fmt: skip


def _post(connection: http.client.HTTPConnection, key: str, body: bytes) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/cloudevents-batch+json"}
    connection.request("POST", "/api/v1/events", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    return json.loads(text) if answer.status == 200 else {}


def _again(web: Web, key: str, bodies: list[bytes]) -> int:
    """How many of these events were told to be duplicates; raises where one was not."""
    connection, told = http.client.HTTPConnection(*web.address), 0
    for body in bodies:
        counts = _post(connection, key, body)
        assert counts["accepted"] == 0, counts
        told += counts["duplicate"]
    connection.close()
    return told


def _print(sent: list[Stretch], seconds: float, options: Any) -> None:
    latencies = sorted(latency for one in sent for latency in one.latencies_ms)
    events = sum(one.events for one in sent)
    stage.print_table(
        ["web workers", "senders", "events a batch", "batches", "seconds", "events/s", "p50 ms", "p99 ms"],
        [
            [
                options.workers, options.senders, options.batch, f"{len(latencies):,}", f"{seconds:.1f}",
                f"{events / seconds:,.0f}", f"{stage.percentile(latencies, 50):.0f}",
                f"{stage.percentile(latencies, 99):.0f}",
            ]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
