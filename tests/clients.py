"""HTTP clients for tests: many at once, on kept connections, every answer kept."""

import http.client
import json
import threading
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(address: tuple[str, int], path: str, key: str | None, *, method: str = "GET") -> Answer:
    """One call on a connection of its own."""
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        return _call(connection, path, key, method)
    finally:
        connection.close()


def get_many(
    address: tuple[str, int], path: str, key: str, *, count: int, clients: int, headers: dict[str, str] | None = None
) -> list[Answer]:
    """`count` calls from `clients` clients at once."""
    answers: list[Answer] = []
    left = iter(range(count))

    def run() -> None:
        connection = http.client.HTTPConnection(*address, timeout=60)
        for _ in left:
            answers.append(_call(connection, path, key, "GET", headers))
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _call(
    connection: http.client.HTTPConnection,
    path: str,
    key: str | None,
    method: str,
    headers: dict[str, str] | None = None,
) -> Answer:
    sent = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request(method, path, headers=sent | (headers or {}))
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
