"""A Valkey (or Redis) server. It keeps nothing on disk: what is in it may be lost at any time."""

import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

from config.stack import account as accounts
from config.stack import locks, passwords, ports
from config.stack.account import Account
from config.stack.errors import PortTaken, StackError, from_log
from config.stack.programs import Program
from config.stack.server import Ladder, Server

NAME = "Valkey"
PORT_OPTION = "--redis-port"
READY_SECONDS = 30
PORT_ATTEMPTS = 5
LADDER = Ladder(((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)))
CONFIGURATION = """
bind 127.0.0.1
port {port}
requirepass {password}
daemonize no
save ""
appendonly no
maxmemory-policy noeviction
databases 16
tcp-backlog 128
"""


class Valkey:
    """The Valkey of one state folder."""

    def __init__(
        self, state_dir: Path, program: Program, port: int | None, account: Account | None, say: Callable[[str], None]
    ) -> None:
        self.server = Server(NAME, state_dir, LADDER)
        self._program = program
        self._port = port
        self._account = account
        self._say = say
        self._running_port: int | None = None
        self._home = state_dir / "valkey"  # stays ours: a server that saves nothing needs no place to write
        self._password_path = state_dir / "valkey.password"

    def start(self) -> str:
        """The server accepts connections at the returned URL."""
        self.server.clear_leftovers(self._say)
        if self._port is not None:
            ports.check(self._port, name=NAME, option=PORT_OPTION)
        self._home.mkdir(exist_ok=True)
        self._home.chmod(0o755)
        password = passwords.kept(self._password_path) or passwords.created(self._password_path)
        port = self._running_port = self._listening(self._command(), password)
        user = f", as user {self._account.name}" if self._account else ""
        self._say(f"{NAME} {self._program.version} from {self._program.origin}, port {port}{user}")
        return f"redis://:{password}@127.0.0.1:{port}/0"

    def revive(self) -> bool:
        """A server that died runs again on its port; False when somebody else has started one there meanwhile."""
        assert self._running_port is not None
        if ports.answers(self._running_port):
            return False
        password = passwords.kept(self._password_path) or passwords.created(self._password_path)
        self._spawn(self._command(), self._running_port, password)
        self._wait_until_ready(self._running_port, password)
        return True

    def stop(self) -> None:
        """The server has ended; calling again is harmless."""
        self.server.end()

    def _command(self) -> list[str]:
        """Reads its configuration from stdin, so that no other user sees the password among the arguments."""
        if self._account is None or accounts.can_run(self._account, self._program.path, "--version"):
            return [str(self._program.path), "-"]
        copy = self._home / "valkey-server"
        copy.unlink(missing_ok=True)
        shutil.copyfile(self._program.path, copy)
        copy.chmod(0o755)
        return ["./valkey-server", "-"]  # relative: that user may be unable to walk the path to it

    def _listening(self, command: list[str], password: str) -> int:
        for attempt in range(PORT_ATTEMPTS):
            port = self._port or ports.free()
            self._spawn(command, port, password)
            try:
                self._wait_until_ready(port, password)
            except PortTaken:
                if self._port or attempt == PORT_ATTEMPTS - 1:
                    raise
                self.server.end()
            else:
                return port
        raise AssertionError  # the last attempt returned or raised

    def _spawn(self, command: list[str], port: int, password: str) -> None:
        configuration = CONFIGURATION.format(port=port, password=password).encode()
        self.server.spawn(command, account=self._account, stdin=configuration, cwd=self._home)

    def _wait_until_ready(self, port: int, password: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.server.exit_code() is not None:
                raise self._failure("did not start", port)
            if _answers(port, password):
                return
            time.sleep(locks.POLL_SECONDS)
        raise self._failure(f"was not ready after {READY_SECONDS} seconds", port)

    def _failure(self, what: str, port: int) -> StackError:
        text, log = self.server.output(), self.server.log
        return from_log(name=NAME, what=what, text=text, log=log, port=port, option=PORT_OPTION)


def _answers(port: int, password: str) -> bool:
    """Whether our server, known by its password, answers there."""
    expected = b"+OK\r\n+PONG\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while len(answer) < len(expected) and (part := connection.recv(64)):
                answer += part
    except OSError:
        return False
    return answer == expected
