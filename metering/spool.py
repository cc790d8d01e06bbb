"""Batches that could not be committed wait in a file that survives its process: one file a process, held under a lock.

Each line is a batch with a checksum; what was torn off by a kill or a full disk is dropped and said, everything before it is
kept. Sending a file twice is harmless, because each batch has its unique id and each call its unique key in the ledger. A file
whose lock can be taken belongs to a process that is gone: any process of the machine adopts it.
"""

import fcntl
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from .recorder import Batch, Entry

logger = logging.getLogger(__name__)
SUFFIX = ".spool"
UNREADABLE = ".unreadable"


class SpoolFull(Exception):
    """The file would pass its bound."""


class Spool:
    """The file of one process. Not safe for threads: the engine appends and drains under its flush lock."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._descriptor: int | None = None
        self._path = folder
        self._size = self._drained = 0
        self._is_damaged = False
        self.calls = 0
        self.oldest: float | None = None

    def append(self, batch: Batch) -> None:
        """The batch is on disk. Raises SpoolFull, and OSError when the disk refuses; what was there before stays readable."""
        line = _line(batch)
        if self._size + len(line) > self._max_bytes:
            raise SpoolFull
        if self._descriptor is None:
            self._open()
        assert self._descriptor is not None
        try:
            _write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError:
            self._take_back()
            raise
        self._size += len(line)
        self.calls += len(batch.entries)
        if self.oldest is None and batch.entries:
            self.oldest = batch.entries[0].occurred_at

    def drain(self, send: Callable[[Batch], bool]) -> bool:
        """Every batch was sent, oldest first, and the file is gone; False when `send` said so, the rest waits then.

        Never raises for the disk: a file that cannot be read or removed is named in the log and left to whoever mends it.
        """
        if self._descriptor is None:
            return True
        try:
            for end, batch in _batches(self._descriptor, self._path, self._drained):
                if batch is None:
                    self._is_damaged = True
                elif not send(batch):
                    return False
                else:
                    self.calls -= len(batch.entries)
                self._drained = end
            self._remove()
        except OSError as error:
            logger.error("%s cannot be read or removed (%s). Mend the disk; its calls count once.", self._path, error)
        self.close()
        return True

    def close(self) -> None:
        """The lock is released; what still waits is adopted by another process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._size, self._drained, self._is_damaged = None, 0, 0, False
        self.calls, self.oldest = 0, None

    @classmethod
    def orphan(cls, path: Path) -> "Spool | None":
        """What a process that is gone left in this file; None while its process lives or another one has adopted it."""
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.error("%s cannot be opened (%s); its calls wait.", path, error)
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        spool = cls(path.parent, max_bytes=0)
        spool._descriptor, spool._path = descriptor, path
        return spool

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{os.getpid()}-{os.urandom(6).hex()}{SUFFIX}"
        hidden = path.with_suffix(".new")  # it gets its name when it is locked, so that nobody adopts it before
        descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(path)
            _sync_folder(self._folder)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._path = descriptor, path

    def _take_back(self) -> None:
        """No half line is in the file; where the disk refuses even that, the file is left to be adopted."""
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, self._size)
        except OSError:
            self.close()

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            if self._is_damaged:
                self._path.rename(self._path.with_suffix(UNREADABLE))
            else:
                self._path.unlink()


def adopt(folder: Path, send: Callable[[Batch], bool]) -> int:
    """What processes that are gone left in the folder is sent and their files are removed; returns how many calls those held.

    Stops at the first batch that cannot be sent; its file stays for the next time.
    """
    calls = 0

    def counted(batch: Batch) -> bool:
        nonlocal calls
        is_sent = send(batch)
        calls += len(batch.entries) if is_sent else 0
        return is_sent

    for path in sorted(folder.glob(f"*{SUFFIX}")):
        orphan = Spool.orphan(path)
        if orphan is None:
            continue
        try:
            if not orphan.drain(counted):
                break
        finally:
            orphan.close()
    return calls


def _line(batch: Batch) -> bytes:
    content = {
        "id": batch.id,
        "fields": Entry._fields,  # by name: a later version may have more
        "entries": batch.entries,
        "returns": [[tenant_id, lease_id, units] for (tenant_id, lease_id), units in batch.returns.items()],
    }
    text = json.dumps(content, default=str, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _write(descriptor: int, line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    """The folder's new name survives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _batches(descriptor: int, path: Path, start: int) -> Iterator[tuple[int, Batch | None]]:
    """The batches from this byte on, each with the byte after it; None for a whole line that is no batch."""
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(start)
        for line in file:
            start += len(line)
            if not line.endswith(b"\n"):
                logger.error("%s: %d bytes at the end are torn; the calls in them are lost.", path, len(line))
                return
            batch = _batch(line)
            if batch is None:
                kept = path.with_suffix(UNREADABLE)
                logger.error(
                    "%s: %d bytes cannot be read; their calls are not counted and stay in %s.", path, len(line), kept
                )
            yield start, batch


def _batch(line: bytes) -> Batch | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        content = json.loads(text)
        entries = tuple(_entry(dict(zip(content["fields"], values, strict=True))) for values in content["entries"])
        returns = {(UUID(tenant_id), UUID(lease_id)): units for tenant_id, lease_id, units in content["returns"]}
        return Batch(entries, returns, UUID(content["id"]))
    except (KeyError, TypeError, ValueError):  # of a version that is too far from this one
        return None


def _entry(values: dict[str, Any]) -> Entry:
    known = {name: value for name, value in values.items() if name in Entry._fields}
    lease_id = known.get("lease_id")
    known["tenant_id"], known["lease_id"] = UUID(known["tenant_id"]), UUID(lease_id) if lease_id else None
    return Entry(**known)
