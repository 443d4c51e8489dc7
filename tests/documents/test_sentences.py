"""Sentences: nothing but white space is lost, and marks of many scripts end them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.documents.sentences import sentences
from tercet.records import Span

TEXTS = {
    "en": ["The sea rises.", "Why? The moon pulls!", '"It does."', "Then it falls…", "Again."],
    "abbreviations": ["Dr. Weber met J. S. Bach at 3.30 p.m. on the 5. Mai.", "He smiled."],
    "lower": ["He asked “why?” and left.", "She did not."],
    "numbers": ["Pi is 3.14 and e 2.72.", "See www.example.org/a.html today."],
    "zh": ["绿茶不发酵。", "红茶呢？", "“会！”", "他说。"],
    "hi": ["मानसून जून में आता है।", "किसान खुश होते हैं।"],
    "ar": ["هل تنام النحلة؟", "نعم، تنام ليلا."],
    "ur": ["یہ ایک کتاب ہے۔", "وہ پڑھتا ہے۔"],
    "am": ["ቡና ከኢትዮጵያ ነው።", "ጥሩ ነው።"],
    "am as typed": ["ቡና ከኢትዮጵያ ነው፡፡", "ጥሩ ነው::", "ነው።"],
    "hy": ["Սա գիրք է։", "Նա կարդում է:", "Այո։"],
    "bo": ["བོད་ཡིག་ཡིན།", "དེབ་འདི་ཡག་པོ་འདུག།"],
    "my": ["ဒါက စာအုပ်ပါ။", "ကောင်းပါတယ်။"],
    "km": ["នេះជាសៀវភៅ។", "ល្អណាស់។"],
    "lo": ["ນີ້ແມ່ນປຶ້ມ ສ່ນ.", "ລາວອ່ານ."],
    "ka": ["ეს წიგნია.", "ის კითხულობს."],
    "lines": ["A short line", "and another one", "- a member 1.", "- a member 2"],
}


@pytest.mark.parametrize("name", TEXTS)
def test_marks_end_sentences(name: str) -> None:
    expected = TEXTS[name]
    if name == "en":
        expected = ["The sea rises.", "Why?", "The moon pulls!", *expected[2:]]
    between = {"zh": "", "lines": "\n"}.get(name, " ")
    text = between.join(TEXTS[name])
    assert [text[span.start : span.end] for span in sentences(text)] == expected


def test_a_wrapped_line_goes_on_and_a_blank_line_ends() -> None:
    line = "This line of a file was wrapped by an editor at the usual width of about"
    text = f"{line}\neighty characters\n\nA heading\n\n1. first\n2. second"
    found = [text[span.start : span.end] for span in sentences(text)]
    assert found == [f"{line}\neighty characters", "A heading", "1. first", "2. second"]


def test_thai_is_cut_at_spaces() -> None:
    phrase = "ต้มยำกุ้งเป็นแกงรสเปรี้ยวเผ็ดที่มีกลิ่นหอมของสมุนไพร"
    text = " ".join([phrase] * 4)
    found = [text[span.start : span.end] for span in sentences(text)]
    assert found == [f"{phrase} {phrase}"] * 2


def test_phrases_may_be_left_whole() -> None:
    text = "ต้มยำกุ้งเป็นแกงรสเปรี้ยวเผ็ดที่มีกลิ่นหอมของสมุนไพร " * 4
    assert list(sentences(text, phrases=False)) == [Span(0, len(text) - 1)]


@pytest.mark.parametrize("run", [".", '."', "\n", "a. ", "་། "])
def test_long_runs_take_time_in_proportion(run: str) -> None:
    start = time.process_time()
    assert sum(span.end - span.start for span in sentences(run * 200_000 + "x"))
    assert time.process_time() - start < 10


@given(st.text(alphabet="aB. !?。।\n\t1-\u0e01\u0301'\"", max_size=80))
def test_nothing_but_white_space_is_lost(text: str) -> None:
    end = 0
    for span in sentences(text):
        assert end <= span.start < span.end <= len(text)
        assert not text[end : span.start].strip()
        assert text[span.start : span.end] == text[span.start : span.end].strip()
        end = span.end
    assert not text[end:].strip()
