"""Clients that keep calling while something breaks, and remember every answer."""

import http.client
import itertools
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answered:
    at: float  # monotonic
    status: int
    call_id: str
    connection: int  # one web worker answers all that comes on a connection, in order
    retry_after: str


@dataclass
class Load:
    """`with Load(...)`: so many clients call until the block ends. A lost call is counted, and the client goes on."""

    address: tuple[str, int]
    path: str
    keys: list[str]
    clients: int = 8
    pause_seconds: float = 0.0
    keeps_alive: bool = True  # else each call has a connection of its own
    answers: list[Answered] = field(default_factory=list)
    lost: int = 0  # calls whose answer never came: they may or may not be in the ledger
    unheard: int = 0  # attempts to connect that nobody took

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._connections = itertools.count()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Every call that was begun is answered or lost, and no other begins."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self.keys[number % len(self.keys)]}"}
        if not self.keeps_alive:
            headers["Connection"] = "close"
        connection, serial = http.client.HTTPConnection(*self.address, timeout=20), 0
        while not self._stop.is_set():
            try:
                if connection.sock is None:
                    serial = next(self._connections)
                    connection.connect()
            except OSError:
                self.unheard += 1
                self._stop.wait(0.02)  # the listener may be away for a moment
                continue
            try:
                connection.request("GET", self.path, headers=headers)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                self.lost += 1
                connection.close()
                continue
            call_id = response.headers.get("Meterhouse-Call-Id", "")
            retry_after = response.headers.get("Retry-After", "")
            self.answers.append(Answered(time.monotonic(), response.status, call_id, serial, retry_after))
            if self.pause_seconds:
                self._stop.wait(self.pause_seconds)
        connection.close()

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def ids(self, status: int = 200) -> set[str]:
        """Ids of the calls that were answered so."""
        return {answer.call_id for answer in self.answers if answer.status == status}

    @property
    def is_exhausted(self) -> bool:
        """Whether a call was refused until the period's end: all units are used, and none waits for a dead process."""
        return any(answer.status == 429 and answer.retry_after != "1" for answer in self.answers)

    def by_connection(self, status: int = 200) -> list[list[str]]:
        """The same ids, a list for each connection, in the order of their answers."""
        found = defaultdict(list)
        for answer in self.answers:
            if answer.status == status:
                found[answer.connection].append(answer.call_id)
        return list(found.values())
