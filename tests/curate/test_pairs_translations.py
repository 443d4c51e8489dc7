"""Translations: TMX, PO and aligned files, their directions, and what is wrong with them."""

import gzip
from pathlib import Path

import pytest

from tests.curate.conftest import Make

TMX = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en-US"/><body>
<tu><tuv xml:lang="de-DE"><seg>Das ist <bpt i="1">&lt;b&gt;</bpt>sehr<ept i="1">&lt;/b&gt;</ept>
 gut &amp; <hi>schön</hi>.</seg></tuv>
<tuv xml:lang="en-US"><seg>This is very good &amp; nice.</seg></tuv>
<tuv lang="pt_br"><seg>Isto é muito bom&nbsp;e bonito.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Only one side here.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>One side is empty.</seg></tuv><tuv xml:lang="de"><seg/></tuv></tu>
<tu><tuv xml:lang="en"><seg>2024-01-01 12:30</seg></tuv><tuv xml:lang="de"><seg>1.1.</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Both the same.</seg></tuv><tuv xml:lang="de"><seg>Both the same.</seg></tuv></tu>
</body></tmx>
"""  # noqa: E501
ENGLISH, GERMAN = "This is very good & nice.", "Das ist sehr\n gut & schön."
PORTUGUESE = "Isto é muito bom\u00a0e bonito."
PO = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Language: de_AT\\n"
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

msgid "Open the \\"garden\\" door"
msgstr ""
"Öffne die "
"»Gartentür«"

msgid "one big apple"
msgid_plural "%d big apples"
msgstr[0] "ein großer Apfel"
msgstr[1] "%d große Äpfel"

#, fuzzy
msgid "Not sure about this one"
msgstr "Nicht sicher"

msgid "Not translated at all"
msgstr ""

msgid "app.menu.open_file"
msgstr "Datei öffnen"

#~ msgid "An old one of before"
#~ msgstr "Eine alte von früher"
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def texts(made: tuple[list[dict[str, object]], object]) -> list[tuple[object, object, object]]:
    return [(row["lang"], row["query"], row["pos"][0]) for row in made[0]]  # type: ignore[index]


# TMX


def test_a_memory_gives_the_source_language_and_each_other(make: Make, tmp_path: Path) -> None:
    made = make(write(tmp_path / "m.tmx", TMX))
    assert texts(made) == [
        ("en-US-de", ENGLISH, GERMAN),
        ("en-US-pt", ENGLISH, PORTUGUESE),
    ]
    assert {reason: found["count"] for reason, found in made[1]["left_out"].items()} == {
        "a unit in one language alone": 1,
        "a translation with an empty side": 1,
        "a translation without a word on a side": 1,
        "a translation whose sides are the same": 1,
    }
    assert made[0][0]["id"] == "m.tmx:4"


def test_the_directions_are_those_asked_for(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "m.tmx", TMX)
    wanted = [("de-DE-pt", GERMAN, PORTUGUESE), ("pt-BR-de", PORTUGUESE, GERMAN)]
    assert texts(make(path, directions=["de-pt"])) == wanted[:1]
    assert texts(make(path, directions=["de:pt-BR"], both=True)) == wanted
    assert sorted(texts(make(path, directions=["pt-de", "de-pt"]))) == sorted(wanted)
    rows, report = make(path, directions=["de-fr"])
    assert rows == []
    (left,) = report["left_out"].values()
    assert left["examples"][0]["text"] == "no fr, it has en-US, de-DE, pt-BR"


@pytest.mark.parametrize(
    ("text", "where", "says", "rows"),
    [
        (TMX[:-40], 11, "not well-formed XML", 2),
        (TMX.replace("<body>", "<body><x>"), 12, "mismatched tag", 2),
        (TMX.replace("Only", "&lt;\x01"), 8, "not well-formed", 2),
        ("<html><p>Hello</p></html>", 1, "not TMX: its root is <html>", 0),
        ("", 1, "no element found", 0),
        (
            TMX.replace('SYSTEM "tmx14.dtd"', '[<!ENTITY a "aa"><!ENTITY b "&a;&a;">]'),
            2,
            "it declares an entity (a)",
            0,
        ),
        (TMX.replace(' lang="pt_br"', ""), 4, "without a language in xml:lang", 1),
        (TMX.replace("pt_br", "xx"), 4, "'xx' is not a language", 1),
    ],
)
def test_a_broken_memory_is_named_by_line(
    make: Make, tmp_path: Path, text: str, where: int, says: str, rows: int
) -> None:
    made, report = make(write(tmp_path / "m.tmx", text))
    (problem,) = report["first_problems"]
    assert problem["where"] == f"m.tmx:{where}"
    assert says in problem["reason"]
    assert len(made) == rows


def test_nothing_outside_a_memory_is_read(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "secret.txt", "the secret")
    text = TMX.replace('"tmx14.dtd"', f'"file://{tmp_path}/secret.txt"')
    assert texts(make(write(tmp_path / "m.tmx", text))) == texts(
        make(write(tmp_path / "n.tmx", TMX))
    )


def test_memories_in_other_encodings_and_packed(make: Make, tmp_path: Path) -> None:
    expected = texts(make(write(tmp_path / "m.tmx", TMX)))
    (tmp_path / "n.tmx").write_bytes(TMX.replace("UTF-8", "UTF-16").encode("utf-16"))
    assert texts(make(tmp_path / "n.tmx")) == expected
    (tmp_path / "o.tmx.gz").write_bytes(gzip.compress(TMX.encode()))
    assert texts(make(tmp_path / "o.tmx.gz")) == expected
    (tmp_path / "o.tmx.gz").write_bytes(gzip.compress(TMX.encode())[:-30])
    assert make(tmp_path / "o.tmx.gz")[1]["problems"] == 1


# PO


def test_a_catalogue_gives_what_is_translated_for_sure(make: Make, tmp_path: Path) -> None:
    made = make(write(tmp_path / "x.po", PO))
    assert texts(made) == [
        ("en-de", 'Open the "garden" door', "Öffne die »Gartentür«"),
        ("en-de", "one big apple", "ein großer Apfel"),
        ("en-de", "%d big apples", "%d große Äpfel"),
    ]
    assert {reason: found["count"] for reason, found in made[1]["left_out"].items()} == {
        "a fuzzy translation": 1,
        "a message without translation": 1,
        "a message that is a key": 1,
        "an obsolete message": 1,
    }


@pytest.mark.parametrize("place", ["de/LC_MESSAGES/x.po", "po/de.po", "x.de.po"])
def test_the_language_of_a_catalogue_is_also_its_place(
    make: Make, tmp_path: Path, place: str
) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, PO.replace("Language: de_AT", "X-Language: x"))
    assert {row["lang"] for row in make(path)[0]} == {"en-de"}


def test_the_language_of_a_catalogue_is_asked_for(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "catalogue.po", PO.replace("Language: de_AT", "X-Language: x"))
    rows, report = make(path)
    assert not rows
    assert "its language is not said in its header: give --direction" in str(
        report["first_problems"]
    )
    assert {row["lang"] for row in make(path, directions=["en-de"])[0]} == {"en-de"}
    (first, *_) = make(path, directions=["de-en"])[0]
    assert (first["lang"], first["pos"]) == ("de-en", ['Open the "garden" door'])
    write(path, PO)
    (first, *_) = make(path, directions=["fr-de"])[0]
    assert (first["lang"], first["query"]) == ("fr-de", 'Open the "garden" door')


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('msgid "Not sure about this one"', 'msgid "Not sure about this one'),
        ('msgid "Not sure about this one"', 'msgid "Not "sure" about this one"'),
        ('msgid "Not sure about this one"', "nonsense"),
        ("msgstr[0]", "msgstr[x]"),
    ],
)
def test_a_broken_catalogue_is_named_by_line(
    make: Make, tmp_path: Path, old: str, new: str
) -> None:
    rows, report = make(write(tmp_path / "x.po", PO.replace(old, new)))
    line = PO.count("\n", 0, PO.index(old)) + 1
    assert not rows
    (problem,) = report["first_problems"]
    assert problem["where"] == f"x.po:{line}"
    assert problem["reason"].startswith("not PO: ")


def test_a_catalogue_in_another_encoding(make: Make, tmp_path: Path) -> None:
    expected = texts(make(write(tmp_path / "x.po", PO)))
    (tmp_path / "x.po").write_bytes(PO.replace("UTF-8", "ISO-8859-1").encode("latin-1"))
    assert texts(make(tmp_path / "x.po")) == expected
    (tmp_path / "x.po").write_bytes(PO.encode("latin-1"))
    (problem,) = make(tmp_path / "x.po")[1]["first_problems"]
    assert problem["where"] == "x.po:9"
    assert "not utf-8" in problem["reason"]


# aligned files


def aligned(folder: Path, **languages: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for language, lines in languages.items():
        (folder / f"news.{language}").write_text("".join(f"{line}\n" for line in lines))
    return folder


GREETINGS = {
    "de": ["Guten Morgen, Welt", "", "Zeile\u2028mit Umbruch", "Gute Nacht, Welt"],
    "en": ["Good morning, world", "", "Line\x85with break", "Good night, world"],
    "fr": ["Bonjour, le monde", "", "Ligne avec saut", "Bonne nuit, le monde"],
}


def test_aligned_files_are_read_line_by_line(make: Make, tmp_path: Path) -> None:
    folder = aligned(tmp_path / "mt", **GREETINGS)
    made = make(folder, structures=["translations"])
    assert [lang for lang, _, _ in texts(made)] == 3 * ["de-en", "de-fr"]
    assert made[0][2]["query"] == "Zeile\nmit Umbruch"
    assert made[0][2]["id"] == "news.de:3"
    assert make(folder / "news.de", folder / "news.en", structures=["translations"])[0] == [
        {**row, "source": "news"} for row in made[0] if row["lang"] == "de-en"
    ]


def test_files_without_a_language_need_a_direction(make: Make, tmp_path: Path) -> None:
    folder = aligned(tmp_path / "mt", **GREETINGS)
    for old, new in (("news.de", "left.text"), ("news.en", "right.text")):
        (folder / old).rename(folder / new)
    made = make(
        folder / "left.text", folder / "right.text", kind="text", directions=["de-en"], both=True
    )
    assert [lang for lang, _, _ in texts(made)] == 3 * ["de-en", "en-de"]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("lines", [3, 2000])
def test_files_of_different_length_give_nothing(
    make: Make, tmp_path: Path, parts: int, lines: int
) -> None:
    german = [f"Das ist die Zeile Nummer {number}" for number in range(lines)]
    english = [f"This is the line of number {number}" for number in range(lines)]
    folder = aligned(tmp_path / "mt", de=german, en=[*english, ""])
    rows, report = make(folder, structures=["translations"], parts=parts)
    assert (len(rows), report["problems"]) == (lines, 0)  # empty lines at the end do not count
    aligned(folder, de=german, en=english[:-1])
    rows, report = make(folder, structures=["translations"], parts=parts)
    assert not rows
    (problem,) = report["first_problems"]
    assert problem["where"] == f"news.de:{lines}"
    assert f"news.en ends after {lines - 1} lines, news.de goes on" in problem["reason"]


def test_a_line_in_another_encoding_is_named(make: Make, tmp_path: Path) -> None:
    folder = aligned(tmp_path / "mt", de=GREETINGS["de"], en=GREETINGS["en"])
    (folder / "news.de").write_bytes(b"Gr\xfc\xdfe\n\nZeile mit Wort\nGute Nacht, Welt\n")
    rows, report = make(folder, structures=["translations"])
    assert [row["id"] for row in rows] == ["news.de:3", "news.de:4"]
    (problem,) = report["first_problems"]
    assert problem["where"] == "news.de:1"


def test_other_files_of_a_folder_are_no_translations(make: Make, tmp_path: Path) -> None:
    folder = aligned(tmp_path / "mt", de=GREETINGS["de"], en=GREETINGS["en"])
    for name in ("logo.png", "logo.svg", "README", "notes.it", "de.txt", "fr.txt"):
        (folder / name).write_text("x")
    _, report = make(folder, structures=["translations"])
    assert report["files"] == {"text": 1}
    assert sum(report["passed_over"].values()) == 6


def test_aligned_files_are_found_beside_other_structures(
    make: Make, tree: Path, tmp_path: Path
) -> None:
    aligned(tree, de=GREETINGS["de"], en=GREETINGS["en"])
    _, report = make(tree, structures=["heading-section", "translations"])
    assert report["structures"]["translations"]["de-en"] == 3
    assert "text" not in make(tree)[1]["files"]
