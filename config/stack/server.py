"""One child process that is a server: started, watched and ended."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from config.stack import locks
from config.stack.account import Account
from config.stack.errors import StackError, disk_full, last_lines, shows_full_disk

TETHER = Path(__file__).with_name("tether.py")
KILLED_SECONDS = 10.0
# Not ours: PGOPTIONS, PGDATA and the like would change what the servers do, and messages are matched in English.
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath}


@dataclass(frozen=True)
class Ladder:
    """Signals that end a server, each with the seconds that it gets, the gentle one first."""

    steps: Sequence[tuple[signal.Signals, float]]

    @property
    def gentle(self) -> signal.Signals:
        return self.steps[0][0]


class Server:
    """A server and its log.

    Its pid file is locked through a descriptor that the server and all its own children inherit. So the lock says for
    certain whether any of them still runs, also after we were killed, and the pid in it cannot be a stranger's.
    """

    def __init__(
        self, name: str, state_dir: Path, ladder: Ladder, environment: Mapping[str, str] = ENVIRONMENT
    ) -> None:
        self.name = name
        self._environment = environment
        self.log = state_dir / f"{name.lower()}.log"
        self._pid_path = state_dir / f"{name.lower()}.pid"
        self._ladder = ladder
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def clear_leftovers(self, say: Callable[[str], None]) -> None:
        """No process of an earlier run is left, and the log is a new one."""
        fd = locks.opened(self._pid_path)
        try:
            if not locks.taken(fd):
                say(f"{self.name} still runs from an earlier start (process {locks.written_pid(fd)}); stopping it")
                self._end_leftover(fd)
        finally:
            os.close(fd)
        if self.log.exists():
            self.log.replace(self.log.with_name(f"{self.log.name}.1"))

    def _end_leftover(self, fd: int) -> None:
        for step, grace_seconds in self._ladder.steps:
            pid = locks.written_pid(fd)
            if pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, step)
            if locks.taken(fd, grace_seconds):
                return
        raise StackError(
            f"{self.name} still runs from an earlier start (process {locks.written_pid(fd)}) and does not stop. "
            f"Stop it by hand, or choose another folder with --state-dir."
        )

    def spawn(
        self,
        command: Sequence[str],
        *,
        account: Account | None,
        stdin: bytes = b"",
        cwd: Path = Path("/"),
        keep_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """The command runs as that user in a session of its own, its output in the log."""
        fd = locks.opened(self._pid_path)
        log_fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if not locks.taken(fd, KILLED_SECONDS):
                raise StackError(f"{self.name} has not ended yet (process {locks.written_pid(fd)}). Try again.")
            self._log_start = os.fstat(log_fd).st_size
            process = self._process = subprocess.Popen(
                self._tethered(command, fd, account),
                cwd=cwd,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log_fd,
                stderr=log_fd,
                pass_fds=[fd, *keep_fds],
                start_new_session=True,  # else Ctrl-C would reach it before we can stop it in order
            )
        finally:
            os.close(fd)
            os.close(log_fd)
        if process.stdin:
            with suppress(BrokenPipeError), process.stdin as pipe:  # broken: it died at once, the caller will see that
                pipe.write(stdin)
        return process

    def _tethered(self, command: Sequence[str], pid_fd: int, account: Account | None) -> list[str]:
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        # Linux sends the signal when the thread that started the server ends, so only a lasting thread may be a tie.
        parent = os.getpid() if threading.current_thread() is threading.main_thread() else 0
        tie = [pid_fd, uid, gid, int(self._ladder.gentle), parent]
        return [sys.executable, "-I", "-S", str(TETHER), *map(str, tie), *command]

    def run(
        self, command: Sequence[str], *, account: Account | None, stdin: bytes = b"", keep_fds: Sequence[int] = ()
    ) -> int:
        """The command has ended; returns its exit code."""
        code = self.spawn(command, account=account, stdin=stdin, keep_fds=keep_fds).wait()
        self._process = None
        return code

    def exit_code(self) -> int | None:
        """How the server ended; None while it runs."""
        return self._process.poll() if self._process else None

    def output(self) -> str:
        """What the last command wrote, at most its last 64 KB."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - 65536))
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def obituary(self) -> str | None:
        """A sentence about a server that died, with the end of its log; None while it runs."""
        code = self.exit_code()
        if code is None:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        text = self.output()
        cause = f" {disk_full(self.log.parent)}" if shows_full_disk(text) else ""
        return (
            f"{self.name} (process {self.pid}) {how}.{cause} Its log is {self.log}; the last lines are:\n"
            f"{last_lines(text)}"
        )

    def ask_to_end(self) -> None:
        """The server is stopping; nothing waits for it yet."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(self._ladder.gentle)

    def end(self) -> None:
        """The server and all its children have ended; calling again is harmless."""
        if self._process:
            self._end_process(self._process)
            self._process = None
        if self._pid_path.exists():
            fd = locks.opened(self._pid_path)
            if locks.taken(fd, KILLED_SECONDS):  # children of a killed server notice by themselves and end
                self._pid_path.unlink()
            os.close(fd)

    def _end_process(self, process: subprocess.Popen[bytes]) -> None:
        for step, grace_seconds in self._ladder.steps:
            if process.poll() is None:
                process.send_signal(step)
            with suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
                return
