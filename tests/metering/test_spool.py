"""Records that cannot be committed wait in a file that survives its process."""

import json
import logging
import os
import resource
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from metering.backlog import Backlog
from metering.recorder import Batch, Entry
from metering.spool import Spool, SpoolFull, adopt
from tests.conftest import ROOT, wait_until

# Anything that a str can hold, lone surrogates included; a pair of them would be read back as the one character it means.
TEXT = st.text(st.characters(exclude_categories=()).filter(lambda c: not "\udc00" <= c <= "\udfff"))
ENTRIES = st.builds(
    Entry,
    id=st.uuids().map(str), tenant_id=st.uuids(), project_id=st.integers(1, 2**62), key_id=st.integers(1, 2**62),
    capability=TEXT, outcome=st.sampled_from(["billable", "failed", "refused"]), reason=st.text(max_size=9),
    status=st.integers(100, 599), units=st.integers(0, 10**12), latency_us=st.integers(0, 2**31 - 1),
    occurred_at=st.floats(0, 4e9), period_start=st.floats(0, 4e9), period_end=st.floats(0, 4e9),
    lease_id=st.none() | st.uuids(), calls=st.integers(1, 10**6),
)  # fmt: skip
RETURNS = st.dictionaries(st.tuples(st.uuids(), st.uuids()), st.none() | st.integers(0, 10**12), max_size=3)
BATCHES = st.lists(st.builds(Batch, st.lists(ENTRIES, max_size=3).map(tuple), RETURNS), min_size=1, max_size=4)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def taken(into: list[Batch]) -> Callable[[Batch], bool]:
    def send(batch: Batch) -> bool:
        into.append(batch)
        return True

    return send


def entry(**changes: object) -> Entry:
    values = {
        "id": str(uuid4()), "tenant_id": uuid4(), "project_id": 1, "key_id": 1, "capability": "storage", "outcome": "billable",
        "reason": "", "status": 200, "units": 1, "latency_us": 1, "occurred_at": 1.5, "period_start": 1.0, "period_end": 9.0,
        "lease_id": None,
    }  # fmt: skip
    return Entry(**{**values, **changes})  # type: ignore[arg-type]


def line(content: object) -> bytes:
    text = json.dumps(content, default=str).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.spool"))


@MANY
@given(batches=BATCHES)
def test_what_goes_in_comes_out_in_order(tmp_path: Path, batches: list[Batch]) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=10**9)
    for batch in batches:
        spool.append(batch)
    out: list[Batch] = []
    assert spool.drain(taken(out))
    assert out == batches
    assert files(tmp_path / "spool") == []


@MANY
@given(batches=BATCHES, torn=st.integers(1, 2000))
def test_a_torn_end_loses_only_what_was_torn(tmp_path: Path, batches: list[Batch], torn: int) -> None:
    folder = tmp_path / uuid4().hex
    spool = Spool(folder, max_bytes=10**9)
    ends = []
    for batch in batches:
        spool.append(batch)
        ends.append(files(folder)[0].stat().st_size)
    length = max(0, ends[-1] - torn)
    os.truncate(files(folder)[0], length)
    spool.close()
    out: list[Batch] = []
    adopt(folder, taken(out))
    assert out == batches[: sum(end <= length for end in ends)]
    assert files(folder) == []


def test_a_living_process_keeps_its_file_and_a_dead_ones_is_adopted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10**6)
    batch = Batch((entry(), entry()), {})
    spool.append(batch)
    out: list[Batch] = []
    assert adopt(tmp_path, taken(out)) == 0
    spool.close()
    assert adopt(tmp_path, taken(out)) == 2
    assert out == [batch]
    assert adopt(tmp_path, taken(out)) == 0


def test_what_cannot_be_sent_yet_is_sent_later_and_nothing_twice(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10**6)
    batches = [Batch((entry(),), {}) for _ in range(3)]
    for batch in batches:
        spool.append(batch)
    out: list[Batch] = []
    assert not spool.drain(lambda batch: not out and taken(out)(batch))
    spool.append(batches[0])
    assert spool.drain(taken(out))
    assert out == [*batches, batches[0]]


def test_an_orphan_stays_while_it_cannot_be_sent(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10**6)
    spool.append(Batch((entry(),), {}))
    spool.close()
    assert adopt(tmp_path, lambda _: False) == 0
    assert len(files(tmp_path)) == 1


def test_a_full_spool_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=900)
    batch = Batch((entry(),), {})
    spool.append(batch)
    spool.append(batch)
    with pytest.raises(SpoolFull):
        spool.append(batch)
    assert files(tmp_path)[0].stat().st_size <= 900
    spool.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "spool", max_bytes=1000)
    spool.append(Batch((), {(uuid4(), uuid4()): None}))
    file = files(tmp_path / "new" / "spool")[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    spool.close()


def test_a_file_of_an_older_version_is_read_with_todays_defaults(tmp_path: Path) -> None:
    fields = [name for name in Entry._fields if name != "calls"]
    values = [None if name == "lease_id" else getattr(entry(), name) for name in fields]
    content = {"id": str(uuid4()), "fields": [*fields, "gone"], "entries": [[*values, 7]], "returns": []}
    (tmp_path / "old.spool").write_bytes(line(content))
    out: list[Batch] = []
    assert adopt(tmp_path, taken(out)) == 1
    assert out[0].entries[0].calls == 1
    assert isinstance(out[0].id, UUID)


def test_a_line_that_is_no_batch_is_kept_aside_and_the_others_are_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, max_bytes=10**6)
    first, last = Batch((entry(),), {}), Batch((entry(),), {})
    spool.append(first)
    too_new = line({"id": str(uuid4()), "fields": ["something", "else"], "entries": [[1, 2]], "returns": []})
    decayed = files(tmp_path)[0].read_bytes().replace(b'"storage"', b'"storagf"')
    with files(tmp_path)[0].open("ab") as file:
        file.write(too_new + decayed)
    spool.append(last)
    spool.close()
    out: list[Batch] = []
    assert adopt(tmp_path, taken(out)) == 2
    assert out == [first, last]
    assert files(tmp_path) == []
    (kept,) = tmp_path.glob("*.unreadable")
    assert too_new in kept.read_bytes()
    assert caplog.text.count(f"stay in {kept}") == 2


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: a disk that is full in the middle of a line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_in_a_line_leaves_what_was_there(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10**6)
    batches = [Batch((entry(),), {}) for _ in range(3)]
    spool.append(batches[0])
    size = files(tmp_path)[0].stat().st_size
    with disk_of(size + 40), pytest.raises(OSError, match="File too large"):
        spool.append(batches[1])
    assert files(tmp_path)[0].stat().st_size == size
    spool.append(batches[2])
    out: list[Batch] = []
    assert spool.drain(taken(out))
    assert out == [batches[0], batches[2]]


def test_a_file_that_was_removed_by_hand_is_still_counted_by_its_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=10**6)
    batches = [Batch((entry(),), {}) for _ in range(2)]
    spool.append(batches[0])
    files(tmp_path)[0].unlink()
    spool.append(batches[1])
    out: list[Batch] = []
    assert spool.drain(taken(out))
    assert out == batches
    spool.append(batches[0])
    assert len(files(tmp_path)) == 1
    spool.close()


def test_a_folder_that_cannot_be_made_is_named_with_the_mend_and_nothing_is_lost(
    tmp_path: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    settings.METERING = {**settings.METERING, "SPOOL_DIR": str(tmp_path / "file" / "spool")}
    backlog = Backlog()
    batches = [Batch((entry(),), {}) for _ in range(2)]
    with caplog.at_level(logging.ERROR):
        for batch in batches:
            backlog.keep(batch)
    assert f"cannot wait in {tmp_path}/file/spool" in caplog.text
    assert "set METERING_SPOOL_DIR" in caplog.text
    out: list[Batch] = []
    assert backlog.drain(taken(out))
    assert out == batches


# A parent keeps batches of one call and of two, and a child that it forks between them one of two.
FORKING = """
import os, sys, django; django.setup()
from metering.engine import engine
from metering.recorder import Batch
from tests.metering.test_spool import entry
engine().backlog.keep(Batch((entry(),), {}))
child = os.fork()
engine().backlog.keep(Batch((entry(), entry()), {}))
print("kept", flush=True)
sys.stdin.read()
os._exit(0)
"""


def test_a_forked_child_has_a_file_of_its_own_and_does_not_hold_its_parents(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING],
        env={
            **os.environ, "DJANGO_SETTINGS_MODULE": "config.settings", "PYTHONPATH": str(ROOT),
            "METERING_SPOOL_DIR": str(tmp_path),
        },
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == [b"kept"] * 2
    assert len(files(tmp_path)) == 2
    (folder,) = tmp_path.iterdir()  # this deployment's
    out: list[Batch] = []
    assert adopt(folder, taken(out)) == 0
    process.kill()
    process.wait()
    assert adopt(folder, taken(out)) == 3  # the parent's, while the child lives
    process.stdin.close()
    wait_until(lambda: adopt(folder, taken(out)) == 2, what="the child's end")
    assert [len(batch.entries) for batch in out] == [1, 2, 2]
    process.stdout.close()
