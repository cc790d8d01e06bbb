"""The HTTP server: threads, keep-alive, this machine only."""

import http.server
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from .endpoints import is_loopback
from .messages import Answer, Request

MAX_BODY = 2 * 1024 * 1024
IDLE_SECONDS = 120
DRIPS = 5
Respond = Callable[[Request], Answer]


class NotLoopback(ValueError):
    """The address is not on this machine."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection, any number of requests."""

    protocol_version = "HTTP/1.1"
    server_version = "SimulatedStripe"
    sys_version = ""
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    server: "Server"

    def _answer(self) -> None:
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY:
            self.close_connection = True
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._write(self.server.respond(Request(self.command, self.path, headers, self.rfile.read(length))))

    do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = do_HEAD = _answer  # noqa: N815

    def _write(self, answer: Answer) -> None:
        if answer.cut:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.drip_seconds:
            self._drip(answer)
        else:
            self.wfile.write(answer.body)

    def _drip(self, answer: Answer) -> None:
        size = max(1, len(answer.body) // DRIPS)
        for start in range(0, len(answer.body), size):
            time.sleep(answer.drip_seconds / DRIPS)
            self.wfile.write(answer.body[start : start + size])
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """The request log is kept by the API."""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, host: str, port: int, respond: Respond) -> None:
        if not is_loopback(host):
            raise NotLoopback(f"The simulated Stripe serves this machine only: bind to 127.0.0.1, not to '{host}'.")
        self.respond = respond
        self._open: set[socket.socket] = set()
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""

    def close_all(self) -> None:
        """No connection is left, kept alive or not."""
        for one in list(self._open):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
