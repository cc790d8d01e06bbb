"""Burst limits: calls per second and tenant, over all processes. They protect capacity, never money.

GCRA (the generic cell rate algorithm, ITU-T I.371) in one script on Redis or Valkey; where the rate is high a process
takes tokens in small chunks, so that most calls need no round trip. Fails open: without Redis calls are allowed, counted
in `unguarded` and logged, and a broken or slow Redis costs one call in a second at most BURST_TIMEOUT_SECONDS.
"""

import logging
import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

logger = logging.getLogger(__name__)
TOKENS_LIVE_SECONDS = 1.0
REFUSAL_MEMORY_SECONDS = 0.1
BREAK_SECONDS = 1.0
FORGET_ABOVE = 10_000

# KEYS[1]: the limit's state, the theoretical arrival time in microseconds. ARGV: microseconds a call, microseconds a full
# burst may run ahead, tokens wanted. Returns {tokens granted, microseconds until one is free}. All or nothing for the
# first token; further ones only as far as the limit allows.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, tolerance, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local granted = math.min(wanted, math.floor((now + tolerance - arrival) / interval + 0.000001))
if granted < 1 then
    return {0, math.ceil(arrival + interval - tolerance - now)}
end
arrival = arrival + granted * interval
redis.call('SET', KEYS[1], string.format('%.17g', arrival), 'PX', math.ceil((arrival - now) / 1000) + 1000)
return {granted, 0}
"""


@dataclass(slots=True)
class Tokens:
    left: int = 0
    good_until: float = 0.0
    refused_until: float = 0.0
    wait_seconds: float = 0.0


class Burst:
    """The burst limits as this process sees them. Safe for threads."""

    def __init__(self) -> None:
        self._tokens: dict[str, Tokens] = {}
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._broken_until = 0.0
        self.unguarded = 0

    def wait_seconds(self, *, name: str, per_second: int) -> float:
        """0.0 when one more call is allowed (and taken), else the seconds until it would be."""
        now = time.monotonic()
        with self._lock:
            tokens = self._tokens.get(name)
            if tokens is None:
                tokens = self._tokens[name] = Tokens()
            if tokens.left and now < tokens.good_until:
                tokens.left -= 1
                return 0.0
            if now < tokens.refused_until:
                return tokens.wait_seconds
            if now < self._broken_until:
                self.unguarded += 1
                return 0.0
        chunk = max(1, min(per_second // 50, 200))
        try:
            granted, wait_us = self._ask(name, per_second, chunk)
        except redis.RedisError as error:
            self._note_broken(error)
            return 0.0
        return self._keep(tokens, granted - 1, wait_us / 1_000_000, now)

    def give_back(self, *, name: str) -> None:
        """The call that took this token was not admitted after all."""
        with self._lock:
            tokens = self._tokens.get(name)
            if tokens is not None:
                tokens.left += 1

    def _ask(self, name: str, per_second: int, chunk: int) -> tuple[int, int]:
        if self._client is None:
            timeout = settings.BURST_TIMEOUT_SECONDS
            # redis-py's own retries would stall a call for seconds
            self._client = redis.Redis.from_url(
                settings.REDIS_URL, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
            )
            self._script = self._client.register_script(SCRIPT)
        granted, wait_us = self._script(keys=[f"burst:{{{name}}}"], args=[1_000_000 / per_second, 1_000_000, chunk])
        return int(granted), int(wait_us)

    def _keep(self, tokens: Tokens, left: int, wait_seconds: float, now: float) -> float:
        with self._lock:
            if left < 0:
                tokens.wait_seconds = max(wait_seconds, 0.001)
                tokens.refused_until = now + min(wait_seconds, REFUSAL_MEMORY_SECONDS)
                return tokens.wait_seconds
            tokens.left, tokens.good_until = left, now + TOKENS_LIVE_SECONDS
            if len(self._tokens) > FORGET_ABOVE:
                self._tokens = {name: kept for name, kept in self._tokens.items() if now < kept.good_until}
            return 0.0

    def _note_broken(self, error: redis.RedisError) -> None:
        with self._lock:
            self.unguarded += 1
            first = time.monotonic() - self._broken_until > 2 * BREAK_SECONDS
            self._broken_until = time.monotonic() + BREAK_SECONDS
        if first:
            logger.warning("Burst limits are open, Redis does not answer: %s", error)


burst = Burst()


@lru_cache(maxsize=FORGET_ABOVE)
def tenant_limit(tenant_id: UUID) -> str:
    """Name of a tenant's limit on metered calls."""
    return f"tenant:{tenant_id}"
