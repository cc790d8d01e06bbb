"""Real PostgreSQL and Valkey servers for the demo, the tests and `manage.py stack`. Needs no Django.

A server that `DATABASE_URL` or `REDIS_URL` names is used as it is, and nothing is started in its place.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from config.stack import account, programs
from config.stack.errors import StackError, explained
from config.stack.locks import StateLock
from config.stack.postgres import Options, Postgres
from config.stack.programs import Candidates
from config.stack.valkey import Valkey

SCHEMES = {"DATABASE_URL": {"postgresql", "postgres"}, "REDIS_URL": {"redis", "rediss", "unix"}}
EXAMPLES = {"DATABASE_URL": "postgresql://user:password@host:5432/name", "REDIS_URL": "redis://:password@host:6379/0"}

__all__ = ["Stack", "StackError", "StackURLs"]


@dataclass(frozen=True)
class StackURLs:
    """Where the servers are."""

    database_url: str
    redis_url: str


class Stack:
    """The servers of one state folder. `start` belongs into the main thread: see `Server._tethered`."""

    urls: StackURLs

    def __init__(
        self,
        state_dir: Path,
        *,
        postgres_port: int | None = None,
        redis_port: int | None = None,
        durable: bool = True,
        environ: Mapping[str, str] = os.environ,
        say: Callable[[str], None] = print,
        postgres_candidates: Candidates = programs.postgres_candidates,
        valkey_candidates: Candidates = programs.valkey_candidates,
    ) -> None:
        self._state_dir = state_dir.absolute()
        self._postgres_options = Options(port=postgres_port, durable=durable)
        self._redis_port = redis_port
        self._environ = environ
        self._say = say
        self._postgres_candidates = postgres_candidates
        self._valkey_candidates = valkey_candidates
        self._lock = StateLock(self._state_dir)
        self._servers: list[Postgres | Valkey] = []
        self._dead_since: dict[str, float] = {}

    def start(self) -> StackURLs:
        """Both servers accept connections; StackError, and nothing left running, if they cannot."""
        database_url, redis_url = self._environ.get("DATABASE_URL", ""), self._environ.get("REDIS_URL", "")
        try:
            if not (database_url and redis_url):
                self._take_state_dir()
            database_url = self._external("PostgreSQL", "DATABASE_URL") or self._started(self._postgres())
            redis_url = self._external("Valkey", "REDIS_URL") or self._started(self._valkey())
        except BaseException:
            self.stop()
            raise
        self.urls = StackURLs(database_url=database_url, redis_url=redis_url)
        return self.urls

    def dead(self) -> str | None:
        """A sentence about the server that died, with the end of its log; None while all are well."""
        for each in self._servers:
            if obituary := each.server.obituary():
                return obituary
        return None

    def revive(self, *, after_seconds: float, now: float) -> list[str]:
        """Servers that have been dead for so long run again; returns what there is to say. `now` is monotonic."""
        lines = []
        for each in self._servers:
            name = each.server.name
            if each.server.exit_code() is None:
                self._dead_since.pop(name, None)
            elif name not in self._dead_since:
                self._dead_since[name] = now
                lines.append(f"{each.server.obituary()}\nIt is started again in {after_seconds:.0f} s.")
            elif now - self._dead_since[name] >= after_seconds:
                self._dead_since[name] = now
                lines += self._revived(each)
        return lines

    def _revived(self, each: Postgres | Valkey) -> list[str]:
        try:
            with explained(self._state_dir):
                return [f"{each.server.name} runs again."] if each.revive() else []
        except StackError as error:
            return [str(error)]

    def stop(self) -> None:
        """No server of ours runs and the state folder is free; calling again is harmless."""
        with _undisturbed():
            for each in self._servers:
                each.server.ask_to_end()
            for each in self._servers:
                each.stop()
            self._servers.clear()
            self._lock.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _take_state_dir(self) -> None:
        with explained(self._state_dir):
            self._state_dir.mkdir(parents=True, exist_ok=True)
            self._lock.take()

    def _external(self, name: str, variable: str) -> str:
        url = self._environ.get(variable, "")
        if url and urlsplit(url).scheme not in SCHEMES[variable]:
            raise StackError(f"{variable} is not an address of {name}. Write it as {EXAMPLES[variable]}, or unset it.")
        if url:
            parts = urlsplit(url)
            self._say(f"{name} from {variable}, {parts.hostname or 'local'}:{parts.port or 'default port'}")
        return url

    def _started(self, server: Postgres | Valkey) -> str:
        self._servers.append(server)  # first: a server that fails to start may still have to be stopped
        with explained(self._state_dir):
            return server.start()

    def _postgres(self) -> Postgres:
        program = programs.first(
            self._postgres_candidates,
            self._environ,
            name="PostgreSQL",
            variable="DATABASE_URL",
            package="postgresql",
        )
        return Postgres(self._state_dir, program, self._postgres_options, self._say)

    def _valkey(self) -> Valkey:
        program = programs.first(
            self._valkey_candidates,
            self._environ,
            name="Valkey",
            variable="REDIS_URL",
            package="valkey or redis-server",
        )
        user = account.for_folder(self._state_dir / "postgres")
        return Valkey(self._state_dir, program, self._redis_port, user, self._say)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C waits until the block has ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
