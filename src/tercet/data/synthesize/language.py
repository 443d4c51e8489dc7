"""The language of an article, and whether a question is in it.

The one place here that asks an identifier: that of `tercet data filter`.
"""

import unicodedata
from collections import Counter
from functools import cache

from tercet.data.filter.language import Languages, languages_of
from tercet.errors import MissingExtraError

# What a model falls back to that does not keep to a language; prompts are written in it too.
FALLBACK = "en"
# Of 300 English questions 98% to 100% are known not to be de, fr, es, pt, it, no, fi, tr or id; of
# 5,300 questions in those, 0.2% are taken for English.
ODDS = 0.95
WRITTEN = 0.1  # share of letters from which on a text in Latin script is one in another
_KANA = {"HIRAGANA", "KATAKANA"}


def single(tag: str) -> str:
    """A language tag, empty where it may name two: those of a query and a passage.

    >>> single("zh-Hant"), single("de-en")
    ('zh-Hant', '')
    """
    return tag if languages_of(tag) == [(tag, tag)] else ""


def language_of(text: str) -> str:
    """The code of a text's language, empty where that is not sure; MissingExtraError as below."""
    return _identifier().find(text) or ""


def other_language(question: str, paragraph: str, tag: str) -> bool:
    """Whether a question is surely not in the language of a paragraph, which a tag names.

    Raises MissingExtraError where py3langid is not installed.
    """
    languages = _identifier()
    return (
        other_script(question, paragraph)
        or languages.against(question, tag) is not None
        or languages.odds(question, tag, FALLBACK) >= ODDS
    )


def other_script(question: str, paragraph: str) -> bool:
    """Whether a question lacks the script of a paragraph.

    Latin letters, of names and code, may be most of a question in any language; the letters of
    other scripts are not most of one in Latin script.
    """
    asked, given = scripts_of(question), scripts_of(paragraph)
    own = Counter({name: count for name, count in given.items() if name != "LATIN"})
    if not asked or own.total() <= WRITTEN * given.total():
        return asked["LATIN"] < asked.total() / 2
    if sum(own[kana] for kana in _KANA) > own.total() / 5:
        return not _KANA & asked.keys()
    return not asked[own.most_common(1)[0][0]]


def scripts_of(text: str) -> Counter[str]:
    """Letters by script: the first word of their names in Unicode, as in "LATIN" and "CJK"."""
    return Counter(
        unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha()
    )


@cache
def _identifier() -> Languages:
    try:
        return Languages()
    except MissingExtraError as error:
        raise MissingExtraError(
            "checking the language of questions needs py3langid: pip install 'tercet[filter]'"
        ) from error
