"""The frame of every page, and the small pieces they are made of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any

from sandbox.stripe_simulator.messages import Answer, Request
from sandbox.stripe_simulator.world import World

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; color: #1a1f36; background: #f6f8fa; }
header { background: #ffd60a; color: #1a1f36; padding: .6rem 1.2rem; font-weight: 600; }
main { max-width: 56rem; margin: 1.5rem auto; padding: 1.5rem 2rem; background: #fff; border: 1px solid #d8dee4; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #e3e8ee; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
label { display: block; margin: .5rem 0; } fieldset { border: 1px solid #d8dee4; margin: 1rem 0; }
input[type=text], input[type=email], select { font: inherit; padding: .3rem; width: 100%; max-width: 26rem; }
button { font: inherit; padding: .45rem 1rem; border: 1px solid #3a3f9e; background: #4a50c8; color: #fff; cursor: pointer; }
button.quiet { background: #fff; color: #3a3f9e; } .error { color: #9b1c1c; font-weight: 600; }
form.inline { display: inline-block; margin: 0 .5rem .5rem 0; } code { overflow-wrap: anywhere; }
pre { overflow: auto; background: #f6f8fa; padding: 1rem; }
a { color: #3a3f9e; }
"""
NOTICE = "Simulated Stripe - no real money"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"


@dataclass(frozen=True)
class Html:
    """Markup that is safe as it stands."""

    text: str


Piece = str | int | Html | None
Show = Callable[..., Answer]


def safe(piece: Piece) -> str:
    """Text escaped, markup as it is."""
    return piece.text if isinstance(piece, Html) else escape("" if piece is None else str(piece))


def tag(name: str, /, *pieces: Piece, **attributes: Piece) -> Html:
    """An element; `class_` is `class`, `data_x` is `data-x`, an attribute that is None is left out."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{words}>{''.join(safe(one) for one in pieces)}</{name}>")


def join(pieces: Iterable[Piece]) -> Html:
    return Html("".join(safe(one) for one in pieces))


def field(label: str, name: str, value: str | None = "", *, kind: str = "text", **attributes: Piece) -> Html:
    """A labelled input."""
    words = "".join(f' {key}="{safe(held)}"' for key, held in attributes.items() if held is not None)
    box = Html(f'<input type="{kind}" name="{escape(name)}" value="{escape(value or "")}"{words}>')
    return tag("label", label, Html("<br>"), box)


def choices(name: str, options: dict[str, str], chosen: str) -> Html:
    """Radio buttons."""
    rows = []
    for value, label in options.items():
        mark = " checked" if value == chosen else ""
        box = Html(f'<input type="radio" name="{escape(name)}" value="{escape(value)}"{mark}>')
        rows.append(tag("label", box, " ", label))
    return join(rows)


def form(action: str, *pieces: Piece, button: str, class_: str | None = None, name: str | None = None) -> Html:
    """A form that posts, with its button."""
    submit = tag("button", button, type="submit", name=name and "action", value=name)
    return tag("form", *pieces, submit, method="post", action=action, class_=class_)


def table(heads: Iterable[str], rows: Iterable[Iterable[Piece]]) -> Html:
    """Numbers stand to the right."""
    top = tag("tr", *[tag("th", head, scope="col") for head in heads])
    body = [tag("tr", *[_cell(cell) for cell in row]) for row in rows]
    return tag("table", tag("thead", top), tag("tbody", *body))


def _cell(piece: Piece) -> Html:
    return tag("td", piece, class_="number" if isinstance(piece, int) else None)


def money(minor: int | None, currency: str | None) -> str:
    """An amount as people read it."""
    amount, code = minor or 0, (currency or "").upper()
    if code == "JPY":
        return f"{amount} JPY"
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02d} {code}"


def page(title: str, *pieces: Piece, status: int = HTTPStatus.OK) -> Answer:
    """The whole page."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - Simulated Stripe</title><style>{STYLE}</style></head><body>"
    )
    body = f"<header>{NOTICE}</header><main><h1>{escape(title)}</h1>{join(pieces).text}</main></body></html>"
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return Answer(status, (head + body).encode(), "text/html; charset=utf-8", headers)


def error(message: str | None) -> Piece:
    return tag("p", message, class_="error", role="alert") if message else None


def redirect(location: str) -> Answer:
    """See other: the browser fetches that instead."""
    return Answer(HTTPStatus.SEE_OTHER, headers={"Location": location})


PAGES: dict[tuple[str, int], list[tuple[list[str], Show]]] = {}


def shows(method: str, template: str) -> Callable[[Show], Show]:
    """Register a page: `show(world, request, **path variables)`."""

    def register(show: Show) -> Show:
        parts = template.strip("/").split("/")
        PAGES.setdefault((method, len(parts)), []).append((parts, show))
        return show

    return register


def find(method: str, path: str) -> tuple[Show, dict[str, Any]] | None:
    """The page and the variables in its path."""
    parts = path.strip("/").split("/")
    for wanted, show in PAGES.get((method, len(parts)), []):
        if all(one.startswith("{") or one == given for one, given in zip(wanted, parts, strict=True)):
            return show, {one[1:-1]: given for one, given in zip(wanted, parts, strict=True) if one.startswith("{")}
    return None


def call(world: World, request: Request) -> Answer:
    """The page's answer, in one transaction."""
    found = find(request.method, request.path)
    if found is None:
        return page("Not found", tag("p", "There is no such page."), status=HTTPStatus.NOT_FOUND)
    show, named = found
    with world.lock:
        world.clock.pin()
        try:
            with world.transaction():
                answer = show(world, request, **named)
                if request.method == "POST":
                    world.clock.keep()
        finally:
            world.clock.unpin()
            world.wake()
    return answer
