"""Names that people chose, as they may stand in a mail that goes to others: on one line, short, and no link."""

import re
import unicodedata

LONGEST = 80
ADDRESS = re.compile(r"[\w.%+-]+@[\w-]+(\.[\w-]+)+")
SCHEME = re.compile(r"\w+://|\w+:(?=\S)")
BETWEEN = re.compile(r"(?<=\w)\.(?=\w)")


def plain_name(name: str) -> str:
    """The name without what mail programs would make a link of, and without characters that are not seen.

    Somebody could name their tenant so that its invitations advertise an address, or turn the text around.
    """
    seen = "".join(" " if unicodedata.category(letter) in {"Cc", "Zl", "Zp"} else letter for letter in name)
    seen = "".join(letter for letter in seen if not unicodedata.category(letter).startswith("C"))
    tame = BETWEEN.sub("\N{MIDDLE DOT}", SCHEME.sub(" ", seen)).replace("@", "(at)")
    tame = " ".join(re.sub(r"[<>\[\]{}|\\/]", " ", tame).split())
    return tame if len(tame) <= LONGEST else f"{tame[: LONGEST - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"


def plain_address(email: str) -> str:
    """An e-mail address as it is; an unusual one (quoted, say) as any other name."""
    return email if ADDRESS.fullmatch(email) and email.isascii() else plain_name(email)
