"""Whether what a model answered is a question worth keeping; if not, for which reason.

A verdict depends on the answer, its article and its language alone. Knows nothing of endpoints.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tercet.data.synthesize.articles import Article, tokens_of
from tercet.data.synthesize.chat import Answer
from tercet.data.synthesize.language import other_language, scripts_of
from tercet.data.synthesize.references import lacks_a_name, points_at_text
from tercet.errors import InputError

COPIED = 0.8  # a question is a copy where so much of it stands in the article in one run
COPIED_BYTES = 36  # and so much: names alone are no copy

# Why an answer is refused: the name it is counted under, and what the model is told.
REASONS = {
    "filtered": "the endpoint's content filter stopped it",
    "cut off": "it was cut off at the limit of its length: be brief",
    "empty": "it has no text",
    "refusal": "a question is needed, on what the paragraph says",
    "several lines": "it has more than one line",
    "several questions": "it asks more than one question",
    "too short": "it is too short to be specific",
    "too long": "it is too long",
    "not a question": "it does not end as a question",
    "other language": "it is not in the language that was asked for",
    "points at the text": "it speaks of the text, which its reader does not see",
    "lacks a name": "it speaks of an it, he, they or this without saying what is meant",
    "copy": "it repeats a sentence of the text word for word",
}

_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(
    r"\A[*_#\s]*(?:question|q|frage|pregunta|pergunta|domanda|vraag|fråga|pytanie|вопрос|питання|"
    r"soru|pertanyaan|câu hỏi|问题|問題|質問|질문|السؤال|سؤال|प्रश्न|คำถาม)[*_]*\s*[:：][*_\s]*",
    re.IGNORECASE,
)
_WRAPS = (
    ("**", "**"),
    ('"', '"'),
    ("'", "'"),
    ("“", "”"),
    ("„", "“"),
    ("«", "»"),
    ("「", "」"),
    ("`", "`"),
)
_REFUSAL = re.compile(
    r"\A(?:(?:i['’]?m|i am|we['’]?re)\s+(?:so\s+|very\s+)?(?:sorry|afraid|unable|not able)|sorry\b|"
    r"(?:unfortunately,?\s+)?i\s+(?:can(?:no|['’])t|won['’]t|cannot)|as an ai|"
    r"es tut mir leid|leider kann ich|lo siento|no puedo|je suis désolée?|désolée?\b|"
    r"je ne peux pas|mi dispiace|non posso|desculpe|sinto muito|não posso|"
    r"к сожалению|извините|я не могу|抱歉|很抱歉|对不起|對不起|我无法|我無法|申し訳|すみません|"
    r"죄송|آسف|عذرا|معذرة|"
    r"क्षमा करें|माफ़ कीजिए|ขออภัย|ขอโทษ)",
    re.IGNORECASE,
)
_CLOSERS = "\"'”’»」』)）]*_ \u200b"
_MARKS = "?？؟⸮‽⁇"
_ENDS = re.compile(r"[?؟⸮‽⁇]+(?=\s|$)|？+")  # a mark within code ends nothing
_MARK_OF = {"GREEK": ";\u037e", "ARMENIAN": "՞", "ETHIOPIC": "፧"}  # beside those above
_WITHOUT_MARK = {"THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN"}


@dataclass(frozen=True)
class Limits:
    """How long a question may be, in tokens by `tokens_of`."""

    shortest: int = 5
    longest: int = 150

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError(
                f"a question of {self.shortest} to {self.longest} tokens cannot be: give such as "
                "5-150"
            )


@dataclass(frozen=True)
class Verdict:
    """A question, or the reason there is none."""

    question: str
    reason: str | None  # a key of REASONS; None: the question is kept


def judge(answer: Answer, article: Article, lang: str, limits: Limits) -> Verdict:
    """The question in an answer, and whether it can be kept; lang is the article's."""
    question = clean(answer.text)
    return Verdict(question, next(_found(question, answer, article, lang, limits), None))


def clean(text: str) -> str:
    """An answer without thoughts, label, quotation marks and doubled white space."""
    text = _THOUGHTS.sub("", text).strip()
    before = ""
    while text != before:
        before = text
        text = _LABEL.sub("", text, count=1).strip()
        for first, last in _WRAPS:
            inner = text[len(first) : len(text) - len(last)]
            if text.startswith(first) and text.endswith(last) and first not in inner:
                text = inner.strip() or text
    return "\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _found(
    question: str, answer: Answer, article: Article, lang: str, limits: Limits
) -> Iterator[str]:
    """Every reason against a question, the plainest first."""
    if answer.finish == "content_filter":
        yield "filtered"
    if answer.finish == "length":
        yield "cut off"
    if not question:
        yield "empty"
    if _REFUSAL.search(question):
        yield "refusal"
    if "\n" in question:
        yield "several lines"
    if tokens_of(question) < limits.shortest:
        yield "too short"
    if tokens_of(question) > limits.longest:
        yield "too long"
    if not is_question(question):
        yield "not a question"
    if len(_ENDS.findall(question)) > 1:
        yield "several questions"
    if other_language(question, article.paragraph, lang):
        yield "other language"
    if points_at_text(question, lang):
        yield "points at the text"
    if lacks_a_name(question, lang):
        yield "lacks a name"
    if is_copy(question, article.text):
        yield "copy"


def is_question(text: str) -> bool:
    """Whether a text ends as a question does in its script; scripts without a mark pass.

    >>> is_question("Wer schrieb das?"), is_question("Она ушла."), is_question("誰が書きましたか。")
    (True, False, True)
    """
    script = next((name for name, _ in scripts_of(text).most_common(1)), "")
    end = text.rstrip(_CLOSERS)
    if script in _WITHOUT_MARK or end.endswith(tuple(_MARKS)):
        return True
    if script in ("HIRAGANA", "KATAKANA", "CJK") and end.rstrip("。").endswith("か"):
        return True
    if script == "ARMENIAN":  # which puts it over the word that asks
        return _MARK_OF[script] in text
    return end.endswith(tuple(_MARK_OF.get(script, _MARKS)))


def is_copy(question: str, text: str) -> bool:
    """Whether a question stands in a text almost whole, case and punctuation aside."""
    asked, whole = _letters(question), _letters(text)
    size = max(1, int(COPIED * len(asked)))
    runs = (asked[at : at + size] for at in range(len(asked) - size + 1))
    return any(len(run.encode()) >= COPIED_BYTES and run in whole for run in runs)


@lru_cache(maxsize=64)  # an article is looked through for each of its answers, more than once
def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
