"""A TCP proxy that cuts connections at chosen moments: what a client sees when the network breaks during a commit."""

import random
import socket
import threading
from contextlib import suppress


class CuttingProxy:
    """Forwards to a server. `before`, `after`: chances that a message with `what` in it is not sent, or its answer is cut off."""

    def __init__(self, target: tuple[str, int], *, what: bytes, before: float, after: float, seed: int) -> None:
        self._target = target
        self._what = what
        self._chances = (before, after)
        self._random = random.Random(seed)
        self.is_cutting = False
        self.cuts = {"before": 0, "after": 0}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in [self._listener, *self._open]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._open += [client, server]
                state = {"is_cut": False}
                threading.Thread(target=self._forward, args=(client, server, state), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, state), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, state: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 20):
                if self.is_cutting and self._what in data:
                    before, after = self._chances
                    chance = self._random.random()
                    if chance < before:
                        self.cuts["before"] += 1
                        break
                    if chance < before + after:
                        self.cuts["after"] += 1
                        state["is_cut"] = True  # it is carried out, and nobody hears of it
                server.sendall(data)
        _end(server)
        _end(client)

    def _answer(self, server: socket.socket, client: socket.socket, state: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 20):
                if state["is_cut"]:
                    break
                client.sendall(data)
        _end(client)
        _end(server)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
