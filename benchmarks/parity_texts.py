"""The texts on which Tercet and the reference implementation are compared.

Written for this project. Knows nothing of models; everything here is fixed, so that two programs
that call `cases()` see the same texts in the same order.
"""

from dataclasses import dataclass

SENTENCES = (
    "The lighthouse keeper wrote down the weather every evening for forty years.",
    "A small pump lifts the water to the roof, and gravity does the rest.",
    "Who repaired the bridge after the flood of the previous spring?",
    "Bread rises because yeast turns sugar into gas; the crust forms in the oven.",
    "Le facteur traverse le village à vélo, même quand il neige.",
    "Die Bibliothek öffnet um neun Uhr und schließt erst spät am Abend.",
    "El panadero abre la tienda antes del amanecer y cierra al mediodía.",
    "A ponte antiga liga as duas margens do rio há três séculos.",
    "Il mercato del pesce è aperto ogni giorno tranne la domenica.",
    "Старый маяк стоит на скале и светит кораблям каждую ночь.",
    "Учительница записала на доске условие новой задачи.",
    "Ο φάρος φωτίζει τη θάλασσα όλη τη νύχτα.",
    "يفتح السوق أبوابه في الصباح الباكر ويغلقها عند الغروب.",
    "המורה כתבה את השאלה על הלוח והתלמידים ענו.",
    "पुराना पुल नदी के दोनों किनारों को जोड़ता है।",
    "শিক্ষক বোর্ডে একটি নতুন প্রশ্ন লিখলেন।",
    "பழைய பாலம் ஆற்றின் இரு கரைகளையும் இணைக்கிறது.",
    "ตลาดเปิดทุกเช้าและปิดก่อนพระอาทิตย์ตก",
    "图书馆每天早上九点开门，晚上很晚才关门。",
    "老灯塔整夜照亮大海，船只因此平安归来。",
    "古い灯台は一晩中海を照らしています。",
    "오래된 등대는 밤새도록 바다를 비춘다.",
    "Mwalimu aliandika swali jipya ubaoni asubuhi.",
    "Eski köprü nehrin iki yakasını üç yüzyıldır birbirine bağlıyor.",
    "Thư viện mở cửa lúc chín giờ sáng và đóng cửa rất muộn.",
    "Stary most łączy oba brzegi rzeki od trzystu lat.",
    "ძველი ხიდი მდინარის ორ ნაპირს აერთებს.",
    "Հին կամուրջը միացնում է գետի երկու ափերը։",
    "አሮጌው ድልድይ ሁለቱን የወንዝ ዳርቻዎች ያገናኛል።",
    "ຕະຫຼາດເປີດທຸກເຊົ້າ",
)

WORDS = tuple(dict.fromkeys(word for text in SENTENCES for word in text.split()))


@dataclass(frozen=True)
class Case:
    """One text and the reason it is there."""

    name: str
    text: str


def words(count: int, *, step: int = 7, start: int = 0) -> str:
    """A text of `count` words that walks through all sentences in a fixed, scattered order."""
    return " ".join(WORDS[(start + step * i) % len(WORDS)] for i in range(count))


def cases(*, longest_words: int = 8192) -> list[Case]:
    """All comparison texts; the last three pass `longest_words` words, so they fill any length."""
    found = [Case(f"script-{i}", text) for i, text in enumerate(SENTENCES)]
    found += [
        Case("empty", ""),
        Case("spaces only", " \t\n "),
        Case("one letter", "a"),
        Case("one word", "lighthouse"),
        Case("word order", "does the rest gravity and roof the to water the lifts pump small A"),
        Case("special tokens", "The <s>water</s> is <mask> and <pad> or <unk> here."),
        Case("special token glued", "<mask>bread<mask> <s><s></s></s>"),
        Case(
            "odd spaces", "  The\u00a0roof \u3000 and\u2003the\u200bwater\r\n\r\n\tagain\u2028end  "
        ),
        Case("emoji", "Bread 🍞 rises 👩🏽‍🍳🔥, the lighthouse 🗼 shines 🇫🇷 ✅"),
        Case("unknown", "𓀀𓂀 ꙮꙮꙮ water ⸻ ﷽ ⟁⟁"),
        Case("controls", "water\u0007\u0001roof\u0000bridge\ufeff again\u00ad"),
        Case("combining", "u\u0301n a\u0308ltere Bru\u0308cke, ﬁnal ﬂood ½ Å ㌔ ｆｕｌｌ"),
        Case("digits", "In 1874, 3,141 boats; £12.50 (≈ 14.60 €) — No. 7/8 at 06:45."),
        Case("repeats", "water water water water bread water bread water"),
        Case("one long word", "lighthousekeeper" * 60),
        Case("medium", words(90)),
        Case("medium shifted", words(90, start=1)),
        Case("long", words(300, step=11)),
        Case("longer", words(1100, step=13)),
        Case("fills the length", words(longest_words, step=17)),
        Case("fills the length, other order", words(longest_words, step=19)),
    ]
    return found
