"""Translations: TMX, PO and aligned files, their directions, and what is wrong with them."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from tercet.errors import InputError
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


def texts(made: tuple[list[dict[str, Any]], Any]) -> list[tuple[str, str, str]]:
    return [(row["lang"], row["query"], row["pos"][0]) for row in made[0]]


def skipped(made: tuple[Any, dict[str, Any]]) -> dict[str, int]:
    return {reason: facts["count"] for reason, facts in made[1]["left_out"].items()}


# TMX


def test_a_memory_gives_the_source_language_and_each_other(make: Make, tmp_path: Path) -> None:
    made = make(write(tmp_path / "m.tmx", TMX))
    assert texts(made) == [("en-US-de", ENGLISH, GERMAN), ("en-US-pt", ENGLISH, PORTUGUESE)]
    assert made[0][0]["id"] == "m.tmx:4"
    assert skipped(made) == {
        "a unit in one language alone": 1,
        "a translation with an empty side": 1,
        "a translation without a word on a side": 1,
        "a translation whose sides are the same": 1,
    }


def test_the_directions_are_those_asked_for(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "m.tmx", TMX)
    there, back = ("de-DE-pt", GERMAN, PORTUGUESE), ("pt-BR-de", PORTUGUESE, GERMAN)
    assert texts(make(path, directions=["de-pt"])) == [there]
    assert texts(make(path, directions=["de:pt-BR"], both=True)) == [there, back]
    assert sorted(texts(make(path, directions=["pt-de", "de-pt"]))) == [there, back]
    rows, report = make(path, directions=["de-fr"])
    assert rows == []
    (facts,) = report["left_out"].values()
    assert facts["examples"][0]["text"] == "no fr, it has en-US, de-DE, pt-BR"


@pytest.mark.parametrize(
    ("old", "new", "line", "reason", "rows"),
    [
        (TMX[-40:], "", 11, "not well-formed XML", 2),
        ("Only", "&lt;\x01", 8, "not well-formed", 2),
        (TMX, "<html><p>Hello</p></html>", 1, "its root is <html>", 0),
        (TMX, "", 1, "no element found", 0),
        (
            'SYSTEM "tmx14.dtd"',
            '[<!ENTITY a "aa"><!ENTITY b "&a;&a;">]',
            2,
            "it declares an entity (a)",
            0,
        ),
        (' lang="pt_br"', "", 4, "without a language in xml:lang", 1),
    ],
)
def test_a_broken_memory_is_named_by_line(
    make: Make, tmp_path: Path, old: str, new: str, line: int, reason: str, rows: int
) -> None:
    made, report = make(write(tmp_path / "m.tmx", TMX.replace(old, new)))
    (problem,) = report["first_problems"]
    assert problem["where"] == f"m.tmx:{line}"
    assert reason in problem["reason"]
    assert len(made) == rows


def test_memories_in_other_encodings_packed_and_nothing_outside(make: Make, tmp_path: Path) -> None:
    expected = texts(make(write(tmp_path / "m.tmx", TMX)))
    (tmp_path / "n.tmx").write_bytes(TMX.replace("UTF-8", "UTF-16").encode("utf-16"))
    assert texts(make(tmp_path / "n.tmx")) == expected
    write(tmp_path / "secret.txt", "the secret")
    text = TMX.replace('"tmx14.dtd"', f'"file://{tmp_path}/secret.txt"')
    assert texts(make(write(tmp_path / "o.tmx", text))) == expected
    packed = tmp_path / "p.tmx.gz"
    packed.write_bytes(gzip.compress(TMX.encode()))
    assert texts(make(packed)) == expected
    packed.write_bytes(gzip.compress(TMX.encode())[:-30])
    assert make(packed)[1]["problems"] == 1


# PO


def test_a_catalogue_gives_what_is_translated_for_sure(make: Make, tmp_path: Path) -> None:
    made = make(write(tmp_path / "x.po", PO))
    assert texts(made) == [
        ("en-de", 'Open the "garden" door', "Öffne die »Gartentür«"),
        ("en-de", "one big apple", "ein großer Apfel"),
        ("en-de", "%d big apples", "%d große Äpfel"),
    ]
    assert skipped(made) == {
        "a fuzzy translation": 1,
        "a message without translation": 1,
        "a message that is a key": 1,
        "an obsolete message": 1,
    }
    (tmp_path / "x.po").write_bytes(PO.replace("UTF-8", "ISO-8859-1").encode("latin-1"))
    assert texts(make(tmp_path / "x.po")) == texts(made)


NO_LANGUAGE = PO.replace("Language: de_AT", "X-Language: x")


def test_the_language_of_a_catalogue_is_also_its_place(make: Make, tmp_path: Path) -> None:
    places = {"de/LC_MESSAGES/x.po": "de", "zh_TW.Big5/LC_MESSAGES/x.po": "zh", "po/de.po": "de"}
    for place, language in {**places, "x.de.po": "de"}.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        assert {row["lang"] for row in make(write(path, NO_LANGUAGE))[0]} == {f"en-{language}"}


def test_the_language_of_a_catalogue_is_asked_for(make: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "catalogue.po", NO_LANGUAGE)
    rows, report = make(path)
    assert not rows
    assert "give --direction" in report["first_problems"][0]["reason"]
    assert {row["lang"] for row in make(path, directions=["en-de"])[0]} == {"en-de"}
    (first, *_) = make(path, directions=["de-en"])[0]
    assert (first["lang"], first["pos"]) == ("de-en", ['Open the "garden" door'])
    (first, *_) = make(write(path, PO), directions=["fr-de"])[0]
    assert (first["lang"], first["query"]) == ("fr-de", 'Open the "garden" door')


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('msgid "Not sure about this one"', b'msgid "Not "sure" about this one', "not PO"),
        ('msgid "Not sure about this one"', b"nonsense", "not PO"),
        ("Nicht sicher", b"Gr\xfc\xdfe", "not utf-8"),
    ],
)
def test_a_broken_catalogue_is_named_by_line(
    make: Make, tmp_path: Path, old: str, new: bytes, reason: str
) -> None:
    (tmp_path / "x.po").write_bytes(PO.encode().replace(old.encode(), new))
    rows, report = make(tmp_path / "x.po")
    assert not rows
    (problem,) = report["first_problems"]
    assert problem["where"] == f"x.po:{PO.count(chr(10), 0, PO.index(old)) + 1}"
    assert reason in problem["reason"]


# Aligned files

GREETINGS = {
    "de": ["Guten Morgen, Welt", "", "Zeile\u2028mit Umbruch", "Gute Nacht, Welt"],
    "en": ["Good morning, world", "", "Line\x85with break", "Good night, world"],
    "fr": ["Bonjour, le monde", "", "Ligne avec saut", "Bonne nuit, le monde"],
}


def aligned(folder: Path, **languages: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for language, lines in languages.items():
        (folder / f"news.{language}").write_text("".join(f"{line}\n" for line in lines))
    return folder


def test_aligned_files_are_read_line_by_line(make: Make, tmp_path: Path) -> None:
    folder = aligned(tmp_path / "mt", **GREETINGS)
    made = make(folder, structures=["translations"])
    assert [lang for lang, _, _ in texts(made)] == 3 * ["de-en", "de-fr"]
    assert (made[0][2]["query"], made[0][2]["id"]) == ("Zeile\nmit Umbruch", "news.de:3")
    assert make(folder / "news.de", folder / "news.en", structures=["translations"])[0] == [
        {**row, "source": "news"} for row in made[0] if row["lang"] == "de-en"
    ]
    (folder / "news.de").write_bytes(b"Gr\xfc\xdfe\n\nZeile mit Wort\nGute Nacht, Welt\n")
    rows, report = make(folder, structures=["translations"])
    assert [row["id"] for row in rows] == 2 * ["news.de:3"] + 2 * ["news.de:4"]
    assert [problem["where"] for problem in report["first_problems"]] == ["news.de:1"]


def test_files_without_a_language_need_a_direction(make: Make, tmp_path: Path) -> None:
    folder = aligned(tmp_path / "mt", de=GREETINGS["de"], en=GREETINGS["en"])
    left = (folder / "news.de").rename(folder / "left.text")
    right = (folder / "news.en").rename(folder / "right.text")
    with pytest.raises(InputError, match="--direction"):
        make(left, right, kind="text")
    with pytest.raises(InputError, match="no other file is aligned with it"):
        make(left, kind="text")
    made = make(left, right, kind="text", directions=["de-en"], both=True)
    assert [lang for lang, _, _ in texts(made)] == 3 * ["de-en", "en-de"]


@pytest.mark.parametrize("parts", [1, 3])
def test_files_of_different_length_give_nothing(make: Make, tmp_path: Path, parts: int) -> None:
    german = [f"Das ist die Zeile Nummer {number}" for number in range(900)]
    english = [f"This is the line of number {number}" for number in range(900)]
    folder = aligned(tmp_path / "mt", de=german, en=[*english, ""])
    rows, report = make(folder, structures=["translations"], parts=parts)
    assert (len(rows), report["problems"]) == (900, 0)  # empty lines at the end do not count
    aligned(folder, de=german, en=english[:-1])
    rows, report = make(folder, structures=["translations"], parts=parts)
    assert not rows
    (problem,) = report["first_problems"]
    assert problem["where"] == "news.de:900"
    assert "news.en ends after 899 lines, news.de goes on" in problem["reason"]


def test_aligned_files_are_found_among_others(make: Make, tree: Path) -> None:
    aligned(tree, de=GREETINGS["de"], en=GREETINGS["en"])
    for name in ("logo.png", "logo.svg", "README", "notes.it", "de.txt", "fr.txt"):
        (tree / name).write_text("x")
    _, report = make(tree, structures=["heading-section", "translations"])
    assert report["structures"]["translations"]["de-en"] == 3
    assert report["files"]["text"] == 1
    assert sum(report["passed_over"].values()) == 7  # tool.py too
    assert "text" not in make(tree)[1]["files"]
