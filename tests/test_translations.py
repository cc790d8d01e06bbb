"""Every text is translated, completely and with the same placeholders, and what is compiled is what is written.

After a change of texts: `python -m tests.translations`, then translate what it calls not translated and run it again.
"""

import re

import polib
import pytest

from .translations import LANGUAGES, Message, catalogue_path, messages

PLACEHOLDER = re.compile(r"%\(\w+\)[sd]|%%|\{\w*\}|https?://\S+|</?\w+[^>]*>")
UP_TO_DATE = "run `python -m tests.translations`"


@pytest.fixture(scope="module", params=LANGUAGES)
def catalogue(request: pytest.FixtureRequest) -> polib.POFile:
    return polib.pofile(str(catalogue_path(request.param)))


def test_every_text_is_translated(catalogue: polib.POFile) -> None:
    known = {Message(entry.msgctxt, entry.msgid, entry.msgid_plural or None) for entry in catalogue}
    wanted = set(messages())
    assert wanted - known == set(), UP_TO_DATE
    assert known - wanted == set(), UP_TO_DATE
    assert [entry.msgid for entry in catalogue if not entry.translated() or entry.fuzzy] == []


def test_translations_keep_the_placeholders(catalogue: polib.POFile) -> None:
    for entry in catalogue:
        pairs = [(entry.msgid, entry.msgstr)]
        if entry.msgid_plural:
            pairs = [(entry.msgid, entry.msgstr_plural[0]), (entry.msgid_plural, entry.msgstr_plural[1])]
        for text, form in pairs:
            assert sorted(PLACEHOLDER.findall(form)) == sorted(PLACEHOLDER.findall(text)), text
            assert (form[:1].isspace(), form[-1:].isspace()) == (entry.msgid[:1].isspace(), entry.msgid[-1:].isspace())


def test_what_is_compiled_is_what_is_written(catalogue: polib.POFile) -> None:
    compiled = polib.mofile(catalogue.fpath.removesuffix(".po") + ".mo")
    written = {(one.msgctxt, one.msgid): (one.msgstr, one.msgstr_plural) for one in catalogue}
    assert {(one.msgctxt, one.msgid): (one.msgstr, one.msgstr_plural) for one in compiled} == written, UP_TO_DATE
