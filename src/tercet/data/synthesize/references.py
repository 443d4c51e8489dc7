"""Questions that do not stand on their own: they point at "the text above", or at an "it" unnamed.

Patterns for the 13 languages of MultiLongDoc and eight more; a question in another language passes.
They look for the usual ways to say it, and prefer to miss one to refusing a good question: a
refused one costs a second request. Knows nothing of prompts.
"""

import re
from functools import cache

END = r"(?=\s*(?:[?？؟;,.:!»\"”]|$))"


def _meta(*, this: str, the: str, noun: str, says: str, also: str = "") -> str:
    """A pattern: this text; says the text; the text says; the text at a pause; `also`.

    "Article 5", which laws have, is a name.
    """
    return "|".join(
        (
            rf"\b(?:{this})\s+(?:{noun})\b(?!\s*(?:\d|nr|no))",
            rf"\b(?:{says})\s+(?:{the})\s*(?:{noun})\b(?!\s*(?:\d|nr|no))",
            rf"(?:^|[\s\W])(?:{the})\s*(?:{noun})(?:{END}|\s+(?:{says})\b)",
            *((also,) if also else ()),
        )
    )


# Where a language drops its pronouns, or writes no spaces, only what opens a question is told.
_TEXT = {
    "en": _meta(
        this=r"(?:this|that|these|those|the\s+(?:above|given|provided|following|preceding))",
        the=r"the\s",
        noun=r"(?:passage|paragraph|text|article|document|excerpt|snippet|section|author)s?",
        says=r"say|says|state|states|mention|mentions|describe|describes|discuss|discusses|explain|"
        r"explains|recommend|recommends|suggest|suggests|according to",
        also=r"\b(?:mentioned|described|stated|listed|discussed|shown)\s+(?:above|below|here)\b|"
        r"\baforementioned\b|\babove-mentioned\b|\bthe above\b|"
        r"\bthe\s+(?:passage|excerpt|snippet)\b(?!\s+(?:of|from|to|through))|"
        r"\b(?:this|given|provided|above)\s+context\b|\bin the context" + END,
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
    rf"\b(?:texten|textstycket|författaren){END}|\b(?:ovanstående|ovannämnda)\b",
    "pl": r"\b(?:tym|tego|ten|powyższ\w+|podan\w+)\s+(?:tek[sś]\w+|fragmen\w+|akapi\w+|artyku\w+|"
    rf"dokumen\w+)\b(?!\s*\d)|\b(?:w|według|z)\s+(?:tekście|tekstu|fragmencie|fragmentu){END}|"
    r"\bwyżej\s+wymienion\w+",
    "ru": r"\b(?:этот|этом|этого|этой|эта|данн\w+|приведённ\w+|приведенн\w+|указанн\w+)\s+"
    r"(?:текст\w*|отрыв\w+|абзац\w*|фрагмент\w*|стать\w+|документ\w*)\b(?!\s*\d)|"
    rf"\b(?:в|согласно)\s+(?:тексте|тексту|отрывке|отрывку|абзаце|статье){END}|"
    r"\b(?:выше)?упомянут\w+ выше\b|\bвышеупомянут\w+|\bвышеуказанн\w+",
    "uk": r"\b(?:цей|цьому|цього|цій|ця|дан\w+|наведен\w+|зазначен\w+)\s+"
    r"(?:текст\w*|урив\w+|абзац\w*|фрагмент\w*|статт\w+|документ\w*)\b(?!\s*\d)|"
    rf"\b(?:у|в|згідно з)\s+(?:тексті|текстом|уривку|абзаці|статті){END}|\bвищезгадан\w+",
    "tr": r"\b(?:bu|yukarıdaki|verilen)\s+(?:metin\w*|metn\w+|paragraf\w*|makale\w*|belge\w*|"
    r"pasaj\w*|yazı\w*)\b|\b(?:metne|metinde|paragrafa|parçaya)\s+(?:göre|geçen)\b|"
    r"\byukarıda(?:ki)?\b",
    "id": r"\b(?:teks|bacaan|paragraf|artikel|dokumen|kutipan)\s+(?:ini|itu|tersebut|di atas)\b|"
    rf"\b(?:dalam|menurut)\s+(?:teks|bacaan|paragraf){END}|\bdi atas{END}",
    "vi": r"\b(?:đoạn văn|văn bản|bài viết|đoạn trích|bài báo|tài liệu)\s+(?:này|trên|đó|đã cho)\b|"
    rf"\b(?:trong|theo)\s+(?:đoạn văn|văn bản|bài viết|đoạn trích){END}|\bnêu trên\b|\bở trên\b",
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
    rf"(?:في|حسب|وفق|وفقا|وفقًا ل|بحسب)\s*(?:النص|الفقرة|المقال|المقالة|المقطع){END}|"
    r"للنص|المذكور\w*\s+(?:أعلاه|هنا)|أعلاه|الكاتب\s+(?:يقول|يرى)",
    "fa": r"(?:این|آن)\s+(?:متن|پاراگراف|مقاله|بخش|سند)|"
    rf"(?:در|طبق|بر اساس)\s+(?:متن|پاراگراف|مقاله){END}|"
    r"بالا\s+(?:ذکر|گفته)|فوق\b",
    "hi": r"(?:इस|इसी|दिए गए|दिये गये|उपरोक्त|उपर्युक्त)\s+(?:पाठ|अनुच्छेद|लेख|गद्यांश|दस्तावेज़|पैराग्राफ)|"
    r"उपरोक्त|उपर्युक्त|(?:पाठ|गद्यांश|अनुच्छेद|लेख) के अनुसार|ऊपर (?:बताए|दिए|उल्लिखित)",
    "th": r"(?:บทความ|ข้อความ|ย่อหน้า|เนื้อหา|เอกสาร)(?:นี้|ข้างต้น|ดังกล่าว|ด้านบน|ที่ให้มา)|ข้างต้น|"
    r"ผู้เขียน(?:กล่าว|แนะนำ|ระบุ)|(?:ใน|จาก|ตาม)(?:บทความ|ข้อความ|ย่อหน้า|เนื้อหา)(?:\s|$)",
}

_WORDS = r"(?:[\w'’-]+\s+)"
_UNNAMED = {
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


@cache
def _compiled(lang: str) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    text, unnamed = _TEXT.get(lang), _UNNAMED.get(lang)
    return (
        re.compile(text, re.IGNORECASE) if text else None,
        re.compile(unnamed, re.IGNORECASE) if unnamed else None,
    )


def points_at_text(question: str, lang: str) -> bool:
    """Whether a question speaks of the text it was written on.

    >>> points_at_text("What does the passage say about bees?", "en")
    True
    >>> points_at_text("What does a text editor do?", "en")
    False
    """
    pattern = _compiled(lang.partition("-")[0].lower())[0]
    return pattern is not None and pattern.search(question) is not None


def lacks_a_name(question: str, lang: str) -> bool:
    """Whether a question asks about an it, he or this that it has not named.

    >>> lacks_a_name("When was it founded?", "en")
    True
    >>> lacks_a_name("How long does it take to file a patent?", "en")
    False
    """
    pattern = _compiled(lang.partition("-")[0].lower())[1]
    return pattern is not None and pattern.search(question) is not None
