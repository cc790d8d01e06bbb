"""A lean load client: one thread, raw sockets, one prepared request per connection, answers read by Content-Length.

It runs in a process of its own (the benchmark's), beside the servers. What it costs is measured, not assumed: see the
client's share of CPU in the benchmark's output.
"""

import gc
import select
import socket
import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Measured:
    """What one client saw in one stretch of time. Latencies in microseconds, in order of completion."""

    seconds: float
    latencies_us: list[float]
    refused: list[int] = field(default_factory=list)

    @property
    def calls(self) -> int:
        return len(self.latencies_us)


class Connection:
    """A kept connection that has at most one call in flight; opened again when the server closes it."""

    def __init__(self, address: tuple[str, int], key: str) -> None:
        self._address = address
        self._head = f" HTTP/1.1\r\nHost: {address[0]}\r\nAuthorization: Bearer {key}\r\nAccept: */*\r\n\r\n".encode()
        self._socket: socket.socket | None = None
        self._received = b""
        self.sent_at = 0

    def send(self, request_line: bytes) -> int:
        """One call is on its way; returns the descriptor to wait on."""
        self.sent_at = time.perf_counter_ns()  # a server that keeps no connections pays for opening them
        if self._socket is None:
            self._socket = socket.create_connection(self._address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._socket.sendall(request_line + self._head)
        return self._socket.fileno()

    def receive(self) -> int:
        """Read what is there; the status when the answer is complete, else 0."""
        assert self._socket is not None
        part = self._socket.recv(65536)
        if not part:
            raise ConnectionError(f"The server closed the connection within an answer: {self._received!r}")
        self._received += part
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return 0
        head = self._received[:end].lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        if len(self._received) < end + 4 + length:
            return 0
        if b"connection: close" in head:
            self.close()
        return int(head[9:12])

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def drive(connections: list[Connection], path: str, *, seconds: float) -> Measured:
    """Each connection calls as fast as it is answered; every call that was sent is waited for."""
    gc.disable()
    try:
        return _Drive(f"GET {path}".encode(), seconds).run(connections)
    finally:
        gc.enable()


class _Drive:
    def __init__(self, request_line: bytes, seconds: float) -> None:
        self._request_line = request_line
        self._poller = select.epoll()
        self._waiting: dict[int, Connection] = {}
        self._started = time.perf_counter()
        self._deadline = self._started + seconds
        self._latencies: list[float] = []
        self._refused: list[int] = []

    def run(self, connections: list[Connection]) -> Measured:
        for connection in connections:
            self._begin(connection)
        while self._waiting:
            for descriptor, _ in self._poller.poll():
                status = self._waiting[descriptor].receive()
                if status:
                    self._answered(descriptor, status)
        finished = time.perf_counter()
        self._poller.close()
        return Measured(finished - self._started, self._latencies, self._refused)

    def _begin(self, connection: Connection) -> None:
        descriptor = connection.send(self._request_line)
        self._waiting[descriptor] = connection
        self._poller.register(descriptor, select.EPOLLIN)

    def _answered(self, descriptor: int, status: int) -> None:
        connection = self._waiting[descriptor]
        now = time.perf_counter_ns()
        self._latencies.append((now - connection.sent_at) / 1000)
        if status != 200:
            self._refused.append(status)
        goes_on = now / 1e9 < self._deadline
        if goes_on and connection.is_open:
            connection.send(self._request_line)  # the same descriptor, already registered
            return
        del self._waiting[descriptor]
        if connection.is_open:
            self._poller.unregister(descriptor)
        if goes_on:
            self._begin(connection)
