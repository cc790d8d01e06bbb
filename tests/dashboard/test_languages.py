"""Which language a page speaks, and that programs are answered in English."""

import pytest
from django.test import Client
from django.utils import translation

from .conftest import Visit

pytestmark = pytest.mark.django_db
GERMAN = {"Accept-Language": "de-CH,de;q=0.9,en;q=0.5"}


@pytest.mark.parametrize(
    ("asked", "spoken"), [("de-CH,de;q=0.9,en;q=0.5", "de"), ("fr", "en"), ("", "en"), ("en-GB,de;q=0.5", "en")]
)
def test_a_page_speaks_what_the_browser_asks_for(client: Client, asked: str, spoken: str) -> None:
    answer = client.get("/login", headers={"Accept-Language": asked})
    assert f'<html lang="{spoken}">' in answer.content.decode()
    assert answer["Content-Language"] == spoken
    assert {"Accept-Language", "Cookie"} <= {name.strip() for name in answer["Vary"].split(",")}


def test_a_chosen_language_stays(visit: Visit) -> None:
    acme = visit()
    assert acme.client.get("/language").status_code == 302
    assert 'lang="en"' in acme.page(), "asking changes nothing"
    answer = acme.client.post("/language", {"language": "de", "next": f"/t/{acme.slug}/"})
    assert answer["Location"] == f"/t/{acme.slug}/"
    assert '<html lang="de">' in acme.page()
    assert '<html lang="de">' in Client().get("/login", headers=GERMAN).content.decode()
    assert '<html lang="en">' in Client().get("/login").content.decode(), "one visitor's choice is not another's"
    assert translation.get_language() == "en"


def test_a_choice_leads_nowhere_else(client: Client) -> None:
    answer = client.post("/language", {"language": "de", "next": "https://elsewhere.example/"})
    assert answer["Location"] == "/"


@pytest.mark.parametrize("address", ["/api/v1/usage", "/admin/login/", "/readyz"])
def test_programs_and_operators_are_answered_in_english(client: Client, address: str) -> None:
    answer = client.get(address, headers=GERMAN)
    assert answer.content == client.get(address).content or "csrf" in answer.content.decode()
    assert "Content-Language" not in answer


def test_a_german_page_has_german_words_dates_and_amounts(visit: Visit) -> None:
    acme = visit(plan="launch")
    text = acme.page(headers=GERMAN)
    for word in (
        "Übersicht",
        "Kosten bisher",
        "Inklusive Aufrufe",
        "19,00\N{NO-BREAK SPACE}$",
        "von 100.000",
        "Gezählt bis",
    ):
        assert word in text, word
    assert "Overview" not in text
