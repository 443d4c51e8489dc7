"""Language tags, and what names of files say."""

from pathlib import Path

import pytest

from tercet.curate.pairs_records import tag_of_url
from tercet.curate.pairs_sources import (
    language_of_name,
    parse_direction,
    parse_tag,
    tag_or_none,
)
from tercet.curate.pairs_translations import _tag_of_place as tag_of_place
from tercet.curate.pairs_translations import row_tag
from tercet.errors import InputError
from tercet.train.dataset import is_parallel


@pytest.mark.parametrize(
    ("given", "usual"),
    [("DE", "de"), ("pt_br", "pt-BR"), ("zh-hant-tw", "zh-Hant-TW"), ("sr@latin", "sr"),
     ("ckb", "ckb"), ("es-419", "es-419")],
)  # fmt: skip
def test_tags_have_one_form(given: str, usual: str) -> None:
    assert parse_tag(given) == parse_tag(usual) == usual


@pytest.mark.parametrize("given", ["", "d", "english", "jp", "xx", "de-", "top_level", "de en"])
def test_what_is_no_tag_is_refused(given: str) -> None:
    with pytest.raises(InputError, match="is not a language"):
        parse_tag(given)
    assert tag_or_none(given) == ""


@pytest.mark.parametrize("first", ["de", "fr-CA", "zh-Hans", "ckb"])
@pytest.mark.parametrize("second", ["en", "pt-BR", "zh-Hant-TW", "quc"])
def test_training_sees_two_languages_in_the_tag_of_a_row(first: str, second: str) -> None:
    assert is_parallel(row_tag(first, second)) is True


def test_directions() -> None:
    assert parse_direction("de-en") == ("de", "en")
    assert parse_direction("pt-BR:zh-Hant") == ("pt-BR", "zh-Hant")
    for wrong in ("de", "de-", "de-de", "german-english"):
        with pytest.raises(InputError):
            parse_direction(wrong)


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
    assert language_of_name(Path("x.fr") / name) == (language, stem)


def test_places_of_catalogues_and_addresses() -> None:
    assert tag_of_place(Path("locale/zh_TW.Big5/LC_MESSAGES/x.po")) == "zh-TW"
    assert tag_of_place(Path("po/x.po")) == ""
    assert tag_of_url("https://de.m.wikipedia.org/wiki/Biene") == "de"
    assert tag_of_url("https://simple.wikipedia.org/wiki/Bee") == ""
    assert tag_of_url("https://example.org/de.wikipedia.org") == ""
