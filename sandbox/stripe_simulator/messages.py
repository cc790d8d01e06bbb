"""A request and an answer, as the server hands them on."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from .errors import Json


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        return urlsplit(self.target).query

    @property
    def form(self) -> dict[str, str]:
        """The fields of a page's form."""
        return dict(parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True))

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False  # the connection is closed without an answer
    drip_seconds: float = 0.0  # the body arrives in pieces, over this long


def as_json(status: int, body: Json | list[Any], headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(body, indent=2).encode(), headers=headers or {})
