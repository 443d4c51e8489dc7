"""Texts on which implementations of a model are compared, and how far apart their numbers are."""

import numpy as np

from tercet.config import Head
from tercet.embeddings import Embeddings
from tercet.sparse import SparseRows

TEXTS = {
    "word": "lighthouse",
    "question": "Who repairs the clock on the old town hall?",
    "en": "The ferry leaves the island at six, and after dark only the lighthouse shows the way.",
    "de": "Der Müller prüft das Korn, bevor er die schweren Steine in Bewegung setzt.",
    "nl": "Achter de dijk ligt een smalle weg die bij hoog water onder de golven verdwijnt.",
    "sv": "På vintern fryser sjön till, och då går den kortaste vägen rakt över isen.",
    "fi": "Kalastaja korjaa verkkonsa syksyllä, kun myrskyt pitävät veneet rannassa.",
    "fr": "Le boulanger du village pétrit la pâte à l'aube, quand la rue est encore déserte.",
    "es": "La niña guardó las semillas en un frasco y esperó a que volviera la lluvia.",
    "pt": "O relojoeiro abriu a caixa e achou, entre as engrenagens, um grão de areia.",
    "it": "Il ponte di pietra resiste alle piene perché i suoi archi lasciano passare l'acqua.",
    "pl": "Stary zegar w bibliotece spóźnia się o siedem minut, lecz nikt go nie nastawia.",
    "hu": "A méhész este zárja le a kaptárakat, amikor már minden raj hazatért.",
    "tr": "Köyün çeşmesi yazın kurur, bu yüzden herkes suyu kış aylarında biriktirir.",
    "vi": "Người thợ mộc chọn gỗ vào mùa khô để cánh cửa không cong khi trời ẩm.",
    "id": "Petani menanam kelapa di tepi ladang supaya angin laut tidak merusak padi.",
    "sw": "Mvuvi hutazama mawingu kabla ya kuamua kama atakwenda baharini au la.",
    "yo": "Àwọn ọmọ náà kó ìwé wọn sínú àpótí kí òjò tó bẹ̀rẹ̀.",
    "ru": "Смотритель маяка записывает в журнал каждое судно, прошедшее мимо мыса.",
    "uk": "Учителька принесла до класу насіння соняшника й запитала, чому воно смугасте.",
    "el": "Ο κηπουρός ποτίζει τις ελιές νωρίς το πρωί, πριν ζεστάνει ο ήλιος.",
    "ka": "მწყემსი გაზაფხულზე ფარას მთაში მიჰყავს, შემოდგომაზე კი ბარში ბრუნდება.",
    "ar": "يكتب الخطاط الحروف بحبر أسود ثم ينتظر حتى يجف الورق قبل أن يطويه.",
    "fa": "باغبان شاخه‌های خشک را می‌برد تا درخت انار در بهار بهتر شکوفه بدهد.",
    "he": "הספרנית מצאה מפה ישנה בין דפי הספר והניחה אותה בזהירות על השולחן.",
    "am": "ሸክላ ሠሪዋ ማሰሮውን ለሦስት ቀን በጥላ ታደርቀዋለች።",
    "hi": "कुम्हार मिट्टी को रात भर भिगोता है ताकि सुबह घड़ा बिना दरार के बने।",
    "bn": "মাঝি ভোরে নদী পার হয়, কারণ দুপুরের পরে বাতাস দিক বদলায়।",
    "ta": "மழைக்கு முன் எறும்புகள் உணவைச் சேர்த்து வைக்கின்றன என்று பாட்டி சொன்னாள்.",
    "th": "ชาวสวนเก็บมะม่วงตอนเช้าตรู่ ก่อนที่แดดจะแรงและผลไม้จะช้ำ",
    "zh": "老钟表匠说，只要听声音，他就知道哪一个齿轮磨损了。",
    "ja": "灯台の明かりは霧の夜でも二十キロ先の船から見えるという。",
    "ko": "등산객들은 해가 지기 전에 대피소에 도착하려고 걸음을 재촉했다.",
    "emoji": "Picnic at noon 🧺☀️ bring bread 🍞, cheese 🧀 and the dog 🐕‍🦺!",
    "combining": "Cafe\u0301 Zu\u0308rich: l'e\u0301le\u0300ve nai\u0308f fe\u0302te No\u0308el.",
    "capitals": "THE HARBOUR MASTER of Port Ellery SIGNED Form B-12 on a Monday.",
    "width": "Ｆｕｌｌ　ｗｉｄｔｈ １２３, ½ cup, ﬁne ﬂour, x² and ™",
    "blanks": "  two blanks before,\ttabs\tbetween,   three  inside and one behind ",
    "lines": "First line of a note.\nSecond line.\n\nA paragraph after an empty line.\n",
    "repeated": "water water water and more water: water for the mill, water for the fields",
    "code": 'def area(width: float, height: float) -> float:\n    return width * height  # in m²\n',
    "numbers": "On 2031-04-07 at 16:45 the pump moved 1,204.5 litres, 3.7% less than planned.",
    "address": "See https://example.org/guide?page=2#tools or write to desk@example.org.",
    "specials": "The markers </s>, <s>, <pad>, <unk> and <mask> are spelled out in this sentence.",
    "blank": " ",
    "empty": "",
}  # fmt: skip


def golden_texts() -> dict[str, str]:
    """Texts in many languages and scripts, and those on which implementations differ, by name.

    Three have over 512 tokens, the last of them over 8,192 with the vocabulary of XLM-RoBERTa.
    """
    sentences = [text.strip() for text in TEXTS.values() if len(text) > 40]
    # subjects change slowly from first to last, so that a cut anywhere shows
    lines = [f"{n + 1}. {sentences[n * len(sentences) // 380]}" for n in range(380)]
    return TEXTS | {
        "over 512": " ".join(sentences[:26]),
        "over 512, backwards": "\n".join(reversed(sentences[6:])),
        "over 8,192": "\n".join(lines),
    }


def differences(left: Embeddings, right: Embeddings) -> dict[Head, dict[str, float]]:
    """How far two implementations' numbers are apart: the largest difference of each head.

    Of vectors also cosines, of sparse rows the share of ids that both have.
    """
    out: dict[Head, dict[str, float]] = {}
    heads: tuple[Head, ...] = ("dense", "multi")
    for head in heads:
        a, b = getattr(left, head), getattr(right, head)
        if a is not None and b is not None:
            a32, b32 = a.astype(np.float32), b.astype(np.float32)
            out[head] = {
                "largest difference": float(np.abs(a32 - b32).max()),
                "smallest cosine": float((a32 * b32).sum(axis=1).min()),
                "mean cosine": float((a32 * b32).sum(axis=1).mean()),
            }
    if left.sparse is not None and right.sparse is not None:
        a, b = left.sparse, right.sparse
        rows, ids = (np.concatenate((getattr(a, n), getattr(b, n))) for n in ("rows", "indices"))
        gaps = SparseRows.from_pairs(rows, ids, np.concatenate((a.data, -b.data)), a.shape)
        out["sparse"] = {
            "largest difference": float(np.abs(gaps.data).max(initial=0)),
            "ids shared": (a.nnz + b.nnz - gaps.nnz) / max(1, a.nnz, b.nnz),
        }
    return out
