"""A lean load client: one thread, raw sockets, one prepared request per connection, answers read by Content-Length.

It runs in a process of its own (the benchmark's), beside the servers. What it costs is measured, not assumed: see the
client's share of CPU in the benchmark's output.
"""

import gc
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

PATIENCE_SECONDS = 30


@dataclass(slots=True)
class Measured:
    """What one client saw in one stretch of time. Latencies in microseconds, in order of completion."""

    seconds: float
    latencies_us: list[float]
    refused: list[int] = field(default_factory=list)
    cut: int = 0  # calls that were sent and never answered

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

    def field(self, name: str) -> str:
        """A field of the answer that has arrived."""
        head = self._received.partition(b"\r\n\r\n")[0].decode().lower()
        return head.partition(f"\r\n{name.lower()}:")[2].partition("\r\n")[0].strip()

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    @property
    def descriptor(self) -> int:
        return self._socket.fileno() if self._socket is not None else -1

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


Watcher = Callable[[Connection, int, int], None]  # connection, status, perf_counter_ns


def drive(
    connections: list[Connection],
    path: str,
    *,
    seconds: float | None = None,
    calls: int = 0,
    goes_on: Callable[[], bool] | None = None,
    watch: Watcher | None = None,
    tolerant: bool = False,
) -> Measured:
    """Each connection calls as fast as it is answered, for so long or so many calls; every call that was sent is waited for.

    `watch` sees each answer. `tolerant`: a connection that is cut is opened again, its call counted as `cut`.
    """
    if seconds is not None:
        deadline = time.perf_counter() + seconds
        goes_on = lambda: time.perf_counter() < deadline  # noqa: E731
    elif calls:
        further = iter(range(calls - len(connections)))
        goes_on = lambda: next(further, None) is not None  # noqa: E731
    assert goes_on is not None
    gc.disable()
    try:
        return _Drive(f"GET {path}".encode(), goes_on, watch, tolerant).run(connections)
    finally:
        gc.enable()


class _Drive:
    def __init__(self, request_line: bytes, goes_on: Callable[[], bool], watch: Watcher | None, tolerant: bool) -> None:
        self._request_line = request_line
        self._goes_on = goes_on
        self._watch = watch
        self._tolerant = tolerant
        self._poller = select.epoll()
        self._waiting: dict[int, Connection] = {}
        self._measured = Measured(0.0, [])

    def run(self, connections: list[Connection]) -> Measured:
        started = time.perf_counter()
        for connection in connections:
            self._begin(connection)
        while self._waiting:
            ready = self._poller.poll(PATIENCE_SECONDS)
            if not ready:
                raise SystemExit(f"No answer within {PATIENCE_SECONDS} s.")
            for descriptor, _ in ready:
                self._heard(descriptor, self._waiting[descriptor])
        self._measured.seconds = time.perf_counter() - started
        self._poller.close()
        return self._measured

    def _begin(self, connection: Connection) -> None:
        while True:
            try:
                descriptor = connection.send(self._request_line)
                break
            except ConnectionError as error:
                self._note_cut(connection, error)
        if descriptor not in self._waiting:
            self._waiting[descriptor] = connection
            self._poller.register(descriptor, select.EPOLLIN)

    def _heard(self, descriptor: int, connection: Connection) -> None:
        try:
            status = connection.receive()
        except ConnectionError as error:
            self._note_cut(connection, error)
        else:
            if not status:
                return
            self._note_answer(connection, status)
        goes_on = self._goes_on()
        if not (goes_on and connection.is_open):
            self._waiting.pop(descriptor, None)
            if connection.is_open:
                self._poller.unregister(descriptor)
        if goes_on:
            self._begin(connection)

    def _note_answer(self, connection: Connection, status: int) -> None:
        now = time.perf_counter_ns()
        self._measured.latencies_us.append((now - connection.sent_at) / 1000)
        if status != 200:
            self._measured.refused.append(status)
        if self._watch is not None:
            self._watch(connection, status, now)

    def _note_cut(self, connection: Connection, error: ConnectionError) -> None:
        if not self._tolerant or isinstance(error, ConnectionRefusedError):
            raise error
        self._waiting.pop(connection.descriptor, None)
        connection.close()
        self._measured.cut += 1
