"""Whether what a language model answered is a question worth keeping; if not, for which reason.

A verdict depends on the answer, its article and its language alone. Knows nothing of endpoints.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache, lru_cache

from tercet.documents.language import Languages, languages_of
from tercet.errors import MissingExtraError

COPIED = 0.8  # a question is a copy where so much of it stands in the article in one run
COPIED_BYTES = 36  # and so much: names alone are no copy
# What a model falls back to that does not keep to a language; prompts are written in it too.
FALLBACK = "en"
# Of 300 English questions 98% to 100% are known not to be de, fr, es, pt, it, no, fi, tr or id; of
# 5,300 questions in those, 0.2% are taken for English.
ODDS = 0.95
WRITTEN = 0.1  # share of letters from which on a text in Latin script is one in another
BYTES_A_TOKEN = 4
PROSE = 0.75  # least share of letters in a paragraph of prose

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


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: a quarter of its bytes in UTF-8, rounded up.

    Against the XLM-RoBERTa tokenizer on paragraphs: 0.84 to 1.2 of the true number in English,
    Romance and Germanic languages, Chinese, Japanese and Korean, 1.3 to 1.8 in Cyrillic, Arabic
    and Hebrew script, 2 to 2.5 in Thai and the scripts of India: costs are rather over-estimated.
    """
    return -(-len(text.encode("utf-8", "replace")) // BYTES_A_TOKEN)


def refusal_reason(
    question: str,
    *,
    finish: str | None,
    paragraph: str,
    article: str,
    lang: str,
    length: tuple[int, int],
) -> str | None:
    """A key of REASONS, the plainest that speaks against a cleaned answer; None: it can be kept.

    finish: how the answer ended, as the endpoint says; length: tokens by `estimate_tokens`.
    """
    shortest, longest = length

    def reasons() -> Iterator[tuple[str, bool]]:
        yield "filtered", finish == "content_filter"
        yield "cut off", finish == "length"
        yield "empty", not question
        yield "refusal", _REFUSAL.search(question) is not None
        yield "several lines", "\n" in question
        yield "too short", estimate_tokens(question) < shortest
        yield "too long", estimate_tokens(question) > longest
        yield "not a question", not is_question(question)
        yield "several questions", len(_QUESTION_ENDS.findall(question)) > 1
        yield "other language", other_language(question, paragraph, lang)
        yield "points at the text", points_at_text(question, lang)
        yield "lacks a name", lacks_a_name(question, lang)
        yield "copy", is_copy(question, article)

    return next((name for name, applies in reasons() if applies), None)


_THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_LABEL = re.compile(
    r"\A[*_#\s]*(?:question|q|frage|pregunta|pergunta|domanda|vraag|fråga|pytanie|вопрос|питання|"
    r"soru|pertanyaan|câu hỏi|问题|問題|質問|질문|السؤال|سؤال|प्रश्न|คำถาม)[*_]*\s*[:：][*_\s]*",
    re.IGNORECASE,
)
_WRAPS = [pair.split() for pair in ("** **", '" "', "' '", "“ ”", "„ “", "« »", "「 」", "` `")]
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
_QUESTION_ENDS = re.compile(r"[?؟⸮‽⁇]+(?=\s|$)|？+")  # a mark within code ends nothing
_MARK_OF = {"GREEK": ";\u037e", "ARMENIAN": "՞", "ETHIOPIC": "፧"}  # beside those above
_WITHOUT_MARK = {"THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN"}


def is_prose(text: str) -> bool:
    """Whether a paragraph is mostly letters (and their marks); code and tables have fewer."""
    shown = [character for character in text if not character.isspace()]
    letters = sum(unicodedata.category(character)[0] in "LM" for character in shown)
    return letters >= PROSE * len(shown)


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
    letters, whole = _letters(question), _letters(text)
    size = max(1, int(COPIED * len(letters)))
    runs = (letters[start : start + size] for start in range(len(letters) - size + 1))
    return any(len(run.encode()) >= COPIED_BYTES and run in whole for run in runs)


@lru_cache(maxsize=64)  # an article is looked through for each of its answers, more than once
def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))


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
    of_question, of_paragraph = scripts_of(question), scripts_of(paragraph)
    own = Counter({name: count for name, count in of_paragraph.items() if name != "LATIN"})
    if not of_question or own.total() <= WRITTEN * of_paragraph.total():
        return of_question["LATIN"] < of_question.total() / 2
    if sum(own[kana] for kana in _KANA) > own.total() / 5:
        return not _KANA & of_question.keys()
    return not of_question[own.most_common(1)[0][0]]


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


# Questions that do not stand on their own: they point at "the text above", or at an "it" unnamed.
# Patterns for the 13 languages of MultiLongDoc and eight more; a question in another language
# passes. They look for the usual ways to say it, and prefer to miss one to refusing a good
# question: a refused one costs a second request.
_END = r"(?=\s*(?:[?？؟;,.:!»\"”]|$))"


def _meta(*, this: str, the: str, noun: str, says: str, also: str = "") -> str:
    """A pattern: this text; says the text; the text says; the text at a pause; `also`.

    "Article 5", which laws have, is a name.
    """
    return "|".join(
        (
            rf"\b(?:{this})\s+(?:{noun})\b(?!\s*(?:\d|nr|no))",
            rf"\b(?:{says})\s+(?:{the})\s*(?:{noun})\b(?!\s*(?:\d|nr|no))",
            rf"(?:^|[\s\W])(?:{the})\s*(?:{noun})(?:{_END}|\s+(?:{says})\b)",
            *((also,) if also else ()),
        )
    )


# Where a language drops its pronouns, or writes no spaces, only what opens a question is told.
_POINTS_AT_TEXT = {
    "en": _meta(
        this=r"(?:this|that|these|those|the\s+(?:above|given|provided|following|preceding))",
        the=r"the\s",
        noun=r"(?:passage|paragraph|text|article|document|excerpt|snippet|section|author)s?",
        says=r"say|says|state|states|mention|mentions|describe|describes|discuss|discusses|explain|"
        r"explains|recommend|recommends|suggest|suggests|according to",
        also=r"\b(?:mentioned|described|stated|listed|discussed|shown)\s+(?:above|below|here)\b|"
        r"\baforementioned\b|\babove-mentioned\b|\bthe above\b|"
        r"\bthe\s+(?:passage|excerpt|snippet)\b(?!\s+(?:of|from|to|through))|"
        r"\b(?:this|given|provided|above)\s+context\b|\bin the context" + _END,
    ),
    "de": _meta(
        this=r"diese[rmns]?|obige[rmns]?|vorliegende[rmns]?|gegebene[rmns]?|genannte[rmns]?",
        the=r"(?:der|die|das|dem|den|des|im)\s",
        noun=r"text(?:es|s)?|textabschnitts?|passage|absatz(?:es)?|abschnitts?|artikels?|"
        r"dokument(?:e?s)?|auszugs?|autors?|verfassers?",
        says=r"sagt|nennt|beschreibt|erwähnt|erklärt|empfiehlt|laut|gemäß",
        also=r"\blaut\s+text\b|\b(?:oben|oben\s*genannte\w*|vorstehend)\s+(?:genannt|erwähnt|beschrieben)\w*|"
        r"\bobengenannte\w*",
    ),
    "es": _meta(
        this=r"est[ea]|es[ea]|dich[oa]|el\s+presente",
        the=r"(?:el|la|del|al)\s",
        noun=r"(?:texto|pasaje|párrafo|artículo|documento|fragmento|extracto|autora?)(?:\s+anterior)?",
        says=r"dice|menciona|describe|afirma|explica|indica|recomienda|según|sobre",
        also=r"\b(?:mencionad|descrit|citad)[oa]s?\s+(?:arriba|anteriormente|aquí)\b|"
        r"\barriba\s+(?:mencionad|descrit|citad)[oa]s?\b",
    ),
    "fr": _meta(
        this=r"ce|cet|cette|le\s+présent",
        the=r"(?:le|la|du|au)\s|l['’]",
        noun=r"(?:texte|passage|paragraphe|article|document|extrait|auteur)(?:\s+ci-dessus)?",
        says=r"dit|mentionne|décrit|affirme|explique|indique|recommande|selon|dans",
        also=r"\bci-dessus\b|\b(?:mentionné|décrit|cité)e?s?\s+(?:plus haut|ici)\b|\bsusmentionné",
    ),
    "it": _meta(
        this=r"quest[oa]|quel|quello|quella|il\s+presente",
        the=r"(?:il|lo|la|nel|del|dal|al)\s|(?:l|dell|nell|dall|all)['’]",
        noun=r"testo|brano|passaggio|paragrafo|articolo|documento|estratto|autore",
        says=r"dice|menziona|descrive|afferma|spiega|indica|raccomanda|secondo",
        also=r"\b(?:menzionat|descritt|citat)[oaie]\s+(?:sopra|qui)\b|\bsopra\s?(?:menzionat|citat)",
    ),
    "pt": _meta(
        this=r"(?:n|d)?est[ea]|(?:n|d)?ess[ea]|o\s+presente",
        the=r"(?:o|a|no|na|do|da|ao)\s",
        noun=r"(?:texto|trecho|passagem|parágrafo|artigo|documento|excerto|autora?)(?:\s+acima)?",
        says=r"diz|menciona|descreve|afirma|explica|indica|recomenda|segundo|sobre",
        also=r"\b(?:mencionad|descrit|citad)[oa]s?\s+(?:acima|anteriormente|aqui)\b|"
        r"\bacima\s+(?:mencionad|descrit|citad)[oa]s?\b",
    ),
    "nl": _meta(
        this=r"deze|dit|bovenstaande|de\s+gegeven",
        the=r"(?:de|het)\s",
        noun=r"tekst|passage|paragraaf|alinea|artikel|document|fragment|auteur",
        says=r"zegt|noemt|beschrijft|vermeldt|volgens",
        also=r"\b(?:hierboven|bovengenoemde)\b",
    ),
    "sv": r"\b(?:denna|den här|detta|det här)\s+(?:texten?|artikeln?|stycket?|avsnittet?)\b|"
    rf"\b(?:texten|textstycket|författaren){_END}|\b(?:ovanstående|ovannämnda)\b",
    "pl": r"\b(?:tym|tego|ten|powyższ\w+|podan\w+)\s+(?:tek[sś]\w+|fragmen\w+|akapi\w+|artyku\w+|"
    rf"dokumen\w+)\b(?!\s*\d)|\b(?:w|według|z)\s+(?:tekście|tekstu|fragmencie|fragmentu){_END}|"
    r"\bwyżej\s+wymienion\w+",
    "ru": r"\b(?:этот|этом|этого|этой|эта|данн\w+|приведённ\w+|приведенн\w+|указанн\w+)\s+"
    r"(?:текст\w*|отрыв\w+|абзац\w*|фрагмент\w*|стать\w+|документ\w*)\b(?!\s*\d)|"
    rf"\b(?:в|согласно)\s+(?:тексте|тексту|отрывке|отрывку|абзаце|статье){_END}|"
    r"\b(?:выше)?упомянут\w+ выше\b|\bвышеупомянут\w+|\bвышеуказанн\w+",
    "uk": r"\b(?:цей|цьому|цього|цій|ця|дан\w+|наведен\w+|зазначен\w+)\s+"
    r"(?:текст\w*|урив\w+|абзац\w*|фрагмент\w*|статт\w+|документ\w*)\b(?!\s*\d)|"
    rf"\b(?:у|в|згідно з)\s+(?:тексті|текстом|уривку|абзаці|статті){_END}|\bвищезгадан\w+",
    "tr": r"\b(?:bu|yukarıdaki|verilen)\s+(?:metin\w*|metn\w+|paragraf\w*|makale\w*|belge\w*|"
    r"pasaj\w*|yazı\w*)\b|\b(?:metne|metinde|paragrafa|parçaya)\s+(?:göre|geçen)\b|"
    r"\byukarıda(?:ki)?\b",
    "id": r"\b(?:teks|bacaan|paragraf|artikel|dokumen|kutipan)\s+(?:ini|itu|tersebut|di atas)\b|"
    rf"\b(?:dalam|menurut)\s+(?:teks|bacaan|paragraf){_END}|\bdi atas{_END}",
    "vi": r"\b(?:đoạn văn|văn bản|bài viết|đoạn trích|bài báo|tài liệu)\s+(?:này|trên|đó|đã cho)\b|"
    rf"\b(?:trong|theo)\s+(?:đoạn văn|văn bản|bài viết|đoạn trích){_END}|\bnêu trên\b|\bở trên\b",
    "zh": r"(?<![论論])文中|本文|上文|下文|原文|前文|该文|此文|文本中|段落中|这段|该段|此段|本段|"
    r"[这該该此](?:篇|个|一)*(?:文章|文档|文本|段落|短文)|"
    r"(?:根据|根據|按照)(?:文章|文本|段落|短文|上述|以上)|上述|以上(?:内容|文字)|前述|这篇|這篇|這段|"
    r"作者(?:认为|提到|指出|建议)",
    "ja": r"(?:この|その|上記の|次の|以下の)(?:文章|記事|段落|テキスト|文書|文(?![字化明学]))|"
    r"(?<!日)本(?:文|記事|文書)|上記|前述|上述|(?:文章|段落|テキスト)(?:によ|では|に従)|文中(?:で|に)|筆者|"
    r"(?<!の)著者(?:は|が|によ)",
    "ko": r"(?:^|\s)(?:이|위|위의|다음|해당|본|주어진)\s*(?:글|문서|문단|기사|텍스트|단락|문장)"
    r"(?=에|은|는|이|을|의|$|\s)|본문|지문|(?:위에서|앞서|상기)\s*(?:언급|설명|말)|글쓴이|저자(?:는|가)",
    "ar": r"(?:هذا|هذه)\s+(?:النص|الفقرة|المقال|المقالة|المقطع|المستند|الوثيقة)|"
    rf"(?:في|حسب|وفق|وفقا|وفقًا ل|بحسب)\s*(?:النص|الفقرة|المقال|المقالة|المقطع){_END}|"
    r"للنص|المذكور\w*\s+(?:أعلاه|هنا)|أعلاه|الكاتب\s+(?:يقول|يرى)",
    "fa": r"(?:این|آن)\s+(?:متن|پاراگراف|مقاله|بخش|سند)|"
    rf"(?:در|طبق|بر اساس)\s+(?:متن|پاراگراف|مقاله){_END}|"
    r"بالا\s+(?:ذکر|گفته)|فوق\b",
    "hi": r"(?:इस|इसी|दिए गए|दिये गये|उपरोक्त|उपर्युक्त)\s+(?:पाठ|अनुच्छेद|लेख|गद्यांश|दस्तावेज़|पैराग्राफ)|"
    r"उपरोक्त|उपर्युक्त|(?:पाठ|गद्यांश|अनुच्छेद|लेख) के अनुसार|ऊपर (?:बताए|दिए|उल्लिखित)",
    "th": r"(?:บทความ|ข้อความ|ย่อหน้า|เนื้อหา|เอกสาร)(?:นี้|ข้างต้น|ดังกล่าว|ด้านบน|ที่ให้มา)|ข้างต้น|"
    r"ผู้เขียน(?:กล่าว|แนะนำ|ระบุ)|(?:ใน|จาก|ตาม)(?:บทความ|ข้อความ|ย่อหน้า|เนื้อหา)(?:\s|$)",
}

_WORDS = r"(?:[\w'’-]+\s+)"
_LACKS_A_NAME = {
    "en": rf"^{_WORDS}{{0,3}}?(?:is|are|was|were|does|do|did|has|have|had|can|could|will|would|"
    r"should|may|might|must)\s+(?:they|he|she|this|that|these|those|its|his|her|their|"
    # "how long does it take to ..." names what it is about later on
    r"it(?!\s+(?:[\w-]+\s+){0,4}(?:to|that|for|when|if|whether|before|until)\b))\b",
    "de": rf"^{_WORDS}{{1,3}}?(?:er|sie|ihm|ihn|dies|dieser|diese|dieses|diesem|diesen)\b(?!,)|"
    r"^(?:was|wer|wie|wo)\s+(?:ist|sind|war|waren)\s+(?:sein|seine|ihr|ihre)\b",
    "es": r"^¿?(?:[\w]+\s+){1,3}?(?:él|ella|ello|ellos|ellas|esto|eso)\b|"
    r"^¿?(?:cuál|cuáles|qué|quién|quiénes|dónde|cómo)\s+(?:es|son|fue|fueron|era|eran)\s+"
    r"(?:su|sus|est[ae]|est[ao]s|es[ae]|es[ao]s|dich[oa]s?)\b",
    "fr": r"^(?:quand|où|comment|pourquoi|combien|que)\s+(?!y\b)[\w'’]+(?:-t)?-"
    r"(?:il|elle|ils|elles)\b(?!\s+(?:possible|nécessaire|permis|recommandé|interdit))|"
    r"^(?:qui|quel|quelle|quels|quelles|où)\s+(?:est|sont|était|étaient)\s+"
    r"(?:son|sa|ses|leur|leurs)\b",
    "it": r"^(?:qual|quali|chi|dove|come|cosa|quando)\s*['’]?\s*(?:è|sono|era|erano|fu)\s+"
    r"(?:il suo|la sua|i suoi|le sue|quest[oaie]|esso|essa)\b",
    "pt": r"^(?:qual|quais|quem|onde|como|quando|que)\s+(?:é|são|foi|foram|era|eram)\s+"
    r"(?:o seu|a sua|seu|sua|seus|suas|ele|ela|eles|elas|ist?o|isso|est[ea]s?|ess[ea]s?)\b",
    "nl": rf"^{_WORDS}{{1,3}}?(?:hij|zij|ze|dit|deze)\b|"
    r"^(?:wat|wie|waar)\s+(?:is|zijn|was)\s+zijn\b",
    "pl": r"^(?:\w+\s+){0,2}?(?:on|ona|ono|oni|one|jego|jej|ich)\b",
    "ru": r"^(?:\w+\s+){0,2}?(?:он|она|оно|они|его|её|ее|их)\b",
    "uk": r"^(?:\w+\s+){0,2}?(?:він|вона|воно|вони|його|її|їх|їхн\w+)\b",
    "tr": r"^(?:o|onlar|onun|onların|bu|bunlar|bunun)\s",
    "id": r"^(?:\w+\s+){0,2}?(?:ia|dia|mereka)\b",
    "vi": r"^(?:nó|họ|ông ấy|bà ấy|anh ấy|cô ấy)\s",
    "zh": r"^(?:它|他|她|牠|这|這|该|該|此|其)(?!些年|里)",
    "ja": r"^(?:それ|これ|彼|彼女|彼ら|その|この|同[社国法書作氏県市校])",
    "ko": r"^(?:그것|이것|그|이|그는|그녀|그들)(?:은|는|이|가|의|을|를)?\s",
    "ar": r"^(?:متى|أين|كيف|لماذا|ما|من|ماذا|هل)\s+(?:هو|هي|هم|ذلك|هذا|هذه|تلك)\s*[؟?]",
    "hi": r"^(?:यह|वह|ये|वे|इसका|इसकी|इसके|उसका|उसकी|उसके|उन्होंने|उसने|इसने)\s",
    "th": r"^(?:มัน(?!ฝรั่ง|เทศ|สำปะหลัง)|เขา(?=ได้|ประสบ|เกิด|ถูก|เคย)|พวกเขา|สิ่งนี้)",  # เขา: hill too
}


def points_at_text(question: str, lang: str) -> bool:
    """Whether a question speaks of the text it was written on."""
    return _matches(_POINTS_AT_TEXT, question, lang)


def lacks_a_name(question: str, lang: str) -> bool:
    """Whether a question asks about an it, he or this that it has not named."""
    return _matches(_LACKS_A_NAME, question, lang)


def _matches(patterns: dict[str, str], question: str, lang: str) -> bool:
    pattern = patterns.get(lang.partition("-")[0].lower())
    return pattern is not None and re.search(pattern, question, re.IGNORECASE) is not None
