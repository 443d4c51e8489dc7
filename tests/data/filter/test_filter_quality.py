"""What a text alone shows: damage, length, letters, boilerplate; and what only looks like them."""

import pytest

from tercet.curate.quality import check_boilerplate, check_encoding, check_length, check_letters

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
    assert check_encoding([text]) == [None]
    assert check_boilerplate([text]) == [None]


@pytest.mark.parametrize("text", CLEAN[:1] + CLEAN[4:6])
@pytest.mark.parametrize("wrong", ["cp1252", "latin-1"])
def test_utf8_that_was_read_as_latin_is_seen(text: str, wrong: str) -> None:
    damaged = text.encode().decode(wrong, errors="ignore")
    assert check_encoding([damaged]) != [None]


def test_control_characters_count_by_length() -> None:
    short, long = "one \x07 here in a line", "a line without any harm in it, " * 60
    found = check_encoding([short, long + "\x07", "\ud800 half a character", "gone: ��"])
    assert [reason is None for reason in found] == [False, True, False, False]


def test_length_is_without_the_white_space_around() -> None:
    assert check_length(["ab", "  a  ", "abcd"], (2, 3)) == [
        None,
        "1 characters, less than 2",
        "4 characters, more than 3",
    ]


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
    ],
)
def test_texts_about_such_things_stay(text: str) -> None:
    assert check_boilerplate([text]) == [None]


def test_a_long_text_may_speak_of_itself() -> None:
    subject = " ".join(f"Chapter {n} tells how site number {n} came to be." for n in range(40))
    assert check_boilerplate([f"We use cookies on our site. {subject}"]) == [None]
