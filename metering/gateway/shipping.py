"""Outcomes out of a proxy's access log: read line by line, told in batches, each line once even over rotations and restarts.

How far the file was told is kept beside it, by inode and byte, and moves only after the product has taken a batch. Telling twice is
harmless, so a kill in between costs nothing.
"""

import http.client
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)
LINES_AT_ONCE = 1000
LONGEST_LINE = 4096
SETTLING_SECONDS = 0.2  # the product holds what it admitted within 50 ms: a line of this moment would come too early
AGAIN_SECONDS = 1.0
EARLY_TRIES = 10  # a call is known within 50 ms, or its process was killed before
REOPENED_SECONDS = 1.0  # after a rotation the proxy's processes turn to the new file one after the other
PATIENCE_SECONDS = 30.0


class Refused(Exception):
    """The product takes none of these outcomes, today or tomorrow."""


class Away(Exception):
    """The product cannot be reached, or cannot take them now."""


@dataclass(frozen=True, slots=True)
class Position:
    """The file that is being told, whatever its name is now, and up to which byte it was."""

    inode: int
    offset: int


class Log:
    """The lines of a log that is rotated by renaming or by truncating. `position_path` remembers what was told."""

    def __init__(self, path: Path, position_path: Path) -> None:
        self._path = path
        self._position_path = position_path
        self._file: BinaryIO | None = None
        self._seen_new_at: float | None = None

    def lines(self) -> list[bytes]:
        """The next whole lines, none when there are none yet."""
        if self._file is None and not self._open():
            return []
        found = self._read()
        if not found and self._turn_to_next():
            found = self._read()
        return found

    def told(self) -> None:
        """What was read until now is never read again."""
        if self._file is None:
            return
        position = {"inode": os.fstat(self._file.fileno()).st_ino, "offset": self._file.tell()}
        hidden = self._position_path.with_name(f"{self._position_path.name}.new")
        hidden.write_text(json.dumps(position))
        hidden.replace(self._position_path)

    def where(self) -> str:
        """The file and the byte after what was read, for people."""
        return f"{self._path}, before byte {self._file.tell() if self._file else 0:,}"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> bool:
        position = self._position()
        if position is not None:
            for path in self._files():
                if path.stat().st_ino == position.inode:
                    self._file = path.open("rb")
                    self._file.seek(position.offset if position.offset <= path.stat().st_size else 0)
                    return True
            logger.warning(
                "The file that was told up to byte %d is gone; its other calls count as served. Going on with %s.",
                position.offset,
                self._path,
            )
        if not self._path.exists():
            return False
        self._file = self._path.open("rb")
        return True

    def _position(self) -> Position | None:
        try:
            known = json.loads(self._position_path.read_text())
            return Position(int(known["inode"]), int(known["offset"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            logger.warning("%s cannot be read; the log is told from its beginning.", self._position_path)
            return None

    def _files(self) -> list[Path]:
        """The log and what it was rotated to, oldest first."""
        found = [path for path in self._path.parent.glob(f"{self._path.name}*") if path.is_file()]
        own = {self._position_path, self._position_path.with_name(f"{self._position_path.name}.new")}
        readable = [path for path in found if path not in own and path.suffix not in {".gz", ".bz2", ".xz", ".zst"}]
        return sorted(readable, key=lambda path: path.stat().st_mtime_ns)

    def _read(self) -> list[bytes]:
        assert self._file is not None
        start = self._file.tell()
        if os.fstat(self._file.fileno()).st_size < start:
            start = 0  # it was truncated
        self._file.seek(start)
        found: list[bytes] = []
        while len(found) < LINES_AT_ONCE:
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(start)  # not written to its end yet
                break
            found.append(line)
            start += len(line)
        return found

    def _turn_to_next(self) -> bool:
        """Whether there is a newer file, now open: the next one of those that the log was rotated to, or the log itself."""
        assert self._file is not None
        inode = os.fstat(self._file.fileno()).st_ino
        files = [(path, path.stat()) for path in self._files()]
        inodes = [stat.st_ino for _, stat in files]
        newer = files[inodes.index(inode) + 1 :] if inode in inodes else files[-1:]
        newer = [(path, stat) for path, stat in newer if stat.st_size]
        if not newer:
            self._seen_new_at = None
            return False
        if self._seen_new_at is None:
            self._seen_new_at = time.monotonic()
        if time.monotonic() - self._seen_new_at < REOPENED_SECONDS:
            return False
        self._seen_new_at = None
        self._file.close()
        self._file = newer[0][0].open("rb")
        return True


def outcome(line: bytes) -> dict[str, Any]:
    """A line of the documented log format as an outcome; raises ValueError, which says what is wrong with it."""
    if len(line) > LONGEST_LINE:
        raise ValueError("it is too long")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON; use the log_format of docs/gateway.md") from None
    if not isinstance(found, dict) or not isinstance(found.get("call_id"), str):
        raise ValueError("it names no call_id")
    status, seconds = found.get("status"), found.get("seconds")
    if type(status) is not int:
        raise ValueError("it has no status")
    if seconds is not None and (type(seconds) not in {int, float} or seconds < 0):
        raise ValueError("seconds is no number")
    told = {
        "call_id": found["call_id"],
        "status": status,
        "latency_ms": None if seconds is None else round(seconds * 1000, 3),
    }
    return told | ({"tenant": found["tenant"]} if found.get("tenant") else {})


class Teller:
    """Tells outcomes to `POST /gate/outcomes` at this address."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = urlsplit(url)
        self._secret = secret

    def tell(self, outcomes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What became of each; raises Away and Refused."""
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=PATIENCE_SECONDS)
        headers = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        try:
            connection.request("POST", self._url.path or "/", json.dumps(outcomes), headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Away(str(error) or type(error).__name__) from None
        finally:
            connection.close()
        if answer.status == http.client.OK:
            return self._results(body)
        said = f"{answer.status} {body[:300].decode(errors='replace')}"
        if answer.status >= http.client.INTERNAL_SERVER_ERROR or answer.status == http.client.TOO_MANY_REQUESTS:
            raise Away(said)
        raise Refused(said)

    def _results(self, body: bytes) -> list[dict[str, Any]]:
        try:
            results: list[dict[str, Any]] = json.loads(body)["outcomes"]
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{self._url.geturl()} is not the gateway: it answers {body[:100]!r}") from None
        return results


def ship(log: Log, teller: Teller, *, stopping: Callable[[], bool], pause: Callable[[float], object]) -> int:
    """The next lines are told; how many those were, 0 when there are none. Raises Refused.

    While the product is away they wait; on `stopping` they stay for the next start.
    """
    lines = log.lines()
    if not lines:
        return 0
    told = []
    for line in lines:
        try:
            told.append(outcome(line))
        except ValueError as error:
            logger.error(
                "%s: a line cannot be read: %s: %s", log.where(), error, line[:200].decode(errors="replace").rstrip()
            )
    if len(lines) < LINES_AT_ONCE:
        pause(SETTLING_SECONDS)
    if not _tell(told, teller, stopping, pause):
        return 0
    log.told()
    return len(lines)


def _early(told: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are to be told again; what was not taken is named in the log."""
    answered = list(zip(told, results, strict=True))
    for entry, result in answered:
        if result["status"] == "invalid":
            logger.error("An outcome was not taken: %s: %s", result["detail"], json.dumps(entry))
    return [entry for entry, result in answered if result["status"] == "early"]


def _tell(
    told: Sequence[dict[str, Any]], teller: Teller, stopping: Callable[[], bool], pause: Callable[[float], object]
) -> bool:
    """Whether the product has taken all of them. What it does not know after a while was lost with its process: that is said."""
    is_away, tries = False, 0
    while told:
        try:
            results = teller.tell(told)
        except Away as error:
            if not is_away:
                logger.warning("The product takes no outcomes, they are told again: %s", error)
            is_away = True
        else:
            told, tries = _early(told, results), tries + 1
            if told and tries > EARLY_TRIES:
                logger.error(
                    "%d outcomes of calls that the product does not know, first: %s", len(told), json.dumps(told[0])
                )
                return True
        if told:
            if stopping():
                return False
            pause(AGAIN_SECONDS)
    return True
