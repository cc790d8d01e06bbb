"""Names as an attacker, a careless copy or another script would choose them: they must come out as text everywhere."""

import csv
import io
import re

from django.db import models

from billing.onboarding import Onboarded
from tenants import audit, notices

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("https://canary.example")'
REVERSED = "\N{RIGHT-TO-LEFT OVERRIDE}yranac\N{RIGHT-TO-LEFT ISOLATE}"
LONG = 10_000
FORMULA_STARTS = tuple("=+-@\t\r")
NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)


def canary(length: int = LONG) -> str:
    """All of it in one text without a blank to break at."""
    return (f"{FORMULA}{MARKUP}\"'>{REVERSED}" + "m" * LONG)[:length]


def plant(owned: Onboarded) -> None:
    """Whatever people may name is named so, as long as its field allows."""
    for named in (owned.tenant, owned.key.project, owned.key, owned.user):
        field = named._meta.get_field("name")
        assert isinstance(field, models.CharField)
        named.name = canary(field.max_length or LONG)
        named.save(update_fields=["name"])
    audit.record(tenant=owned.tenant, actor=canary(100), action="plan.changed", subject=canary(100), reason=canary())
    notices.tell(tenant=owned.tenant, kind="canary", key="canary", title=canary(200), text=canary())


def assert_only_text(html: str, where: str) -> None:
    """Nothing of the names is markup."""
    assert "<script>alert" not in html, where
    assert "<img src=x" not in html, where


def assert_cells_are_inert(text: str, where: str) -> None:
    """No cell is run by a spreadsheet: what begins like a formula is a number."""
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            assert not cell.startswith(FORMULA_STARTS) or NUMBER.fullmatch(cell), f"{where}: {cell[:60]}"
