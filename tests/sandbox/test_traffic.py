"""The traffic generator: on this machine only, patient with a blocked tenant and with a server that is away."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

import pytest
from django.core.management import CommandError, call_command

from sandbox import traffic
from sandbox.traffic import KeysUnreadable, NotLoopback, Script, Source
from tests.conftest import free_port


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://10.0.0.1:8000",
        "https://127.0.0.1",
        "http://0.0.0.0:80",
        "http://127.0.0.1.example:80",
        "127.0.0.1:8000",
        "http://localhost:x",
    ],
)
def test_any_other_host_is_refused(url: str) -> None:
    with pytest.raises(NotLoopback, match="this machine only"):
        traffic.address(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8066", ("127.0.0.1", 8066)),
        ("http://localhost", ("localhost", 80)),
        ("http://[::1]:8066/", ("::1", 8066)),
        ("http://127.1.2.3:1", ("127.1.2.3", 1)),
    ],
)
def test_loopback_is_accepted(url: str, expected: tuple[str, int]) -> None:
    assert traffic.address(url) == expected


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    with pytest.raises(CommandError, match="not a keys file"):
        call_command("traffic", url="http://127.0.0.1:1", keys_file=keys)
    keys.write_text('{"tenants": [{"slug": "acme", "api_keys": ["mh_live_x"]}]}')
    with pytest.raises(CommandError, match="this machine only"):
        call_command("traffic", url="http://192.0.2.1", keys_file=keys)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tenants": []}', '{"tenants": [{"slug": "a", "api_keys": []}]}'])
def test_a_file_of_another_shape_is_not_a_keys_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(KeysUnreadable):
        traffic.sources(path)


def test_demo_json_is_a_keys_file(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    tenants = [{"slug": "acme", "api_key": "one", "traffic_keys": ["two"]}, {"slug": "other", "api_key": "three"}]
    path.write_text(json.dumps({"url": "http://127.0.0.1:8000", "tenants": tenants}))
    assert [source.api_keys for source in traffic.sources(path)] == [("one", "two"), ("three",)]


def test_traffic_is_busier_on_a_weekday_afternoon_than_at_night() -> None:
    afternoon = datetime(2026, 11, 24, 15, tzinfo=UTC).timestamp()
    night = datetime(2026, 11, 24, 4, tzinfo=UTC).timestamp()
    assert traffic.rate(4, afternoon) > 4 > traffic.rate(4, night) > 0
    week = [traffic.rate(4, afternoon + hour * 3600) for hour in range(168)]
    assert sum(week) / len(week) == pytest.approx(4, rel=0.1)


def test_a_tenant_that_was_told_to_wait_is_tried_every_twenty_seconds() -> None:
    busy = Source("acme", ("a", "b"), share=1.0, next_try=None)
    blocked = Source("globex", ("c",), share=5.0, next_try=100.0)
    script = Script([busy, blocked], Random(1))
    tried = []
    for tenth in range(900, 1600):
        call = script.call(tenth / 10)
        if call is not None and call.source is blocked:
            tried.append(tenth / 10)
    assert tried == [100.0, 120.0, 140.0]


def test_the_same_seed_makes_the_same_calls() -> None:
    def calls() -> list[tuple[str, str, bytes | None]]:
        script = Script([Source("acme", ("a", "b"), share=1.0)], Random(7))
        made = [script.call(float(second)) for second in range(1, 200)]
        return [(call.method, call.path, call.body) for call in made if call is not None]

    assert calls() == calls()
    assert {path.split("/")[0] for _, path, _ in calls()} == {"auth", "database", "storage"}


class Blocked(BaseHTTPRequestHandler):
    """A product that refuses the key `blocked` until its period ends, and serves all others."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "blocked" in self.headers["Authorization"]:
            self.send_response(429)
            self.send_header("Retry-After", "864000")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET  # noqa: N815 -- http.server's naming

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    product = ThreadingHTTPServer(("127.0.0.1", 0), Blocked)
    thread = threading.Thread(target=product.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{product.server_port}"
    product.shutdown()
    thread.join()
    product.server_close()


def test_calls_arrive_and_a_refused_tenant_is_left_alone(server: str) -> None:
    found = [Source("acme", ("fine",), share=1.0), Source("globex", ("blocked",), share=5.0)]
    generator = traffic.Generator(url=server, found=found, calls_per_second=1000, seed=1)
    generator.run(seconds=0.7)
    assert generator.answers[200] > 10
    assert generator.answers[429] == 1


def test_a_server_that_is_away_is_asked_less_and_less_often() -> None:
    found = [Source("acme", ("fine",), share=1.0)]
    url = f"http://127.0.0.1:{free_port()}"
    generator = traffic.Generator(url=url, found=found, calls_per_second=1000, seed=1)
    generator.run(seconds=0.4)
    assert 1 <= generator.answers[0] <= traffic.WORKERS
    assert generator.skipped > 20
