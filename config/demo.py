"""The demo: real servers, web, worker, beat and traffic under one supervisor that leaves nothing behind.

Needs no configured Django: what needs it runs in children, with the environment that `demo.json` also names.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any

from config import demo_stripe
from config.stack import Stack, StackError, ports
from config.stack.server import Ladder, Server

ROOT = Path(__file__).resolve().parent.parent
CALL_LOG_DAYS = 7
WEB_WORKERS, WEB_THREADS = 2, 8
READY_SECONDS = 90.0
REVIVE_SECONDS = 5.0
STRIPE = "stripe"  # the simulated one
TENANT_MEMBERS = ("id", "slug", "plan", "email", "password", "api_key")
LADDER = Ladder(((SIGTERM, 20.0), (SIGKILL, 5.0)))


class DemoError(Exception):
    """The demo cannot run; the text names the cause and the mend."""


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    host: str = "127.0.0.1"
    port: int = 8000
    state_dir: Path = Path("var/demo")
    traffic: bool = True
    fresh: bool = False


@dataclass
class Child:
    """A process of the demo: what it runs, and since when it has been dead."""

    server: Server
    command: list[str]
    died_at: float | None = None


@dataclass
class Demo:
    """`start`, then `watch` for ever; `stop` leaves no process and no lock, however far the start came."""

    options: Options
    say: Callable[[str], None]
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    started_at: float = field(default_factory=time.monotonic)
    env: dict[str, str] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    stack: Stack | None = None
    stripe: demo_stripe.DemoStripe = field(default_factory=lambda: demo_stripe.DemoStripe({}))
    is_written: bool = False  # demo.json is ours, not that of another demo whose folder refused us

    @property
    def state_dir(self) -> Path:
        return self.options.state_dir.absolute()

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.options.host in {"0.0.0.0", "::"} else self.options.host  # noqa: S104 -- compared
        return f"http://{host}:{self.options.port}"

    def start(self) -> dict[str, Any]:
        """Everything runs and answers; returns what is in demo.json."""
        ports.check(self.options.port, name="The web server", option="--port")
        if self.options.fresh:
            self._forget_state()
        self.say(f"Meterhouse demo in {self.options.state_dir}")
        self.stack = Stack(self.state_dir, environ=self.environ, say=lambda line: self.say(f"  {line}"))
        urls = self.stack.start()
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.stripe = self._chosen_stripe()
        self.env = self._environment(urls.database_url, urls.redis_url)
        self._start_stripe()
        logins = self._prepare()
        self._spawn_all()
        self._wait_until_ready()
        document = self._document(logins)
        self._write("demo.json", document)
        self.is_written = True
        return document

    def stop(self) -> None:
        """All children and servers have ended, the web first, so that calls in flight are answered and counted."""
        for name in ("traffic", "beat", "worker", "web"):
            if name in self.children:
                self.children[name].server.ask_to_end()
        for name in ("traffic", "web", "worker", "beat", STRIPE):
            if name in self.children:
                self.children.pop(name).server.end()
        if self.stack is not None:
            self.stack.stop()
        if self.is_written:
            (self.state_dir / "demo.json").unlink(missing_ok=True)

    def watch(self) -> None:
        """Bring back whatever dies; returns never."""
        while True:
            time.sleep(0.5)
            now = time.monotonic()
            self._revive_servers(now)
            for name, child in self.children.items():
                self._revive_child(name, child, now)

    # -- preparation ---------------------------------------------------------------------------------------------------

    def _environment(self, database_url: str, redis_url: str) -> dict[str, str]:
        """Every variable that the children, and other commands on this demo, need."""
        kept = self._kept_secrets()
        port = str(self.options.port)
        return {
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": kept["SECRET_KEY"],
            "API_KEY_SECRET": kept["API_KEY_SECRET"],
            "SANDBOX": "true",
            "WEBHOOK_ALLOW_PRIVATE": "true",
            "DEBUG": "false",
            "PUBLIC_URL": self.url,
            "ALLOWED_HOSTS": "*",
            "CALL_LOG_DAYS": str(CALL_LOG_DAYS),
            "METERING_SPOOL_DIR": str(self.state_dir / "spool"),
            "SESSION_COOKIE_NAME": f"meterhouse_session_{port}",  # two demos on one host are two logins
            "CSRF_COOKIE_NAME": f"meterhouse_csrf_{port}",
            "EMAIL_URL": f"filemail:///{self.state_dir / 'mail'}",
            **self.stripe.environment,
            "WEB_BIND": f"{self.options.host}:{port}",
            "WEB_WORKERS": self.environ.get("WEB_WORKERS", str(WEB_WORKERS)),
            "WEB_THREADS": self.environ.get("WEB_THREADS", str(WEB_THREADS)),
        }

    def _kept_secrets(self) -> dict[str, str]:
        path = self.state_dir / "secrets.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        new = {name: secrets.token_urlsafe(50) for name in ("SECRET_KEY", "API_KEY_SECRET")}
        kept = {**new, **demo_stripe.new_secrets(), **known}
        if kept != known:
            self._write("secrets.json", kept)
        return kept

    def _chosen_stripe(self) -> demo_stripe.DemoStripe:
        path = self.state_dir / "stripe.json"
        kept_port = json.loads(path.read_text())["port"] if path.exists() else None
        stripe = demo_stripe.chosen(environ=self.environ, kept=self._kept_secrets(), kept_port=kept_port)
        if stripe.port is not None:
            self._write("stripe.json", {"port": stripe.port})
        return stripe

    def _start_stripe(self) -> None:
        """The simulated Stripe answers; nothing to do when another one is used."""
        if self.stripe.port is None:
            return
        child = self._child(STRIPE, self.stripe.command(state_dir=self.state_dir, product_url=self.url))
        child.server.spawn(child.command, cwd=ROOT, account=None)
        self._wait_for(STRIPE, lambda: ports.answers(self.stripe.port or 0))

    def _child_environment(self) -> dict[str, str]:
        passed = {name: self.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in self.environ}
        theirs = {} if self.stripe.port is None else self.stripe.simulator_environment
        return {**passed, **theirs, "PYTHONUNBUFFERED": "1", "DEMO_STATE_DIR": str(self.state_dir), **self.env}

    def _prepare(self) -> dict[str, Any]:
        """The database is migrated and filled, the tenants are at Stripe; returns the logins.

        They are known from the first start only, so they are kept even when a later step of it fails.
        """
        path = self.state_dir / "logins.json"
        out, complaint = self._run_prepare()
        if (made := json.loads(out.strip().splitlines()[-1]) if out.strip() else None) is not None:
            self._write("logins.json", made)
        if complaint:
            raise DemoError(f"The demo could not be prepared:\n{complaint}")
        if not path.exists():
            raise DemoError(
                f"The database holds the demo's data, but {path} with its passwords and keys is missing. "
                f"Start again with --fresh, or with another --state-dir."
            )
        logins: dict[str, Any] = json.loads(path.read_text())
        return logins

    def _run_prepare(self) -> tuple[str, str]:
        """What the command printed, and its last words where it failed."""
        command = [sys.executable, "manage.py", "prepare_demo"]
        done = subprocess.Popen(  # noqa: S603 -- our own command
            command, cwd=ROOT, env=self._child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert done.stdout is not None
        assert done.stderr is not None
        last: list[str] = []
        try:
            for line in done.stderr:
                last = [*last[-15:], line.rstrip()]
                if line.startswith("  "):
                    self.say(line.rstrip())
            out = done.stdout.read()
        except BaseException:
            done.kill()
            raise
        finally:
            done.wait()
            done.stdout.close()
            done.stderr.close()
        return out, "\n".join(last) if done.returncode else ""

    def _spawn_all(self) -> None:
        python = sys.executable
        celery = [python, "-m", "celery", "-A", "config.celery"]
        commands = {
            "web": [python, "-m", "gunicorn", "-c", "config/gunicorn.py", "config.wsgi"],
            "worker": [*celery, "worker", "--pool=solo", "--loglevel=warning", "--without-gossip", "--without-mingle"],
            "beat": [*celery, "beat", "--loglevel=warning", f"--schedule={self.state_dir / 'beat-schedule'}"],
        }
        if self.options.traffic:
            keys = str(self.state_dir / "logins.json")
            commands["traffic"] = [python, "manage.py", "traffic", "--url", self.url, "--keys-file", keys]
        self.say(f"  Starting {', '.join(commands)} ({self.env['WEB_WORKERS']} web processes)")
        for name, command in commands.items():
            child = self._child(name, command)
            if name != "traffic":
                child.server.spawn(command, cwd=ROOT, account=None)

    def _child(self, name: str, command: list[str]) -> Child:
        """The child is known, not started, and nothing of an earlier one is left."""
        child = Child(Server(name, self.state_dir, LADDER, environment=self._child_environment()), command)
        self.children[name] = child
        child.server.clear_leftovers(self.say)
        return child

    def _wait_until_ready(self) -> None:
        self._wait_for("web", lambda: _answers(f"{self.url}/readyz"))
        if "traffic" in self.children:
            traffic = self.children["traffic"]
            traffic.server.spawn(traffic.command, cwd=ROOT, account=None)

    def _wait_for(self, name: str, answers: Callable[[], bool]) -> None:
        server = self.children[name].server
        deadline = time.monotonic() + READY_SECONDS
        while not answers():
            if obituary := server.obituary():
                raise DemoError(obituary)
            if time.monotonic() > deadline:
                raise DemoError(f"{name} did not answer within {READY_SECONDS:.0f} s; its log is {server.log}.")
            time.sleep(0.05)

    def _document(self, logins: dict[str, Any]) -> dict[str, Any]:
        return {
            "url": self.url,
            "admin": {"url": f"{self.url}/admin/", **logins["admin"]},
            "stripe_simulator": {"url": self.stripe.url},
            "web_pid": self.children["web"].server.pid,
            "env": self.env,
            "tenants": [{name: tenant[name] for name in TENANT_MEMBERS} for tenant in logins["tenants"]],
            "also": logins.get("also", []),
        }

    def _write(self, name: str, document: object) -> None:
        """The file is complete and readable by its owner only, or unchanged."""
        path = self.state_dir / name
        partial = path.with_name(f".{name}.partial")
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
        partial.replace(path)

    def _forget_state(self) -> None:
        """The demo starts from nothing. Deletes the state folder, if it is one of ours."""
        if self.environ.get("DATABASE_URL"):
            raise DemoError(
                "--fresh deletes the demo's own servers' data; with DATABASE_URL set, empty that database yourself."
            )
        if not self.state_dir.exists():
            return
        strangers = bool(list(self.state_dir.iterdir())) and not (self.state_dir / "secrets.json").exists()
        if strangers:
            raise DemoError(f"{self.state_dir} does not look like a state folder of the demo, so it is not deleted.")
        with Stack(self.state_dir, environ={}, say=lambda _: None):
            pass  # refuses when another demo runs there, and ends what an earlier one left running
        shutil.rmtree(self.state_dir)

    # -- watching ------------------------------------------------------------------------------------------------------

    def _revive_servers(self, now: float) -> None:
        assert self.stack is not None
        for line in self.stack.revive(after_seconds=REVIVE_SECONDS, now=now):
            self.say(line)

    def _revive_child(self, name: str, child: Child, now: float) -> None:
        if child.server.exit_code() is None:
            child.died_at = None
            return
        if child.died_at is None:
            child.died_at = now
            self.say(f"{child.server.obituary()}\nStarting {name} again.")
        elif now - child.died_at > 1.0:
            child.died_at = now
            with suppress(StackError):
                child.server.spawn(child.command, cwd=ROOT, account=None)
                self._update_pid(name, child)

    def _update_pid(self, name: str, child: Child) -> None:
        if name == "web":
            document = json.loads((self.state_dir / "demo.json").read_text())
            self._write("demo.json", {**document, "web_pid": child.server.pid})


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 -- our own http address
            return bool(response.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
