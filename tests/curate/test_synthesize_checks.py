"""Which answers are kept, in which languages, and why others are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.curate.synthesize_checks import (
    REASONS,
    clean,
    is_copy,
    is_question,
    lacks_a_name,
    language_of,
    other_language,
    other_script,
    points_at_text,
    refusal_reason,
    single,
)

TEXT = "The mill of Arden was built of grey stone by the river Lea in 1741, after the great flood."


def reason(text: str, **options: str) -> str | None:
    known = {"finish": "stop", "lang": "en", "paragraph": TEXT, "article": f"Mills\n{TEXT}"}
    return refusal_reason(clean(text), **{**known, **options}, length=(5, 150))


GOOD = {
    "en": "When did the builders of Arden finish the stone mill?",
    "de": "Wann wurde die steinerne Mühle von Arden fertig gebaut?",
    "es": "¿Cuándo se construyó el molino de piedra de Arden?",
    "fr": "Quand le moulin en pierre d'Arden a-t-il été construit ?",
    "it": "Quando fu costruito il mulino in pietra di Arden?",
    "pt": "Quando foi construído o moinho de pedra de Arden?",
    "ru": "Когда была построена каменная мельница в Ардене?",
    "zh": "阿登的石磨坊是哪一年在利河边建成的？",
    "ja": "アーデンの石造りの水車小屋は何年に建てられましたか。",
    "ko": "아덴의 돌 방앗간은 몇 년에 지어졌습니까?",
    "ar": "متى بنيت الطاحونة الحجرية في أردن؟",
    "hi": "आर्डेन की पत्थर की चक्की किस वर्ष बनाई गई थी?",
    "th": "โรงสีหินแห่งอาร์เดนสร้างขึ้นในปีใด",
}
BAD = {
    "": "empty",
    "I'm sorry, but I can't help with that.": "refusal",
    "As an AI model I have no opinion. Shall I try another?": "refusal",
    "对不起，我无法回答这个问题。": "refusal",
    "When was Arden's mill built?\nAnd who paid for Arden's mill?": "several lines",
    "When was Arden's mill built? Who paid for the stone?": "several questions",
    "Why Arden?": "too short",
    f"When was the mill {'of grey stone ' * 50} built?": "too long",
    "Arden has a mill of grey stone.": "not a question",
    "Wann wurde die steinerne Mühle von Arden am Fluss gebaut?": "other language",
    "阿登的石磨坊是哪一年在利河边建成的？": "other language",
    "What does the passage say about the mill of Arden?": "points at the text",
    "When was it built of grey stone?": "lacks a name",
    "The mill of Arden was built of grey stone by the river Lea in 1741?": "copy",
}


@pytest.mark.parametrize("lang", GOOD)
def test_good_questions_are_kept_in_their_own_language(lang: str) -> None:
    question = GOOD[lang]
    paragraph = f"{question[: len(question) // 2]} {question[::-1]}"  # the script, other words
    assert reason(question, lang=lang, paragraph=paragraph, article=paragraph) is None
    english = reason("Which river drives the old stone mill?", lang=lang, paragraph=paragraph)
    assert english == (None if lang == "en" else "other language")


def test_every_bad_answer_is_refused_for_a_reason_that_the_model_can_be_told() -> None:
    assert {text: reason(text) for text in BAD} == BAD
    assert reason(GOOD["en"], finish="length") == "cut off"
    assert reason(GOOD["en"], finish="content_filter") == "filtered"
    assert {*BAD.values(), "cut off", "filtered"} == REASONS.keys()


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ('"When was it?"', "When was it?"),
        ("Question: When was it?", "When was it?"),
        ("**Question:** When was it?", "When was it?"),
        ("„Wann war das?“", "Wann war das?"),
        ("问题：何时？", "何时？"),
        ("<think>\nHm, a mill?\n</think>\n\nWhen  was it?", "When was it?"),
        ("<think>and then nothing", ""),
        ("  When\twas it? \n\n", "When was it?"),
        ('"This" or "that"?', '"This" or "that"?'),
        ("Qui a dit « oui » ?", "Qui a dit « oui » ?"),
    ],
)
def test_what_models_put_around_a_question_goes(text: str, question: str) -> None:
    assert clean(text) == question


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean(text)
    assert clean(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Τι είναι;", True),
        ("Was ist das;", False),
        ("Ի՞նչ է սա", True),
        ("ምንድን ነው፧", True),
        ("誰が？", True),
        ("それは石です。", False),
        ("ما هذا؟", True),
        ("อะไร", True),
        ('Who said "no"?"', True),
        ("Who said (no?)", True),
        ("", False),
    ],
)
def test_questions_end_as_their_script_has_it(text: str, expected: bool) -> None:
    assert is_question(text) is expected


def test_names_alone_are_no_copy() -> None:
    text = "The Worshipful Company of Makers of Playing Cards was founded in 1628."
    assert not is_copy("Who founded the Worshipful Company of Makers?", text)
    assert is_copy("The worshipful company of makers of playing cards was founded - when?", text)


POINTING = {
    "en": "According to the passage, when did Rome fall?|What is mentioned above?|"
    "What does this article explain?|What does the author recommend?",
    "de": "Was sagt der Text über Bienen?|Welche Fristen nennt dieser Absatz?|"
    "Welche Frist gilt laut Text?|Was beschreibt der Autor?",
    "es": "¿Qué dice el texto sobre las abejas?|Según el texto, ¿cuándo cayó Roma?|"
    "¿Qué describe este párrafo?",
    "fr": "Que dit le texte sur les abeilles ?|Selon l'article, quand Rome est-elle tombée ?|"
    "Que décrit ce passage ?",
    "it": "Secondo il testo, quando cadde Roma?|Cosa dice l'articolo delle api?|"
    "Che cosa descrive questo brano?",
    "pt": "Segundo o texto, quando caiu Roma?|O que este trecho descreve?",
    "nl": "Wat zegt de tekst over bijen?|Wanneer viel Rome volgens de tekst?",
    "sv": "Vad säger texten?|Vad beskriver denna artikel?",
    "pl": "O czym mówi ten tekst?|Co opisano w tekście?",
    "ru": "О чём говорится в этом тексте?|Согласно тексту, когда пал Рим?",
    "uk": "Про що йдеться в цьому тексті?|Згідно з текстом, коли впав Рим?",
    "tr": "Bu metinde ne anlatılıyor?|Metne göre Roma ne zaman düştü?",
    "id": "Apa isi teks ini?|Menurut teks, kapan Roma jatuh?",
    "vi": "Đoạn văn này nói về điều gì?|Theo văn bản, La Mã sụp đổ khi nào?",
    "zh": "文中提到的函数是什么？|根据文章，罗马何时灭亡？|本文介绍了什么？|这段文字说明了什么？",
    "ja": "この文章では何が説明されていますか？|本文によると、ローマはいつ滅びましたか？",
    "ko": "이 글에서 설명하는 함수는 무엇인가요?|위 문단에 따르면 로마는 언제 멸망했나요?",
    "ar": "ماذا يقول هذا النص عن النحل؟|متى سقطت روما وفقًا للنص؟|ما الدالة المذكورة أعلاه؟",
    "fa": "این متن درباره چیست؟",
    "hi": "इस अनुच्छेद में क्या बताया गया है?|पाठ के अनुसार रोम कब गिरा?",
    "th": "บทความนี้กล่าวถึงอะไร|ตามข้อความ กรุงโรมล่มสลายเมื่อใด",
}
UNNAMED = {
    "en": "When was it founded?|What is its capital?|How does this work?|What year did he die?",
    "de": "Wann wurde er gegründet?|Was ist seine Hauptstadt?|Wie funktioniert dieses Verfahren?",
    "es": "¿Cuál es su capital?|¿Cómo funciona esto?",
    "fr": "Quand est-il né ?|Quelle est sa capitale ?",
    "it": "Qual è la sua capitale?",
    "pt": "Qual é a sua capital?",
    "nl": "Wanneer werd hij geboren?",
    "pl": "Kiedy on umarł?",
    "ru": "Когда он умер?|Какова его столица?",
    "uk": "Коли він помер?",
    "tr": "O ne zaman öldü?",
    "id": "Kapan dia lahir?",
    "vi": "Nó là gì?",
    "zh": "它是什么时候成立的？|该函数返回什么？",
    "ja": "それはいつ設立されましたか？|この関数は何を返しますか？",
    "ko": "그는 언제 태어났나요?|이 함수는 무엇을 반환하나요?",
    "ar": "ما هو؟",
    "hi": "इसका क्या अर्थ है?",
    "th": "มันคืออะไร",
}
FINE = {
    "en": "What does a text editor do?|How long does it take to file a patent?|Is it possible to "
    "leave NATO?|What does article 5 protect?|Who is the author of the Genji story?|"
    "What is the passage of food through the oesophagus called?",
    "de": "Was regelt Artikel 5 des Grundgesetzes?|Wie öffnet ein Texteditor Dateien?|"
    "Was sagt der Absatz 2 des § 7 HGB?|Wann ist es nötig, Python neu zu starten?",
    "fr": "Comment est-il possible de quitter l'OTAN ?|Combien y a-t-il de lunes ?|"
    "Quand Napoléon est-il né ?",
    "zh": "医学论文中有哪两种概念？",
    "ja": "日本文献に記述された人魚は何に似ていますか？|『バカ論』の著者は誰ですか？",
    "ko": "람다 표현식이 문장을 포함할 수 없는 이유는 무엇입니까?",
    "id": "Apa itu Python?",
    "th": "มันฝรั่งมาจากทวีปใด",
}


@pytest.mark.parametrize("lang", POINTING)
def test_questions_that_do_not_stand_on_their_own(lang: str) -> None:
    for question in POINTING[lang].split("|"):
        assert points_at_text(question, lang), question
        assert points_at_text(question, f"{lang}-XX"), question
        assert not points_at_text(question, "qaa")
    for question in UNNAMED.get(lang, "").split("|"):
        assert not question or lacks_a_name(question, lang), question
    for question in (*FINE.get(lang, "").split("|"), GOOD.get(lang, "")):
        assert not points_at_text(question, lang), question
        assert not lacks_a_name(question, lang), question


GERMAN = "Die steinerne Mühle wurde im Jahre 1741 am Fluss gebaut, nach der großen Flut."


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
    assert [single(tag) for tag in ("zh-Hant", "pt-BR", "de-en")] == ["zh-Hant", "pt-BR", ""]
    assert language_of(GERMAN * 3) == "de"
    assert not other_language("Wann wurde die Mühle gebaut?", GERMAN, "de")
    assert other_language("When was the mill of Arden built?", GERMAN, "de")
    assert other_language(
        "Quand le moulin en pierre de la ville a-t-il été construit ?", GERMAN, "de"
    )
    assert not other_language("When was the mill of Arden built?", GERMAN, "qaa")
