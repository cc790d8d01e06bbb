"""How many decisions a second `/gate` makes over HTTP, and what nginx's `auth_request` adds to a request.

    uv run python -m benchmarks.gateway [--rounds 7] [--seconds 1.3] [--clients 8] [--workers 2]

Real gunicorn. First proxies that ask as fast as they are answered; their calls are told afterwards, in batches, and the books must
say what was answered. Then, where nginx is installed, the same small answer of nginx itself with the gateway and without, in one
run, rounds interleaved; latency with one connection. Exits 1 when the books are wrong.
"""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stage
from benchmarks.load import Connection, Measured, drive
from benchmarks.product import Web, cpu_seconds, served

SECRET = "benchmark-" * 4
PATHS = "/=storage"
ENVIRONMENT = {"GATE_SECRETS": SECRET, "GATE_PATHS": PATHS}
TENANTS = 8
BATCH = 1000
LATENCY_SHARE = 0.45  # of a throughput stretch
ASK = "/gate/at/objects"  # answered with 200, as Envoy asks: the load client reads answers with a length
ADMITTED = 200


@dataclass(slots=True)
class Cell:
    """One variant in one round."""

    per_second: float
    p50: float
    p99: float
    busy_p99: float
    cpu_us: float  # of the web workers, PostgreSQL and Valkey, a request


def main() -> None:
    options = stage.options(__doc__, rounds=(7, 1), seconds=(1.3, 0.2), clients=(8, 2), workers=(2, 1))
    with stage.servers(), tempfile.TemporaryDirectory(prefix="meterhouse-gateway-") as folder:
        keys = [stage.tenant().api_key for _ in range(TENANTS)]
        with served(workers=options.workers, environment=ENVIRONMENT) as web:
            calls = _decisions(web, keys, options)
            calls += _behind_nginx(web, keys, options, Path(folder))
            settled, seconds = _tell(web)
        print(f"Outcomes: {settled:,} told in batches of {BATCH:,}, {settled / seconds:,.0f} a second by one teller.\n")
        is_right = stage.balance(calls)
    sys.exit(0 if is_right else 1)


def _decisions(web: Web, keys: list[str], options: object) -> int:
    clients, rounds, seconds = (getattr(options, name) for name in ("clients", "rounds", "seconds"))
    connections = [Connection(web.address, keys[number % TENANTS]) for number in range(clients)]
    calls = _checked(drive(connections, ASK, seconds=0.5)).calls
    cells = []
    for _ in range(rounds):
        cell, counted = _cell(web, connections, ASK, seconds)
        cells.append(cell)
        calls += counted
    for connection in connections:
        connection.close()
    print(f"Decisions over HTTP, {rounds} rounds, {clients} connections, latency with one:\n")
    _print({"GET /gate": cells})
    return calls


def _cell(web: Web, connections: list[Connection], path: str, seconds: float) -> tuple[Cell, int]:
    before = cpu_seconds(benchmark_pid=os.getpid(), web_pid=web.pid)
    busy = _checked(drive(connections, path, seconds=seconds))
    after = cpu_seconds(benchmark_pid=os.getpid(), web_pid=web.pid)
    used = sum(after[who] - before[who] for who in ("web", "servers"))
    alone = _checked(drive(connections[:1], path, seconds=seconds * LATENCY_SHARE))
    ordered, loaded = sorted(alone.latencies_us), sorted(busy.latencies_us)
    cell = Cell(
        busy.calls / busy.seconds,
        stage.percentile(ordered, 50),
        stage.percentile(ordered, 99),
        stage.percentile(loaded, 99),
        used / busy.calls * 1e6,
    )
    return cell, busy.calls + alone.calls


def _checked(measured: Measured) -> Measured:
    if measured.refused:
        raise SystemExit(f"The gateway answered {measured.refused[0]}: this run measures nothing.")
    return measured


# -- behind nginx --------------------------------------------------------------------------------------------------------


def _behind_nginx(web: Web, keys: list[str], options: object, folder: Path) -> int:
    """Print what `auth_request` adds; returns how many calls were admitted."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        print("nginx is not installed: what it adds is not measured.\n")
        return 0
    rounds, seconds, clients = (getattr(options, name) for name in ("rounds", "seconds", "clients"))
    variants = {"nginx alone": "/alone", "nginx and the gateway": "/metered"}
    cells: dict[str, list[Cell]] = {name: [] for name in variants}
    admitted = 0
    with _nginx(program, web, folder) as address:
        connections = [Connection(address, keys[number % TENANTS]) for number in range(clients)]
        for path in variants.values():
            counted = _checked(drive(connections, path, seconds=0.3)).calls
            admitted += counted if path == "/metered" else 0
        for number in range(rounds):
            order = list(variants.items())
            for name, path in order if number % 2 else order[::-1]:
                cell, counted = _cell(web, connections, path, seconds)
                cells[name].append(cell)
                admitted += counted if path == "/metered" else 0
        for connection in connections:
            connection.close()
    print("Behind nginx, the same answer of nginx itself:\n")
    _print(cells)
    return admitted


@contextmanager
def _nginx(program: str, web: Web, folder: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address: tuple[str, int] = probe.getsockname()
    gate = re.search(r"    location = /_gate \{.*?\n    \}", (stage.ROOT / "docs/gateway.md").read_text(), re.DOTALL)
    assert gate is not None
    config = folder / "nginx.conf"
    config.write_text(f"""
        daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
        {"user root;" if os.getuid() == 0 else ""}
        events {{ worker_connections 512; }}
        http {{
            access_log off; keepalive_requests 10000000;
            client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
            uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            upstream meterhouse {{ server 127.0.0.1:{web.address[1]}; keepalive 64; }}
            upstream product {{ server 127.0.0.1:{address[1]}; keepalive 64; }}
            server {{
                listen 127.0.0.1:{address[1]};
                {gate[0]}
                location = /product {{ return 200 "ok"; }}
                location = /alone {{
                    proxy_pass http://product/product; proxy_http_version 1.1; proxy_set_header Connection "";
                }}
                location = /metered {{
                    auth_request /_gate;
                    proxy_pass http://product/product; proxy_http_version 1.1; proxy_set_header Connection "";
                }}
            }}
        }}
    """)
    process = subprocess.Popen([program, "-p", str(folder), "-c", str(config), "-e", f"{folder}/error.log"])
    try:
        while socket.socket().connect_ex(address) and process.poll() is None:
            time.sleep(0.02)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=10)


# -- afterwards ----------------------------------------------------------------------------------------------------------


def _tell(web: Web) -> tuple[int, float]:
    """Every call that waits is told as served; how many, and the seconds of telling."""
    from django.db import connection  # noqa: PLC0415 -- only after the environment is set

    settled, seconds = 0, 0.0
    time.sleep(0.5)  # the last flush
    client = http.client.HTTPConnection(*web.address, timeout=60)
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    while True:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM metering_pending ORDER BY admitted_at LIMIT %s", [BATCH])
            ids = [str(row[0]) for row in cursor.fetchall()]
        if not ids:
            client.close()
            return settled, max(seconds, 1e-9)
        body = json.dumps([{"call_id": one, "status": ADMITTED, "latency_ms": 1.5} for one in ids])
        asked = time.perf_counter()
        client.request("POST", "/gate/outcomes", body, headers)
        settled += json.loads(client.getresponse().read())["settled"]
        seconds += time.perf_counter() - asked


def _print(variants: dict[str, list[Cell]]) -> None:
    def middle(cells: list[Cell], name: str) -> str:
        return f"{stage.median([getattr(cell, name) for cell in cells]):,.0f}"

    columns = ("per_second", "p50", "p99", "busy_p99", "cpu_us")
    stage.print_table(
        ["variant", "a second", "p50 us", "p99 us", "p99 us, all connections", "CPU us behind it"],
        [[name, *(middle(cells, column) for column in columns)] for name, cells in variants.items()],
    )
    if len(variants) > 1:
        before, after = variants.values()
        added = {
            column: stage.median([getattr(b, column) - getattr(a, column) for a, b in zip(before, after, strict=True)])
            for column in ("p50", "p99")
        }
        print(f"Added by the gateway: {added['p50']:,.0f} us p50, {added['p99']:,.0f} us p99.\n", flush=True)


if __name__ == "__main__":
    main()
