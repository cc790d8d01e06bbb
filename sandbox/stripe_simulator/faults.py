"""Faults on demand: which requests and webhooks go wrong, how, and how often. Repeatable for a seed."""

import threading
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

REQUEST_KINDS = {
    "drop_before", "drop_after", "error_500_before", "error_500_after", "rate_limit_429", "timeout", "garbage",
    "slow_drip",
}  # fmt: skip
WEBHOOK_KINDS = {"duplicate", "reorder", "delay", "lose"}
METER_KINDS = {"reject"}
KINDS = REQUEST_KINDS | WEBHOOK_KINDS | METER_KINDS


class NotAFault(ValueError):
    """The rule makes no sense."""


@dataclass
class Rule:
    """Goes off `count` times: at the `nth` match and those after it, or each time with `probability`."""

    kind: str
    method: str = "*"
    path: str = "/v1/"  # a prefix
    about: str = ""  # an id that the request names, in its query or its body
    event: str = ""  # a prefix of the event type, or of the meter's event name for `reject`
    nth: int = 1
    probability: float | None = None
    count: int = 1
    seconds: float = 0.2
    code: str = "meter_event_customer_not_found"
    matched: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise NotAFault(f"'{self.kind}' is no fault; there are {', '.join(sorted(KINDS))}.")
        if self.nth < 1 or self.count < 1 or (self.probability is not None and not 0 <= self.probability <= 1):
            raise NotAFault("`nth` and `count` begin at 1, `probability` is between 0 and 1.")


class Faults:
    """The rules in force."""

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.Lock()
        self._random = Random(seed)
        self._rules: list[Rule] = []

    def add(self, kind: str, **options: Any) -> Rule:
        """A rule is in force; raises NotAFault."""
        try:
            rule = Rule(kind, **options)
        except TypeError as error:
            raise NotAFault(str(error)) from error
        with self._lock:
            self._rules.append(rule)
        return rule

    def seed(self, seed: int | None) -> None:
        self._random.seed(seed)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def rules(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def request(self, method: str, path: str, named: str = "") -> Rule | None:
        """The fault that meets this request. `named`: its query and body."""

        def is_meant(rule: Rule) -> bool:
            return rule.method in ("*", method) and path.startswith(rule.path) and rule.about in named

        return self._first(REQUEST_KINDS, is_meant)

    def webhook(self, event_type: str) -> Rule | None:
        """The fault that meets this webhook."""
        return self._first(WEBHOOK_KINDS, lambda rule: event_type.startswith(rule.event))

    def meter_event(self, event_name: str) -> tuple[str, str] | None:
        """Why an accepted meter event is rejected later."""
        rule = self._first(METER_KINDS, lambda rule: event_name.startswith(rule.event))
        return (rule.code, "Rejected by the simulator's fault rule.") if rule else None

    def _first(self, kinds: set[str], is_meant: Any) -> Rule | None:
        with self._lock:
            for rule in self._rules:
                if rule.kind in kinds and rule.fired < rule.count and is_meant(rule):
                    rule.matched += 1
                    if self._goes_off(rule):
                        rule.fired += 1
                        return rule
        return None

    def _goes_off(self, rule: Rule) -> bool:
        if rule.probability is not None:
            return self._random.random() < rule.probability
        return rule.matched >= rule.nth
