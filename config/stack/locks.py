"""Locks that the kernel gives back by itself when their holders end, however they end."""

import fcntl
import os
import time
from pathlib import Path

from config.stack.errors import StackError

POLL_SECONDS = 0.01


def opened(path: Path) -> int:
    """The lock file, open and not locked; exec closes it unless told otherwise."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def taken(fd: int, wait_seconds: float = 0) -> bool:
    """Whether the lock is ours now."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


def written_pid(fd: int) -> int | None:
    """The process that the file names."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


class StateLock:
    """One stack per state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "lock"
        self._fd: int | None = None

    def take(self) -> None:
        """This process holds the state folder; StackError naming the holder if another does."""
        fd = opened(self._path)
        if not taken(fd):
            holder = written_pid(fd)
            os.close(fd)
            raise StackError(
                f"The state folder {self._path.parent} is in use by process {holder or 'unknown'}. "
                f"Stop that one, or choose another folder with --state-dir."
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """The folder is free for others; calling again is harmless."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None
