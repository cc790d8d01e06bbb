"""A PostgreSQL server with its data in the state folder."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from config.stack import account as accounts
from config.stack import locks, passwords, ports
from config.stack.account import Account
from config.stack.errors import PortTaken, StackError, disk_full, from_log
from config.stack.programs import Program
from config.stack.server import Ladder, Server

NAME = "PostgreSQL"
ROLE = DATABASE = "meterhouse"
PORT_OPTION = "--postgres-port"
NEEDED_BYTES = 100 * 1024 * 1024
READY_SECONDS = 120  # recovery after a crash replays the log first
PORT_ATTEMPTS = 5
# SIGINT is PostgreSQL's "fast" shutdown, SIGQUIT its "immediate" one, from which it recovers.
LADDER = Ladder(((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)))
# Where a parent folder is closed to the server, it gets its own folder as an open descriptor: the kernel resolves this
# link without walking the path. The working folder would do, but PostgreSQL 15 leaves it to look for its binaries.
DESCRIPTORS = Path("/proc/self/fd")


@dataclass(frozen=True)
class Options:
    """What the caller of the stack chose."""

    port: int | None
    durable: bool


@dataclass(frozen=True)
class Running:
    """How the server was started, to start it again."""

    program: Program
    account: Account | None
    port: int


class Postgres:
    """The PostgreSQL of one state folder."""

    def __init__(self, state_dir: Path, program: Program, options: Options, say: Callable[[str], None]) -> None:
        self.server = Server(NAME, state_dir, LADDER)
        self._state_dir = state_dir
        self._program = program
        self._options = options
        self._say = say
        self._home = state_dir / "postgres"  # belongs to the user that runs the server
        self._data = self._home / "data"
        self._password_path = state_dir / "postgres.password"
        self._home_fd: int | None = None
        self._running: Running | None = None
        self._copy_path = state_dir / "postgres.copy"  # names the copied installation, outlives a SIGKILL

    def start(self) -> str:
        """The server accepts connections at the returned URL."""
        self.server.clear_leftovers(self._say)
        self._remove_copy()
        self._check_version()
        if self._options.port is not None:
            ports.check(self._options.port, name=NAME, option=PORT_OPTION)
        account = accounts.for_folder(self._home)
        self._prepare_home(account)
        self._open_home(account)
        program = self._reachable_program(account)
        password = self._initialised(program, account)
        port = self._listening(program, account)
        self._running = Running(program, account, port)
        user = f", as user {account.name}" if account else ""
        self._say(f"{NAME} {program.version} from {program.origin}, port {port}{user}")
        return f"postgresql://{ROLE}:{password}@127.0.0.1:{port}/{DATABASE}"

    def revive(self) -> bool:
        """A server that died runs again on its port; False when somebody else has started one there meanwhile."""
        assert self._running is not None
        program, account, port = self._running.program, self._running.account, self._running.port
        if ports.answers(port):
            return False
        self.server.spawn(self._command(program, port), account=account, keep_fds=self._kept_fds())
        self._wait_until_ready(port)
        return True

    def stop(self) -> None:
        """The server has ended and its copied installation is gone; calling again is harmless."""
        self.server.end()
        if self._home_fd is not None:
            os.close(self._home_fd)
            self._home_fd = None
        self._remove_copy()

    def _check_version(self) -> None:
        if not self._data.exists():
            return
        try:
            found = (self._data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            raise StackError(
                f"{self._data} holds no PostgreSQL data. Delete {self._state_dir}, or choose another with --state-dir."
            ) from None
        if found != self._program.major:
            raise StackError(
                f"The data in {self._data} belongs to PostgreSQL {found}, and this is PostgreSQL "
                f"{self._program.major} from {self._program.origin}. Choose a new folder with --state-dir, or delete "
                f"{self._state_dir} with all its data."
            )

    def _prepare_home(self, account: Account | None) -> None:
        self._home.mkdir(mode=0o700, exist_ok=True)
        if account and self._home.stat().st_uid == 0:
            os.chown(self._home, account.uid, account.gid)
        shutil.rmtree(self._home / "initialising", ignore_errors=True)

    def _open_home(self, account: Account | None) -> None:
        if account is None or accounts.can_enter(account, self._home):
            return
        if sys.platform != "linux":
            raise StackError(
                f"The user {account.name} cannot enter {self._state_dir}. Choose a --state-dir that all users may "
                f"enter, or run this as an ordinary user."
            )
        self._home_fd = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _seen_by_server(self, path: Path) -> str:
        """The path of something in our folder, as the server can name it."""
        return str(path if self._home_fd is None else DESCRIPTORS / str(self._home_fd) / path.name)

    def _kept_fds(self) -> list[int]:
        return [] if self._home_fd is None else [self._home_fd]

    def _reachable_program(self, account: Account | None) -> Program:
        if account is None or accounts.can_run_postgres(account, self._program):
            return self._program
        program, copy = accounts.copied(self._program, account, self._state_dir)
        self._copy_path.write_text(str(copy))
        self._say(f"The user {account.name} cannot reach {self._program.path}; using a copy in {copy} until the end")
        return program

    def _remove_copy(self) -> None:
        if not self._copy_path.exists():
            return
        copy = Path(self._copy_path.read_text())
        # In /tmp a stranger may have taken the name after a clean-up: only a folder of ours is removed.
        if copy.name.startswith("meterhouse-postgres-") and copy.is_dir() and copy.lstat().st_uid == os.geteuid():
            shutil.rmtree(copy, ignore_errors=True)
        self._copy_path.unlink()

    def _initialised(self, program: Program, account: Account | None) -> str:
        """The data folder is complete: only then does it get its name. Returns the password."""
        if self._data.exists():
            password = passwords.kept(self._password_path)
            if password is None:
                raise StackError(
                    f"{self._password_path}, the password of the data in {self._data}, is missing. Bring it back, "
                    f"or delete {self._state_dir} with all its data."
                )
            return password
        if shutil.disk_usage(self._state_dir).free < NEEDED_BYTES:
            raise disk_full(self._state_dir)
        password = passwords.created(self._password_path)
        fresh = self._home / "initialising"
        fresh.mkdir(mode=0o700)
        password_copy = self._home / "initdb.password"
        password_copy.unlink(missing_ok=True)
        passwords.write_private(password_copy, password)
        if account:
            os.chown(fresh, account.uid, account.gid)
            os.chown(password_copy, account.uid, account.gid)
        try:
            self._run_initdb(program, account, fresh)
        finally:
            password_copy.unlink(missing_ok=True)
        fresh.rename(self._data)
        return password

    def _run_initdb(self, program: Program, account: Account | None, fresh: Path) -> None:
        where = self._seen_by_server(fresh)
        initdb = [str(program.path.parent / "initdb"), "-D", where, "--username", ROLE]
        initdb += [f"--pwfile={self._seen_by_server(self._home / 'initdb.password')}", "--auth=scram-sha-256"]
        initdb += ["--no-locale", "--encoding=UTF8", "--no-instructions"]
        self._run(initdb if self._options.durable else [*initdb, "--no-sync"], account)
        single = [str(program.path), "--single", "-D", where, "-c", "log_checkpoints=off", "postgres"]
        self._run(single, account, f"CREATE DATABASE {DATABASE};\n".encode())
        # The single-user server reports a failed statement in its output only.
        if "ERROR:" in self.server.output():
            raise self._failure("could not create its database")

    def _run(self, command: list[str], account: Account | None, stdin: bytes = b"") -> None:
        if self.server.run(command, account=account, stdin=stdin, keep_fds=self._kept_fds()) != 0:
            raise self._failure(f"could not be initialised ({Path(command[0]).name} failed)")

    def _listening(self, program: Program, account: Account | None) -> int:
        for attempt in range(PORT_ATTEMPTS):
            # No process of this server is left (its pid lock is free), yet after a reboot the pid in this file may be
            # that of a stranger, and PostgreSQL would refuse to start.
            (self._data / "postmaster.pid").unlink(missing_ok=True)
            port = self._options.port or ports.free()
            self.server.spawn(self._command(program, port), account=account, keep_fds=self._kept_fds())
            try:
                self._wait_until_ready(port)
            except PortTaken:
                if self._options.port or attempt == PORT_ATTEMPTS - 1:
                    raise
                self.server.end()
            else:
                return port
        raise AssertionError  # the last attempt returned or raised

    def _command(self, program: Program, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",  # a socket's path may have 107 bytes only
            "password_encryption": "scram-sha-256",
            "max_connections": 200,
            "shared_buffers": "128MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "fsync": "on" if self._options.durable else "off",
        }
        chosen = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(program.path), "-D", self._seen_by_server(self._data), *chosen]

    def _wait_until_ready(self, port: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.server.exit_code() is not None:
                raise self._failure("did not start", port)
            if self._says_ready():
                return
            time.sleep(locks.POLL_SECONDS)
        raise self._failure(f"was not ready after {READY_SECONDS} seconds", port)

    def _says_ready(self) -> bool:
        """What pg_ctl looks at: the first line of the pid file is the process, the eighth and last its state."""
        try:
            lines = (self._data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(self.server.pid)] and lines[-1] == "ready"

    def _failure(self, what: str, port: int = 0) -> StackError:
        text, log = self.server.output(), self.server.log
        return from_log(name=NAME, what=what, text=text, log=log, port=port, option=PORT_OPTION)
