"""The routes of the API: method, path, accepted parameters, and the function that answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import Json
from .parameters import PAGING

Act = Callable[..., Json]


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    template: str
    fields: Json
    act: Act
    is_serial: bool = False  # one call at a time per customer and meter

    @property
    def parts(self) -> list[str]:
        return self.template.strip("/").split("/")

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """The path's variables, or None."""
        named: dict[str, str] = {}
        for wanted, given in zip(self.parts, parts, strict=True):
            if wanted.startswith("{"):
                named[wanted[1:-1]] = given
            elif wanted != given:
                return None
        return named


ROUTES: dict[tuple[str, int], list[Route]] = {}


def route(method: str, template: str, fields: Json | None = None, *, is_serial: bool = False) -> Callable[[Act], Act]:
    """Register the function that answers: `act(world, params, **path variables)`."""

    def register(act: Act) -> Act:
        made = Route(method, template, fields or {}, act, is_serial)
        shelf = ROUTES.setdefault((method, len(made.parts)), [])
        shelf.append(made)
        shelf.sort(key=lambda one: one.template.count("{"))
        return act

    return register


def find(method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route and the variables in its path; fixed paths win over variables."""
    parts = path.strip("/").split("/")
    for candidate in ROUTES.get((method, len(parts)), []):
        named = candidate.match(parts)
        if named is not None:
            return candidate, named
    return None


def every() -> list[Route]:
    return [one for shelf in ROUTES.values() for one in shelf]


def paged(fields: Json | None = None) -> Json:
    """The parameters of a list."""
    return {**PAGING, **(fields or {})}


def in_range(moment: Any, wanted: Any) -> bool:
    """Whether a time passes `created` and its like: a number or gt, gte, lt, lte."""
    if wanted is None:
        return True
    if not isinstance(wanted, dict):
        return bool(moment == wanted)
    checks = {
        "gt": moment is not None and moment > wanted.get("gt", 0),
        "gte": moment is not None and moment >= wanted.get("gte", 0),
        "lt": moment is not None and moment < wanted.get("lt", 0),
        "lte": moment is not None and moment <= wanted.get("lte", 0),
    }
    return all(checks[name] for name in wanted)
