"""A TCP proxy that cuts connections at chosen moments: what a client sees when the network breaks during a commit."""

import random
import socket
import threading
from contextlib import suppress

ANY = b""  # is in every message


class CuttingProxy:
    """Forwards to a server, and cuts at random where a message with `what` in it passes.

    `before`: the chance that only the beginning of the message arrives, so it is not carried out. `after`: the chance that it is
    carried out, and of its answer only the beginning arrives, if anything. The first messages are cut for certain: `at_least` so
    many in each way, in turn. Who sends again what was cut sends enough of them.
    """

    def __init__(
        self, target: tuple[str, int], *, what: bytes, before: float, after: float, at_least: int, seed: int
    ) -> None:
        self._target = target
        self._what = what
        self._chances = (before, after)
        self._at_least = at_least
        self._random = random.Random(seed)
        self.is_cutting = False
        self.cuts = {"before": 0, "after": 0}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in [self._listener, *self._open]:
            _end(each)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                is_cut = threading.Event()
                threading.Thread(target=self._forward, args=(client, server, is_cut), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, is_cut), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, is_cut: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                where = self._where(data)
                if where == "before":
                    server.sendall(self._beginning(data))
                    break
                if where == "after":
                    is_cut.set()  # it is carried out, and nobody hears of it
                server.sendall(data)
        _end(server)
        _end(client)

    def _where(self, data: bytes) -> str | None:
        if not self.is_cutting or self._what not in data:
            return None
        with self._lock:
            where = self._due() or self._by_chance()
            if where:
                self.cuts[where] += 1
        return where

    def _due(self) -> str | None:
        where = min(self.cuts, key=lambda way: self.cuts[way])  # in turn: `before` is the first of equals
        return where if self.cuts[where] < self._at_least else None

    def _by_chance(self) -> str | None:
        before, after = self._chances
        chance = self._random.random()
        return "before" if chance < before else "after" if chance < before + after else None

    def _answer(self, server: socket.socket, client: socket.socket, is_cut: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if is_cut.is_set():
                    client.sendall(self._beginning(data))
                    break
                client.sendall(data)
        _end(client)
        _end(server)

    def _beginning(self, data: bytes) -> bytes:
        return data[: self._random.randrange(len(data))]


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
