"""Stripe's form encoding: `items[0][price]=p&expand[]=customer` as nested dicts with text at the leaves."""

import re
from urllib.parse import parse_qsl

from .errors import Json

BRACKETED = re.compile(r"\[([^\]]*)\]")
MAX_FIELDS = 2_000


def parse(body: str) -> Json:
    """Arrays stay dicts with the keys "0", "1", ...; the parameter's description says which dicts are arrays."""
    root: Json = {}
    for name, value in parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS):
        _put(root, [name.split("[", 1)[0], *BRACKETED.findall(name)], value)
    return root


def _put(root: Json, keys: list[str], value: str) -> None:
    here = root
    for key in keys[:-1]:
        below = here.setdefault(key or str(len(here)), {})
        if not isinstance(below, dict):
            below = here[key] = {}
        here = below
    here[keys[-1] or str(len(here))] = value
