"""Passwords of the servers, kept in the state folder."""

import os
import secrets
from pathlib import Path


def kept(path: Path) -> str | None:
    """The password in the file; None when there is none."""
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None


def created(path: Path) -> str:
    """A new password that only the owner of the file can read."""
    password = secrets.token_hex(24)  # hexadecimal: needs no quoting in a URL
    path.unlink(missing_ok=True)
    write_private(path, password)
    return password


def write_private(path: Path, text: str) -> None:
    """A new file for its owner only; never follows a link that another user planted."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
