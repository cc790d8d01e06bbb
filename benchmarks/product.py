"""The product as it is served, and the CPU that it, the servers behind it and everybody else use."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stage

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Web:
    address: tuple[str, int]
    pid: int  # gunicorn's master

    def workers(self) -> list[int]:
        """The workers that live now."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


@contextmanager
def served(
    *, workers: int = 2, worker_class: str = "gthread", environment: Mapping[str, str] | None = None
) -> Iterator[Web]:
    """Real gunicorn with the product's own configuration; stopped cleanly afterwards, so everything is flushed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address: tuple[str, int] = probe.getsockname()
    env = {
        **os.environ, **(environment or {}), "WEB_BIND": f"127.0.0.1:{address[1]}", "WEB_WORKERS": str(workers),
        "WEB_WORKER_CLASS": worker_class,
        "WEB_THREADS": "1" if worker_class == "sync" else "8",  # with more threads gunicorn's sync is gthread
    }  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "-c", "config/gunicorn.py", "config.wsgi"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=stage.ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
        web = Web(address, process.pid)
        try:
            _wait_until_it_serves(web, workers, process)
            yield web
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _wait_until_it_serves(web: Web, workers: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(web.address) == 0 and len(web.workers()) == workers:
                time.sleep(0.5)
                return
        time.sleep(0.05)
    raise SystemExit("gunicorn did not start.")


def cpu_seconds(*, benchmark_pid: int, web_pid: int = 0) -> dict[str, float]:
    """CPU used so far: by the whole machine, the web workers, the servers that the benchmark started, this process."""
    client = time.process_time()
    parents: dict[int, tuple[int, str, float]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                name, _, rest = (folder / "stat").read_text().rpartition(") ")
            except OSError:
                continue
            fields = rest.split()
            # user and system time, its own and that of its children who have ended
            parents[int(folder.name)] = (int(fields[1]), name.partition("(")[2], sum(map(int, fields[11:15])) / TICKS)
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return {
        "machine": (user + nice + system) / TICKS,
        "web": _sum(parents, lambda pid: web_pid in {pid, parents[pid][0]}),
        "servers": _sum(parents, lambda pid: pid != benchmark_pid and _is_server_of(benchmark_pid, parents, pid)),
        "client": client,
    }


def _sum(parents: dict[int, tuple[int, str, float]], is_wanted: Callable[[int], bool]) -> float:
    return sum(parents[pid][2] for pid in parents if is_wanted(pid))


def _is_server_of(benchmark_pid: int, parents: dict[int, tuple[int, str, float]], pid: int) -> bool:
    """Whether the process is a PostgreSQL or Valkey that this run started."""
    if not parents[pid][1].startswith(("postgres", "valkey", "redis")):
        return False
    while pid in parents and pid != benchmark_pid:
        pid = parents[pid][0]
    return pid == benchmark_pid
