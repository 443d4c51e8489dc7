"""The texts that are compared: our own, short and long, in many languages and scripts.

Beside plain sentences there are those on which implementations differ: blanks, line breaks, emoji,
combining marks, capitals, repeated words, special tokens spelled out, nothing at all, and texts
over 512 and over 8,192 tokens. Knows nothing of models.
"""

SHORT = {
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

LINES = 380  # of the longest text: over 8,192 tokens with the vocabulary of XLM-RoBERTa


def golden_texts() -> dict[str, str]:
    """Every text by its name; three have over 512 tokens, the last of them over 8,192."""
    sentences = [text.strip() for text in SHORT.values() if len(text) > 40]
    middle = " ".join(sentences[:26])
    other = "\n".join(reversed(sentences[6:]))
    # subjects change slowly from first to last, so that a cut anywhere shows
    parts = [sentences[number * len(sentences) // LINES] for number in range(LINES)]
    longest = "\n".join(f"{number + 1}. {part}" for number, part in enumerate(parts))
    return SHORT | {"over 512": middle, "over 512, backwards": other, "over 8,192": longest}
