"""Prompts: what is filled in, and what is refused."""

import pytest

from tercet.data.synthesize.articles import Article
from tercet.data.synthesize.prompts import PROMPT, check_prompt, prompt_of
from tercet.errors import InputError

ARTICLE = Article(0, "", "Mills {1}", "de", "", "Die {paragraph} Mühle {0}", 0)


def test_our_own_prompt_is_right_and_has_all() -> None:
    check_prompt(PROMPT, "here")
    prompt = prompt_of(PROMPT, ARTICLE, "de")
    assert "German" in prompt
    assert ARTICLE.title in prompt
    assert ARTICLE.paragraph in prompt  # braces in it are no placeholders


@pytest.mark.parametrize(
    ("lang", "named"), [("zh-Hant", "Chinese"), ("ckb", "(code ckb)"), ("", "the language of the")]
)
def test_languages_are_named(lang: str, named: str) -> None:
    assert named in prompt_of("{language}: {paragraph}", ARTICLE, lang)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("Ask something.", "{paragraph} is missing"),
        ("{paragraph} {text}", "{text} cannot be filled in"),
        ("{paragraph} {}", "{} cannot"),
        ("{paragraph!r}", "cannot be filled in"),
        ("{paragraph:>9}", "cannot be filled in"),
        ("{paragraph", "here"),
        ("{paragraph} }", "here"),
        ('{paragraph} {"json": 1}', "cannot be filled in"),
    ],
)
def test_what_cannot_be_filled_in_is_refused(template: str, words: str) -> None:
    with pytest.raises(InputError, match=r"^here: ") as caught:
        check_prompt(template, "here")
    assert words in str(caught.value)


def test_double_braces_are_braces() -> None:
    template = 'As {{"question": ...}}: {paragraph}'
    check_prompt(template, "here")
    assert prompt_of(template, ARTICLE, "de").startswith('As {"question": ...}: Die')
