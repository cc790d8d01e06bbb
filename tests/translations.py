"""The texts of the product and their translations: `python -m tests.translations` brings the catalogues up to date.

It reads the sources itself, so that no gettext tools are needed, keeps what is translated, and compiles. What is new stands
untranslated in `locale/<language>/LC_MESSAGES/django.po`; the test names it.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import django
import polib
from django.utils.translation.template import templatize

ROOT = Path(__file__).resolve().parent.parent
CODE = ("tenants", "metering", "billing", "dashboard", "sandbox", "config")
LANGUAGES = {"de": "nplurals=2; plural=(n != 1);"}
CALLS = {"_": "gettext", "gettext_noop": "gettext"}
MARKED = re.compile(r"\b((?:np|n|p)?gettext)\(((?:\s*u?(?:\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')\s*,?)+)")
LITERAL = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL)


class Message(NamedTuple):
    """What a catalogue is asked for."""

    context: str | None
    text: str
    plural: str | None


def messages() -> dict[Message, str]:
    """Every text of the product, each with a file that it stands in."""
    found: dict[Message, str] = {}
    for path in _sources():
        source = path.read_text()
        marked = _in_python(source) if path.suffix == ".py" else _in_template(source, path)
        for message in marked:
            found.setdefault(message, str(path.relative_to(ROOT)))
    return found


def catalogue_path(language: str) -> Path:
    return ROOT / "locale" / language / "LC_MESSAGES" / "django.po"


def _sources() -> Iterator[Path]:
    for app in CODE:
        yield from sorted((ROOT / app).rglob("*.py"))
    yield from sorted((ROOT / "templates").rglob("*.html"))
    yield from sorted((ROOT / "templates").rglob("*.txt"))


def _in_python(source: str) -> Iterator[Message]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            named = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            name = CALLS.get(named, named.removesuffix("_lazy"))
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield from _message(name, texts)


def _in_template(source: str, path: Path) -> Iterator[Message]:
    for name, arguments in MARKED.findall(templatize(source, str(path))):
        yield from _message(name, [ast.literal_eval(text) for text in LITERAL.findall(arguments)])


def _message(name: str, texts: list[str]) -> Iterator[Message]:
    """A call without its texts in the source marks nothing: it asks for one that is marked elsewhere."""
    match name, texts:
        case "gettext", [text, *_]:
            yield Message(None, text, None)
        case "ngettext", [text, plural, *_]:
            yield Message(None, text, plural)
        case "pgettext", [context, text, *_]:
            yield Message(context, text, None)
        case "npgettext", [context, text, plural, *_]:
            yield Message(context, text, plural)


def update(language: str, wanted: Iterable[tuple[Message, str]]) -> polib.POFile:
    """The catalogue has exactly these texts, in the order of their files; what was translated stays."""
    path = catalogue_path(language)
    known = {(entry.msgctxt, entry.msgid): entry for entry in polib.pofile(str(path))} if path.exists() else {}
    made = polib.POFile(wrapwidth=120)
    made.metadata = {
        "Project-Id-Version": "Meterhouse", "Language": language, "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=UTF-8", "Content-Transfer-Encoding": "8bit", "Plural-Forms": LANGUAGES[language],
    }  # fmt: skip
    for message, file in sorted(wanted, key=lambda pair: (pair[1], pair[0].text)):
        before = known.get((message.context, message.text))
        made.append(_entry(message, file, before))
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(str(path))
    made.save_as_mofile(str(path.with_suffix(".mo")))
    return made


def _entry(message: Message, file: str, before: polib.POEntry | None) -> polib.POEntry:
    entry = polib.POEntry(msgctxt=message.context, msgid=message.text, occurrences=[(file, "")])
    if message.plural is None:
        entry.msgstr = before.msgstr if before else ""
    else:
        entry.msgid_plural = message.plural
        entry.msgstr_plural = (before.msgstr_plural if before else {}) or {0: "", 1: ""}
    return entry


def main() -> int:
    django.setup()
    wanted = messages()
    for language in LANGUAGES:
        made = update(language, wanted.items())
        missing = made.untranslated_entries()
        sys.stdout.write(f"{language}: {len(made)} texts, {len(missing)} of them not translated\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
