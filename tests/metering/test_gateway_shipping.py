"""The shipper: each line of the proxy's log is told once, over rotations, restarts and a product that is away."""

import json
import logging
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from metering.gateway import shipping
from tests.conftest import free_port

SECRET = "s" * 32


def line(number: int, status: int = 200) -> str:
    return json.dumps({"call_id": f"call-{number}", "tenant": "t", "status": status, "seconds": 0.0125}) + "\n"


class Product:
    """Takes outcomes as the product does, and answers as it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.answers: list[Any] = []  # what comes before "settled": a status, or the state of every entry
        product = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                entries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = product.answers.pop(0) if product.answers else "settled"
                is_taken = isinstance(answer, str) and self.headers["Authorization"] == f"Bearer {SECRET}"
                if answer == "settled" and is_taken:
                    product.told += entries
                body = json.dumps({"outcomes": [{"status": answer, "detail": "d"} for _ in entries]}).encode()
                self.send_response(200 if is_taken else answer if isinstance(answer, int) else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", free_port()), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/gate/outcomes"

    @property
    def numbers(self) -> list[int]:
        return [int(entry["call_id"].removeprefix("call-")) for entry in self.told]


@pytest.fixture
def product() -> Any:
    made = Product()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Shipper:
    """The shipper without its pauses; a new one is a restart."""

    def __init__(self, path: Path, product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shipping, "REOPENED_SECONDS", 0.0)
        self.log = shipping.Log(path, path.with_name("position"))
        self.teller = shipping.Teller(product.url, SECRET)
        self.is_stopping = False

    def run(self) -> None:
        ship = shipping.ship
        while ship(self.log, self.teller, stopping=lambda: self.is_stopping, pause=lambda _: None):
            pass
        self.log.close()


def test_lines_are_told_once_over_rotations_and_restarts(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "access.log"
    Shipper(path, product, monkeypatch).run()  # not there yet
    path.write_text(line(1) + line(2) + line(3)[:20])
    Shipper(path, product, monkeypatch).run()
    assert product.numbers == [1, 2]
    assert product.told[0] == {"call_id": "call-1", "tenant": "t", "status": 200, "latency_ms": 12.5}
    with path.open("a") as log:
        log.write(line(3)[20:] + line(4))
    path.rename(tmp_path / "access.log.1")
    path.write_text(line(5))
    os.utime(tmp_path / "access.log.1", ns=(1, 10**9))
    Shipper(path, product, monkeypatch).run()  # it was not running when the log was rotated
    assert product.numbers == [1, 2, 3, 4, 5]
    running = Shipper(path, product, monkeypatch)
    running.log.lines()
    with path.open("a") as old:
        path.rename(tmp_path / "access.log.2")
        old.write(line(6))  # the proxy has not opened the new one yet
        path.write_text(line(7))
    os.utime(tmp_path / "access.log.2", ns=(1, 2 * 10**9))
    running.run()
    assert product.numbers == [1, 2, 3, 4, 5, 6, 7]
    with path.open("a") as log:
        log.write(line(8))
    Shipper(path, product, monkeypatch).run()
    path.write_text(line(9))  # truncated
    Shipper(path, product, monkeypatch).run()
    assert product.numbers == [*range(1, 10)]


def test_what_the_product_does_not_take_now_is_told_again(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.log"
    path.write_text(line(1) + line(2))
    product.answers = [503, 429, "early", "settled"]
    Shipper(path, product, monkeypatch).run()
    assert product.numbers == [1, 2]
    assert caplog.text.count("are told again") == 1
    with path.open("a") as log:
        log.write(line(2))
    product.answers = ["early"] * (shipping.EARLY_TRIES + 1)  # its process was killed: it must not hold up the others
    Shipper(path, product, monkeypatch).run()
    assert "1 outcomes of calls that the product does not know" in caplog.text
    stopped = Shipper(path, product, monkeypatch)
    stopped.is_stopping = True
    with path.open("a") as log:
        log.write(line(3))
    product.answers = [503]
    stopped.run()
    assert product.numbers == [1, 2]
    Shipper(path, product, monkeypatch).run()
    assert product.numbers == [1, 2, 3]


def test_a_line_that_cannot_be_read_is_named_and_passed_over(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(
        b"127.0.0.1 - - GET / 200\n" + line(1).encode() + b'{"status": 200}\n\xff\x00\n' + line(2).encode()
    )
    with caplog.at_level(logging.ERROR):
        Shipper(path, product, monkeypatch).run()
    assert product.numbers == [1, 2]
    assert "it is not JSON; use the log_format of docs/gateway.md: 127.0.0.1" in caplog.text
    assert "it names no call_id" in caplog.text


def test_the_command_says_what_is_missing_or_refused(
    product: Product, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    path = tmp_path / "access.log"
    path.write_text(line(1))
    url = product.url.removesuffix("/gate/outcomes")
    with pytest.raises(CommandError, match="GATE_SECRETS is not set"):
        call_command("gate_outcomes", follow=path, url=url, once=True)
    settings.GATE = {**settings.GATE, "SECRETS": ["another"]}
    with pytest.raises(CommandError, match="refuses outcomes: 401"):
        call_command("gate_outcomes", follow=path, url=url, once=True)
    settings.GATE = {**settings.GATE, "SECRETS": [SECRET]}
    call_command("gate_outcomes", follow=path, url=url, once=True)
    assert product.numbers == [1]
