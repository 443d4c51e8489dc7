"""Language tags, and what names of files say."""

from pathlib import Path

import pytest

from tercet.data.pairs.languages import (
    both,
    direction,
    known,
    of_catalogue,
    of_text_file,
    of_wiki,
    tag,
)
from tercet.errors import InputError
from tercet.train.examples import is_parallel


@pytest.mark.parametrize(
    ("given", "usual"),
    [("DE", "de"), ("pt_br", "pt-BR"), ("zh-hant-tw", "zh-Hant-TW"), ("sr@latin", "sr"),
     ("ckb", "ckb"), ("es-419", "es-419")],
)  # fmt: skip
def test_tags_have_one_form(given: str, usual: str) -> None:
    assert tag(given) == tag(usual) == usual


@pytest.mark.parametrize("given", ["", "d", "english", "jp", "xx", "de-", "top_level", "de en"])
def test_what_is_no_tag_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="is not a language"):
        tag(given)
    assert known(given) == ""


@pytest.mark.parametrize("first", ["de", "fr-CA", "zh-Hans", "ckb"])
@pytest.mark.parametrize("second", ["en", "pt-BR", "zh-Hant-TW", "quc"])
def test_training_sees_two_languages_in_the_tag_of_a_row(first: str, second: str) -> None:
    assert is_parallel(both(first, second)) is True


def test_directions() -> None:
    assert direction("de-en") == ("de", "en")
    assert direction("pt-BR:zh-Hant") == ("pt-BR", "zh-Hant")
    for wrong in ("de", "de-", "de-de", "german-english"):
        with pytest.raises(InputError):
            direction(wrong)


@pytest.mark.parametrize(
    ("name", "language", "stem"),
    [
        ("news.de", "de", "news"),
        ("news.de-en.de.gz", "de", "news.de-en"),
        ("news.deu-eng.deu", "deu", "news.deu-eng"),
        ("news.pt-BR.txt", "pt-BR", "news"),
        ("ref.deu.txt", "deu", "ref"),
        ("de.txt", "de", ""),
        ("news.de-en", "", "news.de-en"),
        ("logo.png", "", "logo.png"),
        ("top_level.txt", "", "top_level.txt"),
        ("README", "", "README"),
    ],
)
def test_names_of_text_files(name: str, language: str, stem: str) -> None:
    assert of_text_file(Path("x.fr") / name) == (language, stem)


def test_places_of_catalogues_and_addresses() -> None:
    assert of_catalogue(Path("locale/zh_TW.Big5/LC_MESSAGES/x.po")) == "zh-TW"
    assert of_catalogue(Path("po/x.po")) == ""
    assert of_wiki("https://de.m.wikipedia.org/wiki/Biene") == "de"
    assert of_wiki("https://simple.wikipedia.org/wiki/Bee") == ""
    assert of_wiki("https://example.org/de.wikipedia.org") == ""
