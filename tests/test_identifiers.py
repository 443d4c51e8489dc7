"""Identifiers are told from words, years and amounts, and found however a text writes them."""

import pytest

from tercet.identifiers import Identifiers


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("error E14", "Code e-14: the pump is blocked."),
        ("error e 14 or E14", "E 14."),
        ("Was ist E18?", "Der E18-Fehler"),
        ("CVE-2024-1234", "fixes cve 2024-1234"),
        ("0x80070057", "Windows says 0X80070057."),
        ("str_replace with arrays", "use std::str_replace(a, b)"),
        ("getElementById is null", "document.getElementById('a')"),
        ("changes of 2.13.0", "since v 2.13.0"),
        ("invoice 4711", "(4711)"),
        ("ISO 9001 audit", "nach ISO-9001"),
        ("iso 9001", "ISO 9001"),
        ("エラーＥ６１の意味", "E61は給水できません"),
        ("错误代码E72怎么解决", "代码E72：排水泵"),
        ("오류 E83", "E83은 문이"),
        ("ГОСТ 123 и А14", "ГОСТ 123; а-14"),
        ("__init__ of a class", "def __init__(self)"),
        ("DIN 4102", "DIN\u20114102"),
        ("a NullPointerException", "java.lang.nullpointerexception"),
        ("5G or 3D", "3d and 5g"),
    ],
)
def test_an_identifier_is_found(question: str, text: str) -> None:
    names = Identifiers.of(question)
    assert names
    assert names.share(["another", text]) == 1.0
    assert names.share(["nothing of it"]) == 0.0


@pytest.mark.parametrize(
    "question",
    [
        "how do bees talk?", "in 1883 or 1884", "the first 10 minutes", "20th century",
        "a 5-year-old in the 1990s", "3.5 km", "24/7", "10,000 people", "well-known", "and/or",
        "1970er-Jahren", "YouTube", "EmK and McDonald",
        "e.g. this", "", "_", "蜂はどうやって話すのか", "пять лет", "NASA",
    ],
)  # fmt: skip
def test_words_years_and_amounts_are_none(question: str) -> None:
    assert not Identifiers.of(question)


def test_an_identifier_does_not_go_on_in_a_text() -> None:
    names = Identifiers.of("error E14 and 2.13.0")
    others = ["E141 AE14 E1 4E14 E14_a", "E14-2", "2.13.0.1", "12.13.0", "2.13.01", "1.2.13.0"]
    assert names.share(others) == 0.0
    assert names.share(["E14"]) == 0.5
    assert names.share(["E14", "and 2.13.0."]) == 1.0
