"""Live traffic: calls over HTTP to a product on this machine, in the same rhythm as the demo's history.

It survives restarts of the server, and a tenant that has used everything is tried every 20 seconds only.
"""

import http.client
import ipaddress
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Full, Queue
from random import Random
from typing import Any
from urllib.parse import urlsplit

from . import rhythm, story
from .rhythm import Rhythm

WORKERS = 6
ANSWER_SECONDS = 15.0
QUIET_SECONDS = 20.0  # between the tries of a tenant that is refused until its period ends
LONG_WAIT_SECONDS = 60  # a Retry-After of at least this means: not soon
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 10.0
FIRST_KEY_SHARE = 0.6
WRITTEN_AGAIN, WRITTEN_FIRST = 0.25, 0.95
SMALLEST_RATE = 0.25  # of the average: at night something still moves


class TrafficError(Exception):
    """Base of the generator's errors."""


class NotLoopback(TrafficError):
    """The address is not on this machine."""


class KeysUnreadable(TrafficError):
    """The keys file is missing or has another shape."""


@dataclass(slots=True)
class Source:
    """A tenant's programs: their keys and their share of the traffic.

    `next_try` is set for one that was told to wait (None: calls flow); at the start each is tried once.
    """

    slug: str
    api_keys: tuple[str, ...] = field(repr=False)
    share: float
    next_try: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Call:
    source: Source
    api_key: str = field(repr=False)
    method: str
    path: str
    body: bytes | None = None
    content_type: str = "application/json"


def address(url: str) -> tuple[str, int]:
    """Host and port of a product on this machine; raises NotLoopback for any other."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or 80
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    if parts.scheme != "http" or not is_here:
        raise NotLoopback(f"Traffic goes to this machine only, for example http://127.0.0.1:8000; not to '{url}'.")
    return host, port


def sources(path: Path) -> list[Source]:
    """The tenants of a keys file or of demo.json; raises KeysUnreadable."""
    try:
        tenants = json.loads(path.read_text())["tenants"]
        found = [Source(tenant["slug"], _keys(tenant), _share(tenant["slug"])) for tenant in tenants]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KeysUnreadable(f"{path} is not a keys file ({type(error).__name__}: {error}).") from error
    if not found or not all(source.api_keys for source in found):
        raise KeysUnreadable(f"{path} names no tenant, or one without a key.")
    return found


def _keys(tenant: dict[str, Any]) -> tuple[str, ...]:
    keys = tenant["api_keys"] if "api_keys" in tenant else [tenant["api_key"], *tenant.get("traffic_keys", ())]
    return tuple(str(key) for key in keys if key)


def _share(slug: str) -> float:
    used = {told.slug: told.used for told in story.TENANTS}
    return used.get(slug, sum(used.values()) / len(used))


def rate(base: float, epoch: float) -> float:
    """Calls a second at this instant: `base` on average over a week."""
    hour = int(epoch // 3600)
    level = (rhythm.weight(Rhythm.OFFICE, hour) + rhythm.weight(Rhythm.EVENING, hour)) / 2
    return base * max(SMALLEST_RATE, level)


class Script:
    """What the tenants' programs call. Repeatable for a seed."""

    def __init__(self, found: list[Source], random: Random) -> None:
        self._sources = found
        self._shares = [source.share for source in found]
        self._random = random
        self._written: set[tuple[str, str]] = set()

    def call(self, now: float) -> Call | None:
        """The next call; None when it would be that of a tenant which waits."""
        due = [source for source in self._sources if source.next_try is not None and source.next_try <= now]
        source = due[0] if due else self._random.choices(self._sources, self._shares)[0]
        if source.next_try is not None:
            if source.next_try > now:
                return None
            source.next_try = now + QUIET_SECONDS
        is_first = len(source.api_keys) == 1 or self._random.random() < FIRST_KEY_SHARE
        api_key = source.api_keys[0] if is_first else self._random.choice(source.api_keys[1:])
        return self._what(source, api_key)

    def _what(self, source: Source, api_key: str) -> Call:
        match self._random.choices(("session", "record", "object", "status"), (34, 36, 17, 13))[0]:
            case "session":
                return Call(source, api_key, "GET", "auth/session")
            case "record":
                return self._kept(source, api_key, f"database/records/customer-{self._place(40)}", "application/json")
            case "object":
                return self._kept(source, api_key, f"storage/objects/report-{self._place(12)}.csv", "text/csv")
            case _:
                return Call(source, api_key, "GET", self._status())

    def _kept(self, source: Source, api_key: str, path: str, content_type: str) -> Call:
        """Mostly a read, sometimes a write; what was never written by this key is written first, with few exceptions."""
        is_known = (api_key, path) in self._written
        if self._random.random() < (WRITTEN_AGAIN if is_known else WRITTEN_FIRST):
            self._written.add((api_key, path))
            return Call(source, api_key, "PUT", path, self._content(content_type), content_type)
        return Call(source, api_key, "GET", path)

    def _content(self, content_type: str) -> bytes:
        random = self._random
        if content_type == "text/csv":
            return random.randbytes(random.randrange(200, 6_000)).hex().encode()
        document = {
            "customer": random.randrange(40),
            "balance": random.randrange(10_000),
            "visits": random.randrange(99),
        }
        return json.dumps(document).encode()

    def _place(self, among: int) -> int:
        """Some keys are used far more often than others."""
        return int(among * self._random.random() ** 2)

    def _status(self) -> str:
        random = self._random
        capability = random.choice(("auth", "database", "storage"))
        if random.random() < 0.12:  # noqa: PLR2004
            return f"{capability}/status/{random.choice((500, 503, 404))}"
        delay_ms = min(900, round(random.lognormvariate(3.2, 0.9)))
        return f"{capability}/status/200?delay_ms={delay_ms}"


class Generator:
    """Sends the script's calls, a few at a time, until it is stopped."""

    def __init__(self, *, url: str, found: list[Source], calls_per_second: float, seed: int | None) -> None:
        self._address = address(url)
        self._script = Script(found, Random(seed))
        self._random = Random(seed)
        self._rate = calls_per_second
        self._waiting: Queue[Call] = Queue(maxsize=WORKERS)
        self._stopping = threading.Event()
        self._away_until = 0.0
        self._backoff = FIRST_BACKOFF_SECONDS
        self.answers: Counter[int] = Counter()  # by status; 0: no answer
        self.skipped = 0

    def stop(self) -> None:
        self._stopping.set()

    def run(self, *, seconds: float | None) -> None:
        """Traffic flows until `stop`, or for so many seconds."""
        for number in range(WORKERS):
            threading.Thread(target=self._work, name=f"traffic-{number}", daemon=True).start()
        end = None if seconds is None else time.monotonic() + seconds
        while not self._stopping.is_set() and (end is None or time.monotonic() < end):
            pause = self._random.expovariate(rate(self._rate, time.time()))
            if end is not None:
                pause = min(pause, max(0.0, end - time.monotonic()))
            if self._stopping.wait(pause):
                break
            self._next()
        self.stop()

    def _next(self) -> None:
        now = time.monotonic()
        if now < self._away_until:
            self.skipped += 1
            return
        call = self._script.call(now)
        if call is None:
            return
        try:
            self._waiting.put_nowait(call)
        except Full:  # the server is slow: never more than a few calls wait for it
            self.skipped += 1

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                call = self._waiting.get(timeout=1.0)
            except Empty:
                continue
            self._send(call)

    def _send(self, call: Call) -> None:
        headers = {"Authorization": f"Bearer {call.api_key}", "Content-Type": call.content_type}
        connection = http.client.HTTPConnection(*self._address, timeout=ANSWER_SECONDS)
        try:
            connection.request(call.method, f"/sandbox/v1/{call.path}", body=call.body, headers=headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self._back_off()
            return
        finally:
            connection.close()
        self._backoff = FIRST_BACKOFF_SECONDS
        self._note(call.source, response)

    def _back_off(self) -> None:
        """No call for a while, and for longer each time; calls that fail together count as one time."""
        self.answers[0] += 1
        now = time.monotonic()
        if now >= self._away_until:
            self._away_until = now + self._backoff
            self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _note(self, source: Source, response: http.client.HTTPResponse) -> None:
        self.answers[response.status] += 1
        wait = response.getheader("Retry-After", "")
        if response.status == http.client.TOO_MANY_REQUESTS and wait.isdecimal() and int(wait) >= LONG_WAIT_SECONDS:
            source.next_try = time.monotonic() + QUIET_SECONDS
        else:
            source.next_try = None
