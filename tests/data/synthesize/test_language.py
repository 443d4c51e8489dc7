"""In which language a question is, and in which script."""

import pytest

from tercet.data.synthesize.language import language_of, other_language, other_script, single

GERMAN = "Die steinerne Mühle wurde im Jahre 1741 am Fluss gebaut, nach der großen Flut."


@pytest.mark.parametrize(
    ("tag", "article"),
    [("de", "de"), ("zh-Hant", "zh-Hant"), ("pt-BR", "pt-BR"), ("de-en", ""), ("", "")],
)
def test_a_tag_of_two_languages_says_nothing_of_the_article(tag: str, article: str) -> None:
    assert single(tag) == article


@pytest.mark.parametrize(
    ("question", "paragraph", "other"),
    [
        ("What does Py_DECREF return?", "函数 Py_DECREF 的返回值不可用，因此不要使用它。", True),
        ("Py_DECREF 返回什么？", "函数 Py_DECREF 的返回值不可用，因此不要使用它。", False),
        ("函数返回什么？", "Py_DECREF の戻り値は使えません。関数を呼ぶだけにします。", True),
        (
            "Py_DECREF は何を返すか。",
            "Py_DECREF の戻り値は使えません。関数を呼ぶだけにします。",
            False,
        ),
        ("Когда это было?", GERMAN, True),
        ("Was bedeutet λόγος?", GERMAN, False),
        ("Что делает file_get_contents?", "Функция file_get_contents читает весь файл.", False),
        ("한국어 질문입니까?", "HTML 생성을 위해 템플릿 모듈을 사용합니다.", False),
        ("1 + 1 = ?", GERMAN, False),
    ],
)
def test_scripts(question: str, paragraph: str, other: bool) -> None:
    assert other_script(question, paragraph) is other


def test_languages_of_one_script() -> None:
    assert language_of(GERMAN * 3) == "de"
    assert not other_language("Wann wurde die Mühle gebaut?", GERMAN, "de")
    assert other_language("When was the mill of Arden built?", GERMAN, "de")
    assert other_language(
        "Quand le moulin en pierre de la ville a-t-il été construit ?", GERMAN, "de"
    )
    assert not other_language("When was the mill of Arden built?", GERMAN, "qaa")
