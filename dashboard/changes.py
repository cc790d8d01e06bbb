"""A number beside what it was before. Pure."""

from dataclasses import dataclass

from django.utils.translation import gettext as _

from . import formatting
from .formatting import NOTHING, SPACE

MOST_PERCENT = 999  # beyond, a factor reads better


@dataclass(frozen=True, slots=True)
class Change:
    """How a number moved. `style` is up, down or same; it is a form, never a judgement."""

    text: str
    style: str


def change(*, now: int, before: int) -> Change:
    """The change in whole per cent of what was before."""
    if not before:
        return Change(_("new"), "up") if now else Change(NOTHING, "same")
    percent = round((now - before) * 100 / before)
    if percent > MOST_PERCENT:
        return Change(f"{formatting.number(now // before)}\N{MULTIPLICATION SIGN}", "up")
    if not percent:
        return Change(f"0{SPACE}%", "same")
    return Change(f"{percent:+d}{SPACE}%", "up" if percent > 0 else "down")
