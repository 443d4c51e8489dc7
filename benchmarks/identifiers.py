"""Are exact identifiers found first: error codes, part numbers, versions, names of functions?

    python benchmarks/identifiers.py
    python benchmarks/identifiers.py --texts paragraphs.jsonl.gz --chunks 20000 --json out.json

Forty questions in 20 languages, each with the one document that answers it, two copies of that
document whose identifier differs in a digit or a letter, and, every fourth time, the answer deep in
a long text. Around them the demo documents, and `--texts` (JSON lines with "text" or "pos"). Ten
questions without an identifier must be answered as before. Counted is who stands first: by the
sparse score alone, by the weighted sum alone, and by what a search gives.
"""

import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, parser, save

from tercet import Collection, Encoder
from tercet.records import Document, Hit
from tercet.rows import read_rows

# ruff: noqa: E501
# language, question, answer; the identifier of the question stands in braces in the answer
ASKED = """
en|error E14|The display shows {E14} when the drain pump is blocked. Clean the filter behind the flap.
en|what does code F-21 mean on the boiler|Fault {F21}: the flame sensor sees no flame. Check the gas tap first.
en|replacement for part number 4B0-121-113|The water pump {4B0-121-113} fits engines built from 1998 on; tighten to 15 Nm.
en|how do I fix CVE-2024-1234|{CVE-2024-1234}: a crafted archive writes outside of its folder. Update to the next minor release.
en|0x80070057|Windows reports {0x80070057} when a parameter is incorrect; run the check of the disk again.
en|str_replace with an array|{str_replace} replaces every occurrence of the search string, and takes arrays as well.
en|getElementById returns null|{getElementById} gives nothing when the script runs before the page is parsed.
en|what changed in 2.13.0|Release {2.13.0} drops support for old interpreters and speeds up parsing.
en|invoice 4711|Invoice {4711} of the bakery was paid in two parts, the second one late.
en|ISO 9001 audit|{ISO 9001} asks for a quality manual, internal audits and a review by the management.
en|RFC 2616 persistent connections|{RFC 2616} makes connections stay open by default and names the header that closes them.
en|ticket ABC-1042 status|{ABC-1042}: the login page shows a blank screen after the update; assigned to the web team.
en|max_connections setting|Raise {max_connections} only with enough shared memory; every client takes some megabytes.
en|ERR_CONNECTION_REFUSED in the browser|{ERR_CONNECTION_REFUSED} means that nobody listens at that port.
en|lm317t datasheet|The regulator {LM317T} delivers 1.5 A; two resistors set its output voltage.
en|ORA-00942|{ORA-00942}: the table or view does not exist, or you lack the right to see it.
de|Was bedeutet Fehler E18 beim Geschirrspüler?|{E18}: Das Wasser läuft nicht ab. Sieb reinigen und den Schlauch prüfen.
de|Rechnung 20240815|Die Rechnung {20240815} über die Reparatur des Dachs ist am Monatsende fällig.
de|Welche Heizung hat die Artikelnummer HK-3350?|Der Heizkörper {HK-3350} leistet 1200 Watt und wird mit zwei Konsolen geliefert.
de|DIN 4102 Baustoffklasse|Nach {DIN 4102} heißen nichtbrennbare Baustoffe A, schwer entflammbare B1.
fr|que signifie l'erreur P0301|{P0301} : raté d'allumage sur le premier cylindre. Vérifier la bougie et la bobine.
fr|commande n° 88213 livrée ?|La commande {88213} a quitté l'entrepôt mardi et arrivera jeudi matin.
es|código de error U0100|{U0100}: se perdió la comunicación con el módulo del motor; revise el cableado.
es|versión 7.4.33 cambios|La versión {7.4.33} corrige dos fallos de seguridad y ninguno de rendimiento.
it|errore E05 caldaia|{E05}: la pressione dell'acqua è troppo bassa. Aprire il rubinetto di carico.
pt|peça WX-9920 compatível|A correia {WX-9920} serve em secadoras de oito quilos fabricadas depois de 2015.
nl|storing F28 cv-ketel|{F28}: de ketel krijgt geen gas. Controleer de hoofdkraan en de meter.
pl|błąd E37 zmywarka|{E37} oznacza przelanie wody w podstawie urządzenia; zakręć zawór i wezwij serwis.
ru|ошибка E21 стиральная машина|{E21}: двигатель не вращается. Проверьте щётки и ремень привода.
uk|помилка 0x8007045D|{0x8007045D}: пристрій не вдалося прочитати; перевірте диск і кабель.
tr|E24 hatası ne demek|{E24}: su boşaltılamıyor. Pompa filtresini temizleyin ve hortumu kontrol edin.
ar|ما معنى الخطأ E45|{E45}: باب الغسالة غير مغلق. أغلق الباب جيدا ثم أعد التشغيل.
he|תקלה E33 במדיח|{E33}: המים אינם מתחממים. יש לבדוק את גוף החימום.
hi|त्रुटि E52 का अर्थ|{E52}: पानी का दबाव कम है। नल पूरा खोलें और फिर से शुरू करें।
ja|エラーE61の意味|{E61}：給水できません。蛇口が開いているか、ホースが折れていないか確認してください。
zh|错误代码E72怎么解决|{E72}：排水泵被堵塞。请清洗过滤器，然后重新启动机器。
ko|오류 E83 해결 방법|{E83}: 문이 닫히지 않았습니다. 문을 다시 닫고 시작 버튼을 누르세요.
th|รหัสข้อผิดพลาด E94|{E94}: น้ำไม่เข้าเครื่อง ตรวจสอบก๊อกน้ำและสายยาง
vi|lỗi H27 máy lạnh|{H27}: cảm biến nhiệt độ ngoài trời bị hỏng, cần thay dây hoặc cảm biến.
en|wo ist die Rechnung RE2023-118|Invoice {RE2023-118} for the printing of the catalogue was cancelled in spring.
"""
PLAIN = """
how do bees talk to each other?
Wie viele Menschen starben bei der Flut 1953?
how many moons does the planet have
bread recipe with 3 ingredients
qui a construit le premier pont
la historia del café
in which year did the volcano erupt, 1883 or 1884?
蜂はどうやって話すのか
почему приливы бывают два раза в день
what should I do in the first 10 minutes after a burn?
"""
# what stands before and behind the answer in a long text
LONG = "The manual goes on with care of the surface, storage, and what to do before winter. " * 12


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--texts", type=Path, nargs="*", default=[])
    options.add_argument("--chunks", type=int, default=20_000, help="of --texts")
    options.add_argument("--model")
    given = options.parse_args()
    encoder = Encoder.load(given.model)
    asked = [line.split("|") for line in ASKED.strip().splitlines()]
    documents = [document for number, row in enumerate(asked) for document in copies(number, *row)]
    plain = PLAIN.strip().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        with Collection.open(Path(folder) / "c", encoder) as collection:
            collection.add([ROOT / "examples/docs"])
            collection.add(documents)
            collection.add(others(given.texts, given.chunks))
        with Collection.open(Path(folder) / "c", encoder, read_only=True) as collection:
            report = measure(collection, [row[1] for row in asked], plain)
            report["chunks"] = collection.info().chunks
    wrong = report.pop("wrong")
    print("\n".join(f"{name:<44} {value}" for name, value in report.items()))
    print("not first:", *wrong, sep="\n  ")
    save(given.json, report | {"wrong": wrong})


def copies(number: int, language: str, question: str, answer: str) -> list[Document]:
    """The answer, and two texts that differ from it in a character of the identifier."""
    name = re.findall(r"\{(.*)\}", answer)[0]
    out = []
    for copy in range(3):
        text = answer.replace(f"{{{name}}}", changed(name, copy))
        if number % 4 == 3:
            text = f"{LONG}\n\n{text}\n\n{LONG}"
        out.append(Document(f"{number}-{copy}", text, language=language))
    return out


def changed(name: str, copy: int) -> str:
    """The name, or (copies 1 and 2) one whose last or first digit or letter is another."""
    if not copy:
        return name
    places = [place for place, letter in enumerate(name) if letter.isdigit()]
    places = places or [place for place, letter in enumerate(name) if letter.isalpha()]
    place = places[-1] if copy == 1 else places[0]
    letter = name[place]
    other = str((int(letter) + 2) % 9 + 1) if letter.isdigit() else chr(ord(letter) + 1)
    return name[:place] + (other if other != letter else "0") + name[place + 1 :]


def others(paths: list[Path], count: int) -> list[Document]:
    texts: dict[str, None] = {}
    for path in paths:
        for row in read_rows(path):
            for text in row.get("pos") or [row.get("text", "")]:
                texts[text[:600]] = None
            if len(texts) >= count:
                break
    return [Document(f"text-{number}", text) for number, text in enumerate(texts) if text.strip()]


def measure(collection: Collection, asked: list[str], plain: list[str]) -> dict[str, Any]:
    first = dict.fromkeys(("sparse", "dense", "multi"), 0)
    for mode in first:
        found = collection.search(asked, k=1, mode=mode)  # type: ignore[arg-type]
        first[mode] = sum(right(number, hits) for number, hits in enumerate(found))
    weights = collection.weights
    found = collection.search(asked, k=10)
    report: dict[str, Any] = {f"{mode} alone, of {len(asked)}": n for mode, n in first.items()}
    report["first by the search"] = sum(right(number, hits) for number, hits in enumerate(found))
    report["wrong"] = [
        f"{question}: {hits[0].id} {hits[0].text[:60]!r}"
        for number, (question, hits) in enumerate(zip(asked, found, strict=True))
        if not right(number, hits)
    ]
    # a head without weight: the same sum, without what only a text can say
    vectors = collection.encoder.encode(asked, role="query")
    _, index = collection._newest()
    ranked = index.search(vectors, k=1, weights=weights)
    store = collection._documents
    tops = [store.chunks([rows[0].id])[rows[0].id].id for rows in ranked]
    report["first by the sum alone"] = sum(top == f"{n}-0" for n, top in enumerate(tops))
    ranked = index.search(collection.encoder.encode(plain, role="query"), k=10, weights=weights)
    same = 0
    for hits, rows in zip(collection.search(plain, k=10, chunks=True), ranked, strict=True):
        same += [hit.score for hit in hits] == [row.score for row in rows]
    report[f"unchanged without an identifier, of {len(plain)}"] = same
    for name, questions in (("with", asked), ("without", plain)):
        for heat in range(2):
            times = []
            for question in questions * (1 if not heat else 3):
                one = collection.encoder.encode([question], role="query")
                start = time.perf_counter()
                collection.search([question], vectors=one)
                times.append(time.perf_counter() - start)
        report[f"p50, ms, {name} an identifier"] = round(1000 * float(np.median(times)), 2)
    return report


def right(number: int, hits: list[Hit]) -> bool:
    return bool(hits) and hits[0].id == f"{number}-0"


if __name__ == "__main__":
    main()
