"""Texts in blocks are as each would be alone; what a text alone shows, and what only looks so."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.curate.quality import (
    BROKEN,
    DENSE,
    LETTER,
    SPACE,
    Normalized,
    as_text,
    character_classes,
    check_boilerplate,
    check_encoding,
    check_letters,
    code_points,
    count_characters,
    count_letters,
    normalize,
)

TEXT = st.text(st.sampled_from("aB é!.-'’ \t\n\0水木กข가あ1߁ﬁ\ud800�\x07ä̈"), max_size=12)


@settings(deadline=None)  # the first call makes the table of characters
@given(st.lists(TEXT, max_size=6))
def test_neighbours_change_nothing(texts: list[str]) -> None:
    normalized = Normalized.of(texts)
    assert len(normalized) == len(texts)
    assert [as_text(normalized.text(n)) for n in range(len(texts))] == list(map(normalize, texts))
    together = np.array(count_characters(texts, LETTER, SPACE, BROKEN))
    for number, text in enumerate(texts):
        alone = np.array(count_characters([text], LETTER, SPACE, BROKEN))
        assert together[:, number].tolist() == alone[:, 0].tolist()


@settings(deadline=None)
@given(TEXT)
def test_normalizing_keeps_letters_and_single_spaces(text: str) -> None:
    normalized = normalize(text)
    assert normalized == normalized.strip()
    assert "  " not in normalized
    letters = [c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalpha()]
    assert [c for c in normalized if c.isalpha()] == letters


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Don’t say: it's  «over» (C-4)!", "dont say its over c 4"),
        ("你好， 世界！ Tercet 试试", "你好世界 tercet 试试"),
        ("हिन्दी में", "हिन्दी में"),  # marks are parts of letters
        ("ß ﬁ Ⅻ", "ss fi xii"),
        ("?!… --", ""),
        ("KIRILDI İKİ", normalize("kırıldı iki")),  # Turkish capitals are the same letters
        ("KIRILDI IKI", normalize("kırıldı iki")),
    ],
)
def test_words_are_parted_and_not_torn(text: str, normalized: str) -> None:
    assert normalize(text) == normalized


def test_symbols_may_stay() -> None:
    assert normalize("C++ (or C#), 5 < 6?", symbols=True) == "c++ or c# 5 < 6"


def test_counts_are_of_characters() -> None:
    counts = count_characters(["a b1\t", "\x07�\n", "éก็", ""], SPACE, LETTER, BROKEN)
    assert [count.tolist() for count in counts] == [[2, 1, 0, 0], [2, 0, 3, 0], [0, 2, 0, 0]]


def test_dense_characters_count_for_more() -> None:
    assert count_letters(code_points("abc")) == 3
    assert count_letters(code_points("水木")) == 6
    dense = [chr(c) for c in np.flatnonzero(character_classes() & DENSE)]
    assert all(c in dense for c in "漢かカกขကខ")
    assert not any(c in dense for c in "a가йע1")


CLEAN = [
    "Das große Haus über der Straße gehört einer Bäckerin, die früh aufsteht.",
    "«ALLÉ», dit-il, puis: « à bientôt ! » — et il partit vers l’île.",
    "1984 yılında ODTÜ’de Tarih Bölümü açıldı.",
    "Jeho již tu není…“ „Ba, takový rozum má.",
    "Слово не воробей: вылетит — не поймаешь.",
    "すべての人は、法の下において平等である。",
    "Tab\tand line\nbreaks are no damage.",
    f"A text on encodings may show �. {' '.join(map(str, range(999)))} letters",
]


@pytest.mark.parametrize("text", CLEAN)
def test_clean_texts_pass(text: str) -> None:
    assert check_encoding([text]) == check_boilerplate([text]) == [None]


@pytest.mark.parametrize("text", CLEAN[:1] + CLEAN[4:6])
@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_utf8_that_was_read_as_latin_is_seen(text: str, wrong: str) -> None:
    assert check_encoding([text.encode().decode(wrong, errors="ignore")]) != [None]


def test_control_characters_count_by_length() -> None:
    short, long = "one \x07 here in a line", "a line without any harm in it, " * 60
    wrong = check_encoding([short, long + "\x07", "\ud800 half a character", "gone: ��"])
    assert [reason is None for reason in wrong] == [False, True, False, False]


def test_letters_are_counted_in_every_script() -> None:
    texts = ["हिन्दी में लिखा", "ครับผม", "0x3f 91, 22: 17", "", "17:30"]
    assert [reason is None for reason in check_letters(texts, 0.4)] == [True, True] + [False] * 3


@pytest.mark.parametrize(
    "text",
    [
        "We use cookies to give you the best experience. Accept all cookies.",
        "Wir verwenden auf dieser Seite technisch notwendige Cookies.",
        "当サイトではクッキーを使用しています。",
        "Мы используем файлы cookie, чтобы сайт работал лучше.",
        "404 Not Found",
        "Oops! Page not found. It may have moved.",
        "Página no encontrada",
        "Please enable JavaScript to view this page.",
        "Home | About us | Products | Contact | Log in",
        "Startseite\nÜber uns\nKontakt\nImpressum\nSommerreifen",
        "buy cheap shoes now " * 40,
        "\n".join(["Share this page", "A line of its own", "Share this page"] * 4),
    ],
)
def test_boilerplate_is_seen(text: str) -> None:
    assert check_boilerplate([text]) != [None]


@pytest.mark.parametrize(
    "text",
    [
        "HTTP cookies are small blocks of data that a server sends; browsers accept cookies.",
        "The status 404 says that a page was not found; 500 is an internal server error.",
        "ProtocolError 객체는 404 'not found' 에러를 기술합니다.",
        "セッション ID を送信するときには、通常はクッキーを使用します。",
        "Five fruits:\n1. apple\n2. pear\n3. plum\n4. fig\n5. quince",
        "Oslo | Bergen | Trondheim | Stavanger",
        "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily,\nLife is a dream.",
        "| a | b |\n|---|---|\n| 1 | one |\n| 2 | two |\n|---|---|\n|---|---|",
        "We use cookies. " + " ".join(f"Chapter {n} tells how site {n} began." for n in range(40)),
    ],
)
def test_texts_about_such_things_stay(text: str) -> None:
    assert check_boilerplate([text]) == [None]
