"""Clients that keep calling while something breaks, and remember every answer."""

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Answered:
    at: float  # monotonic
    status: int
    call_id: str


@dataclass
class Load:
    """`with Load(...)`: so many clients call until the block ends. A lost connection is counted, and the client goes on."""

    address: tuple[str, int]
    path: str
    keys: list[str]
    clients: int = 8
    answers: list[Answered] = field(default_factory=list)
    lost: int = 0  # calls whose answer never came: they may or may not be in the ledger
    pause_seconds: float = 0.0

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        headers = {"Authorization": f"Bearer {self.keys[number % len(self.keys)]}"}
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("GET", self.path, headers=headers)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException):
                self.lost += 1
                connection.close()
                self._stop.wait(0.02)  # the listener may be away for a moment
                continue
            self.answers.append(
                Answered(time.monotonic(), response.status, response.headers.get("Meterhouse-Call-Id", ""))
            )
            if self.pause_seconds:
                self._stop.wait(self.pause_seconds)
        connection.close()

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def ids(self, status: int = 200) -> set[str]:
        """Ids of the calls that were answered so."""
        return {answer.call_id for answer in self.answers if answer.status == status}
