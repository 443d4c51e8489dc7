"""recipes/tercet-small/build_data.py on small clones made by hand, one for each kind of source."""

import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from tercet.errors import InputError
from tercet.rows import read_rows

RECIPE = Path(__file__).parent.parent / "recipes" / "tercet-small"


def _load():
    spec = importlib.util.spec_from_file_location("build_data", RECIPE / "build_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


build_data = _load()


class Desk:
    """Clones under a folder, and a sources.toml that takes from them."""

    def __init__(self, folder: Path) -> None:
        self.clones, self.to, self.sources = (
            folder / name for name in ("clones", "to", "sources.toml")
        )
        self.repositories: list[dict[str, Any]] = []

    def clone(self, name: str, files: dict[str, str | bytes], **facts: str) -> Path:
        """A repository with a commit, cloned as owner+name."""
        place = self.clones / name.replace("/", "+")
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(text if isinstance(text, bytes) else text.encode())
        git(place, "init", "--quiet")
        git(place, "add", ".")
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        git(place, *who, "commit", "--quiet", "--message", "files")
        commit = git(place, "rev-parse", "HEAD")[:12]
        self.repositories.append({"name": name, "commit": commit, "licence": "CC0", **facts})
        return place

    def build(self, *takes: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        """The report of a build from all clones, with the names that are alike filled in."""
        names = [repository["name"] for repository in self.repositories]
        filled = [{"source": "s", "repositories": names, **take} for take in takes]
        languages = {"afr": "af", "eng": "en", "bem": "bem", "pt_BR": "pt", "javanese": "jv"}
        languages |= {"english": "en", "glv": "gv"}
        facts = {"repository": self.repositories, "take": filled, "languages": languages}
        self.sources.write_text(tomli_w.dumps(facts), encoding="utf-8")
        report: list[dict[str, Any]] = build_data.build(
            self.clones, self.to, sources=self.sources, **options
        )
        return report

    def rows(self, kind: str, file: str, *paths: str, **take: Any) -> list[tuple[str, ...]]:
        """Query, text and language of the rows of one take, a raw text without a query."""
        self.build({"kind": kind, "file": file, "paths": list(paths), **take})
        rows = list(read_rows(self.to / f"{file}.jsonl.gz"))
        assert all(row["source"] == "s" and row.get("neg", []) == [] for row in rows)
        if file == "raw_paragraphs":
            return [(row["text"], row["lang"]) for row in rows]
        return [(row["query"], *row["pos"], row["lang"]) for row in rows]


def git(place: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(place), *command], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def squad_json(*articles: tuple[str, str, list[str]]) -> str:
    """SQuAD's form: title, paragraph and questions of articles."""
    paragraphs = [
        (title, [{"context": context, "qas": [{"question": text} for text in asked]}])
        for title, context, asked in articles
    ]
    return json.dumps({"data": [{"title": t, "paragraphs": part} for t, part in paragraphs]})


def packed(files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file.getvalue()


FINNISH = """<body><p><u><b>Asiakirja numero 0</b></u></p>
<p><b>Tekstin numero 0</b></p><p>Kuu on <font>pyöreä</font>.</p>
<p><b>Kysymys 0</b></p><p>Onko se?</p><p><b>Kysymys 1</b></p><p>Miksi?</p>
<p><b><u>Asiakirja numero 1</u></b></p>
<p><b>Tekstin numero 0</b></p><p>Testi.</p><p><b>Kysymys 0</b></p><p>Mitä?</p></body>"""
AFRIQA = {"context": "He died.", "question_lang": "Mwaka nshi?", "question_translated": "When?"}
MEDQUAD = """<?xml version="1.0"?><Document id="0000001" source="CDC"><QAPairs>
<QAPair pid="1"><Question>What is it ?</Question><Answer>A\n  fever.</Answer></QAPair>
<QAPair pid="2"><Question>Why ?</Question><Answer>Judged.</Answer></QAPair>
<QAPair pid="3"><Question>How ?</Question><Answer/></QAPair></QAPairs></Document>"""
PUBMEDQA = {"QUESTION": "Does it?", "CONTEXTS": ["Aims.", "Methods."], "LONG_ANSWER": "Yes"}
LINES = {"src.eng.txt": "Hello there.\nBye.\n", "ref.afr.txt": "Hallo daar.\nTotsiens.\n"}
NOVEL = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><front><p>Titel.</p></front><body>
<div><p>Es war <hi>einmal</hi>.</p><p>Und\n dann.</p><p>Ende.</p></div></body></text></TEI>"""
PEP = "PEP: 6\nTitle: Bug Fixes\nAuthor: A\n  B\n\nAbstract\n========\n\nOld *releases*.\n\n"
PEP += "Motivation\n==========\n\nThey are needed.\n"
LAW = "---\nTitle: Ein Gesetz\n---\n\n# Ein Gesetz (EG)\n\nFundstelle\n: x\n\n"
LAW += "## § 1 Zweck\n\nDer Zweck.\n\n## § 2a Ende\n\nDas Ende.\n"


@pytest.mark.parametrize(
    ("kind", "file", "files", "paths", "take", "rows"),
    [
        ("squad", "qa_all", {"html/000 fi.html": FINNISH}, ["html/*.html"],
         {"lang": "fi", "documents": 1},
         [("Onko se?", "Kuu on pyöreä.", "fi"), ("Miksi?", "Kuu on pyöreä.", "fi")]),
        ("afriqa", "qa_all", {"gold/bem/gold.afriqa.bem.en.train.json":
                              f"{json.dumps(AFRIQA)}\n{json.dumps(AFRIQA | {'context': None})}\n"},
         ["gold/*/*.train.json"], {},
         [("Mwaka nshi?", "He died.", "bem-en"), ("When?", "He died.", "en")]),
        ("medquad", "qa_all", {"9_CDC_QA/1.xml": MEDQUAD, "qrels.zip": packed(
            {"Q/All-qrels.txt": "1 2-Related CDC_0000001_Sec2.txt\n"})}, ["*_QA/*.xml"],
         {"lang": "en", "held_out": ["qrels.zip!Q/All-qrels*.txt"]},
         [("What is it ?", "A fever.", "en")]),
        ("pubmedqa", "qa_all", {"data.json": json.dumps({"1": PUBMEDQA})}, ["data.json"],
         {"lang": "en"}, [("Does it?", "Aims. Methods.", "en")]),
        ("lines", "parallel_ntrex", LINES, ["src.eng.txt", "ref.*.txt"], {},
         [("Hallo daar.", "Hello there.", "af-en"), ("Totsiens.", "Bye.", "af-en")]),
        ("lines", "raw_paragraphs", LINES, ["src.eng.txt", "ref.*.txt"], {"least": 15},
         [("Hello there. Bye.", "en"), ("Hallo daar. Totsiens.", "af")]),
        ("csv", "parallel_misc",
         {"mt/train.csv": ',javanese,english,label\n0,Sugeng enjing,"Good\nmorning",pos\n'},
         ["mt/*.csv"], {}, [("Sugeng enjing", "Good morning", "jv-en")]),
        ("tei", "raw_paragraphs", {"level1/a.xml": NOVEL}, ["level1/*.xml"],
         {"lang": "de", "least": 20}, [("Es war einmal. Und dann.", "de")]),
        ("markup", "pairs_unsup", {"pep-6.rst": PEP}, ["pep-*.rst"], {"lang": "en"},
         [("Bug Fixes: Abstract", "Old releases.", "en"),
          ("Bug Fixes: Motivation", "They are needed.", "en")]),
        ("markup", "long_docs", {"pep-6.rst": PEP}, ["pep-*.rst"], {"lang": "en"},
         [("Bug Fixes. Old releases.", "## Motivation\n\nThey are needed.", "en")]),
        ("markup", "pairs_unsup", {"l/eg/index.md": LAW}, ["l/*/index.md"],
         {"lang": "de", "drop": r"(?ms)^# .*?(?=^## )"},
         [("Ein Gesetz: Zweck", "Der Zweck.", "de"), ("Ein Gesetz: Ende", "Das Ende.", "de")]),
    ],
)  # fmt: skip
def test_sources_of_one_repository(desk, kind, file, files, paths, take, rows):
    desk.clone("o/r", files)
    assert desk.rows(kind, file, *paths, **take) == rows


def test_squad_gives_questions_titles_and_texts_without_those_of_tests(desk):
    articles = [("Moon", "It is\nround.", [" Is it? ", "Why?"]), ("Sun", "It shines.", ["How?"])]
    test = squad_json(("", "It  shines.", ["What does it do?"]))
    line = json.dumps({"context": "A line.", "question": "Is it one?"})
    archive = packed({"train.jsonl": line + "\n"})
    files = {"train.json": squad_json(*articles), "test.json": test, "data.zip": archive}
    desk.clone("o/squad", files)
    facts = {"lang": "no", "held_out": ["test.json"]}
    assert desk.rows("squad", "qa_all", "train.json", "data.zip!train.jsonl", **facts) == [
        ("Is it?", "It is round.", "no"),
        ("Why?", "It is round.", "no"),
        ("Is it one?", "A line.", "no"),
    ]
    assert desk.rows("squad", "pairs_unsup", "train.json", lang="no") == [
        ("Moon", "It is round.", "no"),
        ("Sun", "It shines.", "no"),
    ]
    assert desk.rows("squad", "raw_paragraphs", "train.json", **facts) == [("It is round.", "no")]


CATALOGUE = """msgid ""
msgstr "Content-Type: text/plain; charset=utf-8\\nLanguage: es\\n"

msgid "Library FAQ"
msgstr "Preguntas frecuentes"

msgid "How do I :func:`copy <copy.copy>` an object?"
msgstr "¿Cómo :func:`copio <copy.copy>` un objeto?"

msgid "Try ``copy``."
msgstr "Prueba ``copy``."

msgid "See `the guide <https://a.b>`_."
msgstr "Mira `la guía <https://a.b>`_."

#, fuzzy
msgid "Not sure."
msgstr "No es seguro."
"""


def test_po_gives_translations_questions_headings_texts_and_pages(desk):
    desk.clone("python/docs-es", {"faq/library.po": CATALOGUE}, lang="es")
    asked, answer = "¿Cómo copio un objeto?", "Prueba copy. Mira la guía."
    assert desk.rows("po", "parallel_docs", "*/*.po") == [
        ("Preguntas frecuentes", "Library FAQ", "es-en"),
        (asked, "How do I copy an object?", "es-en"),
        ("Prueba copy.", "Try copy.", "es-en"),
        ("Mira la guía.", "See the guide.", "es-en"),
    ]
    assert desk.rows("po", "qa_all", "faq/*.po") == [(asked, answer, "es")]
    assert desk.rows("po", "pairs_unsup", "faq/*.po") == [(asked, answer, "es")]
    assert desk.rows("po", "raw_paragraphs", "faq/*.po", least=25) == [
        (f"{asked} Prueba copy.", "es")
    ]
    assert desk.rows("po", "long_docs", "faq/*.po") == [
        (f"Preguntas frecuentes. {asked}", "Prueba copy.\n\nMira la guía.", "es")
    ]


def php(title: str, *paragraphs: str) -> str:
    texts = "".join(f"<para>{text}</para>" for text in paragraphs)
    return (
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY y "z">]>\n'
        f'<chapter xmlns="http://docbook.org/ns/docbook"><title>{title}</title>{texts}</chapter>'
    )


def test_docbook_aligns_pages_with_as_many_paragraphs(desk):
    english = php("Arrays", "An &array; <type>list</type>.", "Outer: <para>Inner.</para>")
    german = php("Felder", "Eine <type>Liste</type>.", "Außen: <para>Innen.</para>")
    desk.clone("php/doc-en", {"a.xml": english, "b.xml": php("More", "Text.")}, lang="en")
    other = {"a.xml": german, "b.xml": php("Mehr", "Text.", "Und mehr."), "c.xml": "<broken>"}
    desk.clone("php/doc-de", other, lang="de")
    sides = [("Felder", "Arrays"), ("Eine Liste.", "An list."), ("Außen:", "Outer:")]
    rows = [(*side, "de-en") for side in (*sides, ("Innen.", "Inner."))]
    assert desk.rows("docbook", "parallel_docs", "*.xml") == rows
    report = json.loads((desk.to / "report.json").read_text())
    assert report[0]["skipped"] == ["php/doc-de/c.xml: not XML: no element found: line 1, column 8"]


def test_docbook_gives_purposes_questions_texts_and_pages(desk):
    entry = """<refentry xmlns="http://docbook.org/ns/docbook"><refnamediv><refname>fill</refname>
    <refpurpose>Fill an array</refpurpose></refnamediv><refsect1><para>Fills it
    <programlisting>code();</programlisting> well.</para><para>Done.</para></refsect1></refentry>"""
    faq = """<qandaset><qandaentry><question><para>What is it?</para></question><answer>
    <para>A language.</para><para>Really.</para></answer></qandaentry></qandaset>"""
    desk.clone("php/doc-en", {"ref/a.xml": entry, "faq/b.xml": faq}, lang="en")
    for file, path, row in (
        ("pairs_unsup", "ref/*.xml", ("fill: Fill an array", "Fills it well. Done.", "en")),
        ("qa_all", "faq/*.xml", ("What is it?", "A language. Really.", "en")),
        ("long_docs", "ref/*.xml", ("fill: Fill an array. Fills it well.", "Done.", "en")),
    ):
        assert desk.rows("docbook", file, path) == [row]
    texts = desk.rows("docbook", "raw_paragraphs", "ref/*.xml", least=10)
    assert texts == [("Fills it well.", "en")]


def test_lines_draw_pairs_without_english(desk):
    desk.clone("o/ntrex", {**LINES, "ref.aze-Latn.txt": "Salam.\n\n"})
    rows = desk.rows("lines", "parallel_ntrex", "src.eng.txt", "ref.*.txt", draws=9)
    assert ("Salam.", "Hello there.", "aze-Latn-en") in rows
    drawn = [row for row in rows if not row[2].endswith("-en")]
    pair = ("Hallo daar.", "Salam.", "af-aze-Latn")
    assert sorted(drawn) == [pair, (pair[1], pair[0], "aze-Latn-af")]


def test_bible_pairs_verses_and_joins_them(desk):
    verse = '<seg id="b.{}" type="verse">\n {} \n</seg>'
    verses = verse.format("1SA.1.1", "Va dooinney.") + verse.format("JDG.1.2", "As dooyrt.")
    xml = f'<cesDoc><language id="gv" iso639="glv"/><text>{verses}</text></cesDoc>'
    part = {"type": "line text", "chapterNumber": 1, "verseNumber": 1}
    samuel = [{"type": "break"}, {**part, "value": "A man "}, {**part, "value": "was there. "}]
    judges = [{**part, "value": "Not in Manx."}]
    english = {"json/1samuel.json": json.dumps(samuel), "json/judges.json": json.dumps(judges)}
    desk.clone("o/bibles", {"bibles/Manx-PART.xml": xml})
    desk.clone("o/web", english)
    assert desk.rows("bible", "parallel_misc", "bibles/*.xml", "json/*.json") == [
        ("Va dooinney.", "A man was there.", "gv-en")
    ]
    assert desk.rows("bible", "raw_paragraphs", "bibles/*.xml", least=20) == [
        ("Va dooinney. As dooyrt.", "gv")
    ]


def test_tldr_aligns_examples_and_describes_commands(desk):
    page = (
        "# tar\n\n> {}\n> More: <http://a.b>.\n\n- {}:\n\n`tar cf {{{{a.tar}}}}`\n\n- {}:\n\n`t`\n"
    )
    files = {
        "pages.en/common/tar.md": ("Archiving utility.", "[c]reate an `archive`", "List it"),
        "pages.pt_BR/common/tar.md": ("Arquivador.", "Criar um", "Listar"),
        "pages.pt_BR/common/only.md": ("Sem original.", "Um", "Dois"),
    }
    desk.clone("o/tldr", {name: page.format(*texts) for name, texts in files.items()})
    assert desk.rows("tldr", "parallel_misc", "pages.*/*/*.md") == [
        ("Arquivador.", "Archiving utility.", "pt-en"),
        ("Criar um", "[c]reate an archive", "pt-en"),
        ("Listar", "List it", "pt-en"),
    ]
    assert desk.rows("tldr", "pairs_unsup", "pages.*/common/tar.md") == [
        ("Archiving utility.", "tar. [c]reate an archive; List it", "en"),
        ("Arquivador.", "tar. Criar um; Listar", "pt"),
    ]


def test_stories_are_aligned_by_number_and_those_for_some_uses_left_out(desk):
    story = "# {}\n\n##\n{}\n\n##\n{}\n\n##\n* License: [{}]\n* Language: x\n"
    files = {
        "en/0001_a.md": story.format("A tall man", "He was\ntall.", "Very.", "CC-BY"),
        "sw/0001_b.md": story.format("Mtu", "Alikuwa mrefu.", "Sana.", "CC-BY"),
        "xh/0001_c.md": story.format("Indoda", "Inde.", "Kakhulu.", "CC-BY-NC"),
    }
    desk.clone("o/asp", files)
    sides = [("Mtu", "A tall man"), ("Alikuwa mrefu.", "He was tall."), ("Sana.", "Very.")]
    rows = desk.rows("stories", "parallel_misc", "*/[0-9]*.md")
    assert rows == [(*side, "sw-en") for side in sides]
    assert desk.rows("stories", "pairs_unsup", "*/[0-9]*.md") == [
        ("A tall man", "He was tall. Very.", "en"),
        ("Mtu", "Alikuwa mrefu. Sana.", "sw"),
    ]


TAKE = {"kind": "squad", "file": "qa_all", "paths": ["a.json"], "lang": "en"}


def test_what_is_left_out_is_counted(desk, tmp_path):
    long = "a question that is in an evaluation set and is long enough to be told from others"
    asked = ["One?", "One?", "x", "Two?", "Three?", long]
    desk.clone("o/q", {"a.json": squad_json(("", "A text.", asked))})
    held = tmp_path / "eval" / "held"
    held.mkdir(parents=True)
    (held / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": long.upper()}) + "\n")
    (report,) = desk.build({**TAKE, "rows": 7}, against=tmp_path / "eval")
    counted = {"rows": 3, "read": 6, "short": 1, "repeated": 1, "over": 0, "shared": 1}
    assert report == {"file": "qa_all", "source": "s", "model": 7, "skipped": []} | counted
    assert json.loads((desk.to / "report.json").read_text()) == [report]
    (report,) = desk.build({**TAKE, "most": 2})
    assert (report["rows"], report["over"]) == (2, 2)
    first = (desk.to / "qa_all.jsonl.gz").read_bytes()
    desk.build({**TAKE, "most": 2})
    assert (desk.to / "qa_all.jsonl.gz").read_bytes() == first  # the same clones, the same bytes
    (report,) = desk.build({**TAKE, "most_per_language": 1, "least": 5})
    assert (report["rows"], report["over"]) == (1, 3)


def test_only_makes_some_files_or_sources(desk):
    desk.clone("o/q", {"a.json": squad_json(("", "A text.", ["Which?"]))})
    takes = [TAKE, {**TAKE, "file": "raw_paragraphs", "source": "other"}]
    assert [report["source"] for report in desk.build(*takes, only=["qa_all"])] == ["s"]
    assert not (desk.to / "raw_paragraphs.jsonl.gz").exists()
    assert [report["source"] for report in desk.build(*takes, only=["other"])] == ["other"]
    with pytest.raises(InputError, match=r"no file or source qa; there are qa_all, s, "):
        desk.build(*takes, only=["qa"])


def test_missing_and_wrong_clones_are_told_together_with_the_commands(desk):
    place = desk.clone("o/wrong", {"a.json": squad_json(("", "A text.", ["Which?"]))})
    (facts,) = desk.repositories
    head, facts["commit"] = facts["commit"], "0123456789ab"
    desk.repositories.append({"name": "o/gone", "commit": "ba9876543210", "licence": "MIT"})
    with pytest.raises(InputError) as error:
        desk.build(TAKE)
    wrong, gone = str(error.value).splitlines()
    assert wrong == (
        f"{place} is at {head}, not at 0123456789ab: git -C {place} checkout 0123456789ab "
        "(or go on with --any-commit)"
    )
    there = desk.clones / "o+gone"
    assert gone == (
        f"no clone of o/gone: git clone https://github.com/o/gone {there} && "
        f"git -C {there} checkout ba9876543210"
    )
    assert not desk.to.exists()
    desk.repositories.pop()
    assert [report["rows"] for report in desk.build(TAKE, any_commit=True)] == [1]
    place.rename(desk.clones / "wrong")  # the name alone, its files at another commit
    facts["tree"] = head
    assert [report["rows"] for report in desk.build(TAKE)] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": ["b.json"]}, r"s: o/q has no b\.json: check what is checked out"),
        ({"held_out": ["test.json"]}, r"has no test\.json"),
        ({}, r"s: its files are not what 'squad' reads"),
        ({"kind": "tei2"}, r"'tei2' is none of squad, "),
        ({"repositories": ["o/other"]}, r"no \[\[repository\]\] o/other"),
        ({"pathes": ["a.json"]}, r"unexpected keyword argument 'pathes'"),
    ],
)
def test_an_entry_that_means_nothing_is_told(desk, change, message):
    desk.clone("o/q", {"a.json": '{"rows": []}'})
    with pytest.raises(InputError, match=message):
        desk.build({**TAKE, **change})
    assert not list(desk.to.glob("*"))


def test_sources_name_every_repository_and_add_up_to_the_folder():
    repositories, takes, languages = build_data.read_sources(RECIPE / "sources.toml")
    facts = build_data.tomllib.loads((RECIPE / "sources.toml").read_text(encoding="utf-8"))
    assert {name for take in takes for name in take.repositories} == repositories.keys()
    assert all(len(one.commit) == 12 and one.licence for one in repositories.values())
    left = facts["left_out"]
    for output in facts["output"]:
        rows = sum(take.rows for take in takes if take.file == output["file"])
        rows += sum(source["files"].get(output["file"], 0) for source in left)
        # the README of the folder counts 7 long documents more than there are
        assert rows - output["rows"] == (7 if output["file"] == "long_docs" else 0)
    assert languages["afr"] == "af"
    assert "udhr" in {source["source"] for source in left}


def test_the_command_tells_what_is_missing_in_words(tmp_path, monkeypatch):
    command = ["build_data.py", str(tmp_path), "--to", str(tmp_path / "to"), "--only", "NusaX"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"no clone of IndoNLP/nusax: git clone https://"):
        build_data.main()
