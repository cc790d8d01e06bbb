"""What can go wrong while starting the servers, said with its mend."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class StackError(Exception):
    """The servers are not running; the text names the cause and the mend."""


class PortTaken(StackError):
    """Another process listens on the port."""


def port_taken(name: str, port: int, option: str) -> PortTaken:
    """The refusal for a port that another process holds."""
    return PortTaken(
        f"{name} cannot listen on 127.0.0.1:{port}: another process has that port. Stop it, or choose another "
        f"port with {option}, or leave the option out to get a free one."
    )


def disk_full(folder: Path) -> StackError:
    """The refusal for a file system without space."""
    return StackError(
        f"The disk is full at {folder}. Free at least 100 MB there, or choose another place with --state-dir."
    )


def from_log(*, name: str, what: str, text: str, log: Path, port: int, option: str) -> StackError:
    """The cause that a server wrote into its log, or its last words when we do not know them."""
    if shows_full_disk(text):
        return disk_full(log.parent)
    if "Address already in use" in text:
        return port_taken(name, port, option)
    return StackError(f"{name} {what}. Its log is {log}; the last lines are:\n{last_lines(text)}")


def shows_full_disk(text: str) -> bool:
    """Whether the log complains of it."""
    return "No space left on device" in text or "Disk quota exceeded" in text


def last_lines(text: str, count: int = 12) -> str:
    """The end of a log, indented."""
    return "\n".join(f"    {line}" for line in text.splitlines()[-count:]) or "    (nothing)"


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """An OSError inside leaves as a StackError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(folder) from error
        raise StackError(
            f"The state folder {folder} cannot be used: {error.strerror or error} ({error.filename}). "
            f"Make it writable for this user, or choose another with --state-dir."
        ) from error
