"""The demo as a newcomer meets it: one command, real processes, and nothing left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from config.stack import ports
from tests.clients import get
from tests.conftest import ROOT, wait_until

FIRST_START_SECONDS = 180


def processes_of(state_dir: Path) -> list[int]:
    """Every process that was started for this state folder: its environment or command line names it."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if str(state_dir).encode() in text:
                found.append(int(folder.name))
    return found


class Demo:
    """A running `manage.py demo`."""

    def __init__(self, state_dir: Path, *options: str) -> None:
        self.state_dir = state_dir
        self.log = state_dir.with_suffix(".log")
        self.start(*options)

    def start(self, *options: str) -> None:
        self.port = ports.free()
        environ = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
        command = [
            sys.executable,
            "manage.py",
            "demo",
            "--port",
            str(self.port),
            "--state-dir",
            str(self.state_dir),
            *options,
        ]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=subprocess.STDOUT)

    def document(self) -> dict[str, Any]:
        """What demo.json says once the demo is ready; one that a test has ended starts again."""
        if self.process.poll() is not None:
            self.start()
        path = self.state_dir / "demo.json"
        wait_until(lambda: path.exists() or self.process.poll() is not None, seconds=FIRST_START_SECONDS, what="ready")
        if not path.exists():
            pytest.fail(self.log.read_text()[-3000:])
        document: dict[str, Any] = json.loads(path.read_text())
        return document

    def stop(self) -> int:
        """Stops it as impatient people and wrappers do: the signal comes twice."""
        already = self.log.read_text().count("Stopping")
        self.process.send_signal(signal.SIGTERM)
        wait_until(lambda: self.log.read_text().count("Stopping") > already, what="the beginning of the stop")
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo") / "state")
    yield demo
    if demo.process.poll() is None:
        demo.stop()


@pytest.fixture
def demo(_started: Demo) -> Demo:
    """Shared by the tests of this file, and running, whatever the one before did to it."""
    _started.document()
    return _started


def address(document: dict[str, Any]) -> tuple[str, int]:
    parts = urlsplit(document["url"])
    return parts.hostname or "", parts.port or 0


def test_demo_json_names_everything_and_is_private(demo: Demo) -> None:
    document = demo.document()
    assert stat.S_IMODE((demo.state_dir / "demo.json").stat().st_mode) == 0o600
    assert set(document) >= {"url", "admin", "stripe_simulator", "web_pid", "env", "tenants"}
    assert set(document["admin"]) == {"url", "email", "password"}
    assert [tenant["plan"] for tenant in document["tenants"]] == ["scale", "free", "launch", "enterprise"]
    assert all(set(tenant) == {"id", "slug", "plan", "email", "password", "api_key"} for tenant in document["tenants"])
    children = Path(f"/proc/{document['web_pid']}/task/{document['web_pid']}/children").read_text().split()
    assert len(children) == 2


def doctor(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "doctor"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_the_first_key_answers_and_the_blocked_one_is_refused(demo: Demo) -> None:
    document = demo.document()
    answers = {
        tenant["slug"]: get(address(document), "/sandbox/v1/auth/session", tenant["api_key"])
        for tenant in document["tenants"]
    }
    assert {slug: answer.status for slug, answer in answers.items()} == {
        "acme": 200, "globex": 429, "initech": 200, "umbra": 200,
    }  # fmt: skip
    assert answers["acme"].headers["ratelimit"].startswith('"month";r=')
    assert int(answers["globex"].headers["retry-after"]) > 3600


def test_other_commands_work_with_its_environment(demo: Demo) -> None:
    document = demo.document()
    env = {"PATH": os.environ["PATH"], **document["env"]}
    command = [sys.executable, "manage.py", "create_tenant", "--name", "Soylent", "--email", "s@soylent.example"]
    done = subprocess.run([*command, "--plan", "free", "--json"], cwd=ROOT, env=env, capture_output=True, check=True)
    made = json.loads(done.stdout.splitlines()[-1])
    assert get(address(document), "/sandbox/v1/auth/session", made["api_key"]).status == 200
    healthy = wait_until(
        lambda: (said := doctor(env)).returncode == 0 and said, seconds=40, what="a clean bill of health"
    )
    assert "problem" not in healthy.stdout


def test_traffic_reaches_the_numbers(demo: Demo) -> None:
    document = demo.document()

    def billable() -> int:
        answers = [get(address(document), "/api/v1/usage", tenant["api_key"]) for tenant in document["tenants"]]
        return sum(answer.json["calls"]["billable"] for answer in answers if answer.status == 200)

    before = billable()
    wait_until(lambda: billable() > before + 2, seconds=30, what="live traffic")


def test_postgresql_may_die_and_comes_back(demo: Demo) -> None:
    document = demo.document()
    key = document["tenants"][0]["api_key"]
    assert get(address(document), "/sandbox/v1/auth/session", key).status == 200
    postmaster = int((demo.state_dir / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGQUIT)
    unavailable = wait_until(
        lambda: (answer := get(address(document), "/sandbox/v1/auth/session", key)).status == 503 and answer,
        what="the refusal",
    )
    assert unavailable.headers["retry-after"] == "1"
    assert unavailable.headers["content-type"] == "application/problem+json"
    page = get(address(document), "/login", None)
    assert page.status in {200, 503}
    keys = [tenant["api_key"] for tenant in document["tenants"]] * 4  # often enough to meet both processes

    def has_recovered() -> bool:
        return all(get(address(document), "/sandbox/v1/auth/session", key).status != 503 for key in keys)

    wait_until(has_recovered, seconds=20, what="the recovery")


def test_a_taken_port_is_named(demo: Demo, tmp_path: Path) -> None:
    second = subprocess.run(
        [sys.executable, "manage.py", "demo", "--port", str(demo.port), "--state-dir", str(tmp_path / "other")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=FIRST_START_SECONDS,
    )  # fmt: skip
    assert second.returncode == 1
    assert "another process has that port" in second.stderr
    assert "--port" in second.stderr


def test_a_second_demo_on_the_same_state_is_refused(demo: Demo) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    second = subprocess.run(
        [sys.executable, "manage.py", "demo", "--port", str(ports.free()), "--state-dir", str(demo.state_dir)],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=FIRST_START_SECONDS,
    )  # fmt: skip
    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    assert (demo.state_dir / "demo.json").exists()


def test_sigterm_leaves_nothing_and_the_next_start_keeps_the_data(demo: Demo) -> None:
    before = demo.document()
    assert processes_of(demo.state_dir)
    assert demo.stop() == 0
    assert processes_of(demo.state_dir) == []
    assert not (demo.state_dir / "demo.json").exists()
    after = demo.document()
    assert after["tenants"] == before["tenants"]
    assert get(address(after), "/sandbox/v1/auth/session", after["tenants"][0]["api_key"]).status == 200
    os.kill(demo.process.pid, signal.SIGINT)
    assert demo.process.wait(timeout=60) == 0
    assert processes_of(demo.state_dir) == []
