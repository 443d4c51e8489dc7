"""recipes/tercet-small/build_data.py on small clones made by hand, one for each kind of source."""

import gzip
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
        names = [one["name"] for one in self.repositories]
        filled = [{"source": "s", "repositories": names, **take} for take in takes]
        languages = {"afr": "af", "eng": "en", "glv": "gv", "bem": "bem", "pt_BR": "pt"}
        languages |= {"english": "en", "javanese": "jv"}
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
    return json.dumps(
        {
            "data": [
                {
                    "title": title,
                    "paragraphs": [{"context": context, "qas": [{"question": q} for q in asked]}],
                }
                for title, context, asked in articles
            ]
        }
    )


def packed(files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file.getvalue()


def test_squad_gives_questions_titles_and_texts_without_those_of_tests(desk):
    articles = [("Moon", "It is\nround.", [" Is it? ", "Why?"]), ("Sun", "It shines.", ["How?"])]
    test = squad_json(("", "It  shines.", ["What does it do?"]))
    desk.clone("o/squad", {"train.json": squad_json(*articles), "test.json": test})
    facts = {"lang": "no", "held_out": ["test.json"]}
    assert desk.rows("squad", "qa_all", "train.json", **facts) == [
        ("Is it?", "It is round.", "no"),
        ("Why?", "It is round.", "no"),
    ]
    assert desk.rows("squad", "pairs_unsup", "train.json", lang="no") == [
        ("Moon", "It is round.", "no"),
        ("Sun", "It shines.", "no"),
    ]
    assert desk.rows("squad", "raw_paragraphs", "train.json", **facts) == [("It is round.", "no")]


def test_squad_reads_an_article_with_one_paragraph_and_lines_in_an_archive(desk):
    whole = {"data": [{"paragraphs": {"context": "One text.", "qas": [{"question": "Which?"}]}}]}
    line = json.dumps({"context": "A line.", "question": "Is it one?"})
    archive = packed({"data/train.jsonl": line + "\n", "data/test.jsonl": line * 2})
    desk.clone("o/q", {"dev.json": json.dumps(whole), "data.zip": archive})
    assert desk.rows("squad", "qa_all", "dev.json", "data.zip!data/train.jsonl", lang="th") == [
        ("Which?", "One text.", "th"),
        ("Is it one?", "A line.", "th"),
    ]


def test_squad_reads_translated_pages_up_to_a_document(desk):
    page = """<body><p><u><b>Asiakirja numero 0</b></u></p>
    <p><b>Tekstin numero 0</b></p><p>Kuu on <font>pyöreä</font>.</p>
    <p><b>Kysymys 0</b></p><p>Onko se?</p><p><b>Kysymys 1</b></p><p>Miksi?</p>
    <p><b>Teksti numero 1</b></p><p>Toinen teksti.</p><p><b>Kysymys 0</b></p><p>Mikä?</p>
    <p><b><u>Asiakirja numero 1</u></b></p>
    <p><b>Tekstin numero 0</b></p><p>Testi.</p><p><b>Kysymys 0</b></p><p>Mitä?</p></body>"""
    desk.clone("o/fi", {"html/000 fi.html": page})
    found = [
        ("Onko se?", "Kuu on pyöreä.", "fi"),
        ("Miksi?", "Kuu on pyöreä.", "fi"),
        ("Mikä?", "Toinen teksti.", "fi"),
    ]
    assert desk.rows("squad", "qa_all", "html/*.html", lang="fi", documents=1) == found
    last = ("Mitä?", "Testi.", "fi")
    assert desk.rows("squad", "qa_all", "html/*.html", lang="fi") == [*found, last]


def test_afriqa_asks_in_both_languages(desk):
    row = {"context": "He died.", "question_lang": "Mwaka nshi?", "question_translated": "When?"}
    lines = f"{json.dumps(row)}\n{json.dumps(row | {'context': None})}\n"
    desk.clone("o/afriqa", {"gold/bem/gold.afriqa.bem.en.train.json": lines})
    assert desk.rows("afriqa", "qa_all", "gold/*/*.train.json") == [
        ("Mwaka nshi?", "He died.", "bem-en"),
        ("When?", "He died.", "en"),
    ]


def test_medquad_leaves_out_judged_and_empty_answers(desk):
    page = """<?xml version="1.0"?><Document id="0000001" source="CDC"><QAPairs>
    <QAPair pid="1"><Question>What is it ?</Question><Answer>A\n  fever.</Answer></QAPair>
    <QAPair pid="2"><Question>Why ?</Question><Answer>Judged.</Answer></QAPair>
    <QAPair pid="3"><Question>How ?</Question><Answer/></QAPair></QAPairs></Document>"""
    judged = packed({"Q/All-qrels.txt": "1 2-Related CDC_0000001_Sec2.txt\n"})
    desk.clone("o/med", {"9_CDC_QA/1.xml": page, "qrels.zip": judged})
    facts = {"lang": "en", "held_out": ["qrels.zip!Q/All-qrels*.txt"]}
    assert desk.rows("medquad", "qa_all", "*_QA/*.xml", **facts) == [
        ("What is it ?", "A fever.", "en")
    ]


def test_pubmedqa_joins_the_parts_of_an_abstract(desk):
    rows = {"1": {"QUESTION": "Does it?", "CONTEXTS": ["Aims.", "Methods."], "LONG_ANSWER": "Yes"}}
    desk.clone("o/pub", {"data.json": json.dumps(rows)})
    assert desk.rows("pubmedqa", "qa_all", "data.json", lang="en") == [
        ("Does it?", "Aims. Methods.", "en")
    ]


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
    asked = "¿Cómo copio un objeto?"
    assert desk.rows("po", "parallel_docs", "*/*.po") == [
        ("Preguntas frecuentes", "Library FAQ", "es-en"),
        (asked, "How do I copy an object?", "es-en"),
        ("Prueba copy.", "Try copy.", "es-en"),
        ("Mira la guía.", "See the guide.", "es-en"),
    ]
    answer = "Prueba copy. Mira la guía."
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
    assert desk.rows("docbook", "parallel_docs", "*.xml") == [
        ("Felder", "Arrays", "de-en"),
        ("Eine Liste.", "An list.", "de-en"),
        ("Außen:", "Outer:", "de-en"),
        ("Innen.", "Inner.", "de-en"),
    ]
    report = json.loads((desk.to / "report.json").read_text())
    assert report[0]["skipped"] == ["php/doc-de/c.xml: not XML: no element found: line 1, column 8"]


def test_docbook_gives_purposes_questions_texts_and_pages(desk):
    entry = """<refentry xmlns="http://docbook.org/ns/docbook"><refnamediv><refname>fill</refname>
    <refpurpose>Fill an array</refpurpose></refnamediv><refsect1><para>Fills it
    <programlisting>code();</programlisting> well.</para><para>Done.</para></refsect1></refentry>"""
    faq = """<qandaset><qandaentry><question><para>What is it?</para></question><answer>
    <para>A language.</para><para>Really.</para></answer></qandaentry></qandaset>"""
    desk.clone("php/doc-en", {"ref/a.xml": entry, "faq/b.xml": faq}, lang="en")
    assert desk.rows("docbook", "pairs_unsup", "ref/*.xml") == [
        ("fill: Fill an array", "Fills it well. Done.", "en")
    ]
    assert desk.rows("docbook", "qa_all", "faq/*.xml") == [
        ("What is it?", "A language. Really.", "en")
    ]
    assert desk.rows("docbook", "raw_paragraphs", "ref/*.xml", least=10) == [
        ("Fills it well.", "en")
    ]
    assert desk.rows("docbook", "long_docs", "ref/*.xml") == [
        ("fill: Fill an array. Fills it well.", "Done.", "en")
    ]


def test_lines_give_every_language_with_english_and_draw_others(desk):
    files = {"src.eng.txt": "Hello there.\nBye.\n", "ref.afr.txt": "Hallo daar.\nTotsiens.\n"}
    files["ref.aze-Latn.txt"] = "Salam.\n\n"
    desk.clone("o/ntrex", files)
    paths = ("src.eng.txt", "ref.*.txt")
    assert desk.rows("lines", "parallel_ntrex", *paths) == [
        ("Hallo daar.", "Hello there.", "af-en"),
        ("Totsiens.", "Bye.", "af-en"),
        ("Salam.", "Hello there.", "aze-Latn-en"),
    ]
    drawn = desk.rows("lines", "parallel_ntrex", *paths, draws=9)[3:]
    assert sorted(drawn) == [
        ("Hallo daar.", "Salam.", "af-aze-Latn"),
        ("Salam.", "Hallo daar.", "aze-Latn-af"),
    ]
    assert desk.rows("lines", "raw_paragraphs", *paths, least=15) == [
        ("Hello there. Bye.", "en"),
        ("Hallo daar. Totsiens.", "af"),
    ]


def test_csv_pairs_known_columns_with_english(desk):
    text = ',javanese,english,label\n0,Sugeng enjing,"Good\nmorning",pos\n'
    desk.clone("o/nusax", {"mt/train.csv": text})
    assert desk.rows("csv", "parallel_misc", "mt/*.csv") == [
        ("Sugeng enjing", "Good morning", "jv-en")
    ]


def test_bible_pairs_verses_and_joins_them(desk):
    verse = '<seg id="b.{}" type="verse">\n {} \n</seg>'
    verses = verse.format("1SA.1.1", "Va dooinney.") + verse.format("JDG.1.2", "As dooyrt.")
    xml = f'<cesDoc><language id="gv" iso639="glv"/><text>{verses}</text></cesDoc>'
    part = {"type": "line text", "chapterNumber": 1}
    samuel = [{"type": "break"}, part | {"verseNumber": 1, "value": "A man "}]
    samuel.append(part | {"verseNumber": 1, "value": "was there. "})
    judges = [part | {"verseNumber": 1, "value": "Not in Manx."}]
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
    english = page.format("Archiving utility.", "[c]reate an `archive`", "List it")
    desk.clone(
        "o/tldr",
        {
            "pages.en/common/tar.md": english,
            "pages.pt_BR/common/tar.md": page.format("Arquivador.", "Criar um", "Listar"),
            "pages.pt_BR/common/only.md": page.format("Sem original.", "Um", "Dois"),
        },
    )
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
    desk.clone(
        "o/asp",
        {
            "en/0001_a.md": story.format("A tall man", "He was\ntall.", "Very.", "CC-BY"),
            "sw/0001_b.md": story.format("Mtu", "Alikuwa mrefu.", "Sana.", "CC-BY"),
            "xh/0001_c.md": story.format("Indoda", "Inde.", "Kakhulu.", "CC-BY-NC"),
        },
    )
    assert desk.rows("stories", "parallel_misc", "*/[0-9]*.md") == [
        ("Mtu", "A tall man", "sw-en"),
        ("Alikuwa mrefu.", "He was tall.", "sw-en"),
        ("Sana.", "Very.", "sw-en"),
    ]
    assert desk.rows("stories", "pairs_unsup", "*/[0-9]*.md") == [
        ("A tall man", "He was tall. Very.", "en"),
        ("Mtu", "Alikuwa mrefu. Sana.", "sw"),
    ]
    assert desk.rows("stories", "raw_paragraphs", "sw/*.md", least=15) == [
        ("Alikuwa mrefu. Sana.", "sw")
    ]


def test_markup_gives_sections_and_documents(desk):
    pep = "PEP: 6\nTitle: Bug Fixes\nAuthor: A\n  B\n\nAbstract\n========\n\nOld *releases*.\n\n"
    pep += "Motivation\n==========\n\nThey are needed.\n"
    law = "---\nTitle: Ein Gesetz\n---\n\n# Ein Gesetz (EG)\n\nFundstelle\n: x\n\n"
    law += "## § 1 Zweck\n\nDer Zweck.\n\n## § 2a Ende\n\nDas Ende.\n"
    rfc = "- Start Date: 2014\n\n## Summary\n\nFields are private.\n\n## Design\n\nAll.\n"
    desk.clone("o/docs", {"pep-6.rst": pep, "l/eg/index.md": law, "0001-private-fields.md": rfc})
    assert desk.rows("markup", "pairs_unsup", "pep-*.rst", lang="en") == [
        ("Bug Fixes: Abstract", "Old releases.", "en"),
        ("Bug Fixes: Motivation", "They are needed.", "en"),
    ]
    drop = r"(?ms)^# .*?(?=^## )"
    assert desk.rows("markup", "pairs_unsup", "l/*/index.md", lang="de", drop=drop) == [
        ("Ein Gesetz: Zweck", "Der Zweck.", "de"),
        ("Ein Gesetz: Ende", "Das Ende.", "de"),
    ]
    drop = r"(?m)^- .*Date: .*$"
    assert desk.rows("markup", "pairs_unsup", "0*.md", lang="en", drop=drop) == [
        ("private fields: Summary", "Fields are private.", "en"),
        ("private fields: Design", "All.", "en"),
    ]
    assert desk.rows("markup", "long_docs", "pep-*.rst", lang="en") == [
        ("Bug Fixes. Old releases.", "## Motivation\n\nThey are needed.", "en")
    ]


def test_tei_joins_paragraphs_of_the_body(desk):
    novel = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><text><front><p>Titel.</p></front><body>
    <div><p>Es war <hi>einmal</hi>.</p><p>Und\n dann.</p><p>Ende.</p></div></body></text></TEI>"""
    desk.clone("o/eltec", {"level1/a.xml": novel})
    assert desk.rows("tei", "raw_paragraphs", "level1/*.xml", lang="de", least=20) == [
        ("Es war einmal. Und dann.", "de")
    ]


def test_what_is_left_out_is_counted(desk, tmp_path):
    long = "a question that is in an evaluation set and is long enough to be told from others"
    asked = ["One?", "One?", "x", "Two?", "Three?", long]
    desk.clone("o/q", {"a.json": squad_json(("", "A text.", asked))})
    held = tmp_path / "eval" / "held"
    held.mkdir(parents=True)
    (held / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": long.upper()}) + "\n")
    take = {"kind": "squad", "file": "qa_all", "paths": ["a.json"], "lang": "en", "rows": 7}
    (report,) = desk.build(take, against=tmp_path / "eval")
    counted = {"rows": 3, "read": 6, "short": 1, "repeated": 1, "over": 0, "shared": 1}
    assert report == {"file": "qa_all", "source": "s", "model": 7, "skipped": []} | counted
    assert json.loads((desk.to / "report.json").read_text()) == [report]
    (report,) = desk.build(take | {"most": 2})
    assert (report["rows"], report["over"]) == (2, 2)
    (report,) = desk.build(take | {"most_per_language": 1, "least": 5})
    assert (report["rows"], report["over"]) == (1, 3)


def test_the_same_clones_give_the_same_bytes(desk):
    desk.clone("o/q", {"a.json": squad_json(("", "A text.", [f"Question {n}?" for n in range(9)]))})
    take = {"kind": "squad", "file": "qa_all", "paths": ["a.json"], "lang": "en", "most": 4}
    desk.build(take)
    first = (desk.to / "qa_all.jsonl.gz").read_bytes()
    desk.build(take)
    assert (desk.to / "qa_all.jsonl.gz").read_bytes() == first
    assert len(gzip.decompress(first).splitlines()) == 4


def test_only_makes_some_files_or_sources(desk):
    desk.clone("o/q", {"a.json": squad_json(("", "A text.", ["Which?"]))})
    base = {"kind": "squad", "paths": ["a.json"], "lang": "en"}
    takes = [base | {"file": "qa_all"}, base | {"file": "raw_paragraphs", "source": "other"}]
    assert [one["source"] for one in desk.build(*takes, only=["qa_all"])] == ["s"]
    assert not (desk.to / "raw_paragraphs.jsonl.gz").exists()
    assert [one["source"] for one in desk.build(*takes, only=["other"])] == ["other"]
    with pytest.raises(InputError, match=r"no file or source qa; there are qa_all, s, "):
        desk.build(*takes, only=["qa"])


TAKE = {"kind": "squad", "file": "qa_all", "paths": ["a.json"], "lang": "en"}


def test_missing_and_wrong_clones_are_told_together_with_the_commands(desk):
    place = desk.clone("o/wrong", {"a.json": squad_json(("", "A text.", ["Which?"]))})
    desk.repositories[0]["commit"] = "0123456789ab"
    desk.repositories.append({"name": "o/gone", "commit": "ba9876543210", "licence": "MIT"})
    with pytest.raises(InputError) as error:
        desk.build(TAKE)
    wrong, gone = str(error.value).splitlines()
    head = git(place, "rev-parse", "HEAD")[:12]
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
    assert [one["rows"] for one in desk.build(TAKE, any_commit=True)] == [1]


def test_a_clone_may_be_called_by_its_name_alone_and_its_files_be_at_another_commit(desk):
    place = desk.clone("o/q", {"a.json": squad_json(("", "A text.", ["Which?"]))})
    place.rename(desk.clones / "q")
    (facts,) = desk.repositories
    facts["tree"], facts["commit"] = facts["commit"], "0123456789ab"
    assert [one["rows"] for one in desk.build(TAKE)] == [1]


def test_files_that_are_not_there_or_not_of_the_form_are_told(desk):
    desk.clone("o/q", {"a.json": '{"rows": []}'})
    with pytest.raises(InputError, match=r"s: o/q has no b\.json: check what is checked out"):
        desk.build(TAKE | {"paths": ["b.json"]})
    with pytest.raises(InputError, match=r"has no test\.json"):
        desk.build(TAKE | {"held_out": ["test.json"]})
    with pytest.raises(InputError, match=r"s: its files are not what 'squad' reads"):
        desk.build(TAKE)
    assert list(desk.to.glob("*")) == []


def test_an_entry_that_means_nothing_is_told(desk):
    desk.clone("o/q", {"a.json": "{}"})
    with pytest.raises(InputError, match=r"'tei2' is none of squad, "):
        desk.build(TAKE | {"kind": "tei2"})
    with pytest.raises(InputError, match=r"no \[\[repository\]\] o/other"):
        desk.build(TAKE | {"repositories": ["o/other"]})
    with pytest.raises(InputError, match=r"unexpected keyword argument 'pathes'"):
        desk.build(TAKE | {"pathes": ["a.json"]})


def test_sources_name_every_repository_and_add_up_to_the_folder():
    repositories, takes, languages = build_data.read_sources(RECIPE / "sources.toml")
    facts = build_data.tomllib.loads((RECIPE / "sources.toml").read_text(encoding="utf-8"))
    assert {name for take in takes for name in take.repositories} == repositories.keys()
    assert all(len(one.commit) == 12 and one.licence for one in repositories.values())
    left = facts["left_out"]
    for output in facts["output"]:
        rows = sum(take.rows for take in takes if take.file == output["file"])
        rows += sum(one["files"].get(output["file"], 0) for one in left)
        # the README of the folder counts 7 long documents more than there are
        assert rows - output["rows"] == (7 if output["file"] == "long_docs" else 0)
    assert languages["afr"] == "af"
    assert "udhr" in {one["source"] for one in left}


def test_the_command_tells_what_is_missing_in_words(tmp_path, monkeypatch):
    command = ["build_data.py", str(tmp_path), "--to", str(tmp_path / "to"), "--only", "NusaX"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"no clone of IndoNLP/nusax: git clone https://"):
        build_data.main()
