"""Batches that could not be committed wait in a file that survives its process: one file a process, held under a lock.

Each line is a batch with a checksum; what was torn off by a kill or a full disk is dropped and said, everything before it is
kept. Reading a file twice is harmless, because each batch has its unique id and each call its unique key in the ledger. A file
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
        self.calls = 0
        self.oldest: float | None = None

    def append(self, batch: Batch) -> None:
        """The batch is on disk. Raises SpoolFull, and OSError when the disk refuses; nothing is half-written then."""
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
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self.calls += len(batch.entries)
        if self.oldest is None and batch.entries:
            self.oldest = batch.entries[0].occurred_at

    def drain(self, send: Callable[[Batch], bool]) -> bool:
        """Every batch was sent, oldest first, and the file is gone; False when `send` said so, the rest waits then."""
        if self._descriptor is None:
            return True
        for end, batch in _batches(self._path, self._drained):
            if not send(batch):
                return False
            self._drained = end
        self._path.unlink(missing_ok=True)
        self.close()
        return True

    def close(self) -> None:
        """The lock is released; what still waits is adopted by another process."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._size, self._drained, self.calls, self.oldest = None, 0, 0, 0, None

    def _open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{os.getpid()}-{os.urandom(6).hex()}{SUFFIX}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._descriptor, self._path = descriptor, path


def adopt(folder: Path, send: Callable[[Batch], bool]) -> int:
    """What processes that are gone left in the folder is sent and their files are removed; returns how many calls those held.

    Stops at the first batch that cannot be sent; its file stays for the next time.
    """
    calls = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its process is alive
                os.close(descriptor)
                continue
            try:
                for _, batch in _batches(path, 0):
                    if not send(batch):
                        return calls
                    calls += len(batch.entries)
                path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)
    return calls


def orphaned_bytes(folder: Path) -> int:
    """Bytes in the folder's files, of living processes and of those that are gone."""
    return sum(path.stat().st_size for path in folder.glob(f"*{SUFFIX}"))


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


def _batches(path: Path, start: int) -> Iterator[tuple[int, Batch]]:
    """The batches from this byte on, each with the byte after it."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            batch = _batch(line)
            if batch is None:
                rest = len(line) + len(file.read())
                logger.error("%s: %d bytes at the end are torn; the calls in them are lost.", path, rest)
                return
            start += len(line)
            yield start, batch


def _batch(line: bytes) -> Batch | None:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    content = json.loads(text)
    entries = tuple(_entry(dict(zip(content["fields"], values, strict=True))) for values in content["entries"])
    returns = {(UUID(tenant_id), UUID(lease_id)): units for tenant_id, lease_id, units in content["returns"]}
    return Batch(entries, returns, UUID(content["id"]))


def _entry(values: dict[str, Any]) -> Entry:
    known = {name: value for name, value in values.items() if name in Entry._fields}
    lease_id = known.get("lease_id")
    known["tenant_id"], known["lease_id"] = UUID(known["tenant_id"]), UUID(lease_id) if lease_id else None
    return Entry(**known)
