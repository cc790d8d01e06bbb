"""Which capability a path of the proxied service is, and what a call of it costs: the setting GATE_PATHS."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from metering import calls


class Rule(NamedTuple):
    """Every path at or below `path` (normalized; the root is "") is this capability."""

    path: str
    capability: str
    cost: int


def rule_of(path: str) -> Rule | None:
    """The rule with the longest path that holds this one (decoded, without query); None where no rule does."""
    normal = normalized(path)
    for rule in configured():
        if normal == rule.path or normal.startswith(f"{rule.path}/") or not rule.path:
            return rule
    return None


def configured() -> tuple[Rule, ...]:
    """The rules of GATE_PATHS, the longest path first; raises ImproperlyConfigured."""
    return _parsed(tuple(settings.GATE["PATHS"]))


@lru_cache(maxsize=8)
def _parsed(texts: Sequence[str]) -> tuple[Rule, ...]:
    rules: dict[str, Rule] = {}
    for text in texts:
        rule = _rule(text)
        if rule.path in rules:
            raise ImproperlyConfigured(f"{text!r}: the path has a rule already.")
        rules[rule.path] = rule
    return tuple(sorted(rules.values(), key=lambda rule: len(rule.path), reverse=True))


def _rule(text: str) -> Rule:
    path, equals, what = text.strip().partition("=")
    capability, colon, cost = what.partition(":")
    if not equals or not path.startswith("/"):
        raise ImproperlyConfigured(f"{text!r} is not written as /path=capability or /path=capability:cost.")
    if colon and not (cost.isascii() and cost.isdigit()):
        raise ImproperlyConfigured(f"{text!r}: the cost is no whole number.")
    calls.check_capability(capability)
    units = int(cost) if colon else 1
    calls.check_cost(units)
    return Rule(normalized(path), capability, units)


def path_of(uri: str) -> str:
    """The decoded path of a request target as it stood in the request line."""
    return unquote(uri.partition("?")[0].partition("#")[0], errors="replace")


def normalized(path: str) -> str:
    """The path as servers resolve it: without "." and "..", empty parts and the slash at its end; the root is ""."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in {"", "."}:
            parts.append(part)
    return "".join(f"/{part}" for part in parts)
