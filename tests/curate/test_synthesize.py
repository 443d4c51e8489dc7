"""Whole runs against a local server: the same rows, whatever happens on the way."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tercet.curate.shards import Parts, Shard, merge, parts_folder, run, run_part
from tercet.curate.synthesize import (
    GIVE_UP,
    PROMPT,
    Answer,
    Synthesis,
    Task,
    check_prompt,
    estimate,
    fill_prompt,
    open_journal,
)
from tercet.curate.synthesize_checks import estimate_tokens
from tercet.endpoint import AccessError, Endpoint, EndpointError
from tercet.errors import InputError
from tercet.rows import check_row, read_rows
from tests.chat_server import MODEL, ChatServer, Reply, fails, question_on, says, writer

NAMES = [f"{first}{second}" for first in "ABCDEFG" for second in "uvwx"]
SENTENCE = "The mill of {} was built of grey stone by the river in the year {}. "


def article(name: str, paragraphs: int = 12) -> str:
    """About 100 tokens a paragraph, every one its own."""
    return "\n\n".join(
        "".join(SENTENCE.format(name, 1000 + 10 * n + line) for line in range(6)).strip()
        for n in range(paragraphs)
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def source(folder: Path, names: list[str] = NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"text": article(name), "title": f"Mill {name}", "lang": "en"} for name in names]
    return write(folder / "articles.jsonl", rows)


def job(folder: Path, url: str, **options: Any) -> Synthesis:
    pace: dict[str, Any] = {"retries": 1, "backoff": 0.001, "timeout": 5.0}
    pace |= {n: options.pop(n) for n in ("concurrency", "timeout") if n in options}
    return Synthesis(
        str(folder / "out.jsonl"),
        (str(folder / "articles.jsonl"),),
        MODEL,
        endpoint=Endpoint(url, **pace),
        shortest=300,
        **options,
    )


def prompt_of(request: dict[str, Any]) -> str:
    text: str = request["messages"][0]["content"]
    return text


# --- articles and prompts ---


def pick(
    folder: Path, rows: list[dict[str, Any]], **options: Any
) -> tuple[list[Task], Counter[str]]:
    path = write(folder / "some.jsonl", rows)
    left_out: Counter[str] = Counter()
    options = {"shortest": 300, **options}
    return list(Synthesis("out", (str(path),), MODEL, **options).tasks(Shard(), left_out)), left_out


def test_both_kinds_of_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": article("A"), "title": "Mills", "lang": "en", "source": "wiki"},
        {"query": "q", "pos": [article("B"), article("C")], "lang": "de-en"},
        {"query": "q", "pos": [article("D")], "lang": "zh-Hant"},
    ]
    tasks, left_out = pick(tmp_path, rows)
    assert [task.number for task in tasks] == [0, 1, 2, 3]
    assert [task.text for task in tasks[:2]] == [f"Mills\n{article('A')}", article("B")]
    assert ["Title of the longer text: Mills" in task.prompt for task in tasks[:2]] == [True, False]
    assert [task.lang for task in tasks] == ["en", "en", "en", "zh-Hant"]  # two say nothing
    assert [task.source for task in tasks] == ["wiki", "some", "some", "some"]
    assert not left_out


def test_what_is_left_out_is_counted_and_the_limit_takes_the_first(tmp_path: Path) -> None:
    rows = [
        {"text": "short"},
        {"text": article("A")},
        {"text": f"  {article('A').upper()}\n"},
        {"text": "1 + 1 = 2; " * 500},
        {"text": article("B")},
        {"text": article("C")},
    ]
    tasks, left_out = pick(tmp_path, rows)
    assert left_out == {"too short": 1, "seen before": 1, "no paragraph of prose": 1}
    assert len(tasks) == 3
    assert pick(tmp_path, rows, limit=2)[0] == tasks[:2]
    for bad in ({"query": "q"}, {"text": "a", "title": 3}):
        with pytest.raises(InputError, match=r"some\.jsonl:7: "):
            pick(tmp_path, [*rows, bad])


def test_a_paragraph_depends_on_seed_and_article_alone(tmp_path: Path) -> None:
    rows = [{"text": article(name)} for name in "ABCDEF"]
    forth, back = pick(tmp_path, rows, seed=3)[0], pick(tmp_path, rows[::-1], seed=3)[0]
    assert {a.text: a.paragraph for a in forth} == {a.text: a.paragraph for a in back}
    rows = [{"text": article("A", 4) + "\n\nThe end."}]
    paragraphs = {pick(tmp_path, rows, seed=seed)[0][0].paragraph for seed in range(60)}
    assert paragraphs == set(article("A", 4).split("\n\n"))  # each has its chance
    text = f"# Head\n\nOne.\n\n{article('A', 8)}"
    for seed in range(20):
        ((task,), _) = pick(tmp_path, [{"text": text}], seed=seed, reach=300, paragraph=(150, 250))
        assert 150 <= estimate_tokens(task.paragraph) <= 250
        assert task.paragraph in text
        assert estimate_tokens(text.partition(task.paragraph)[0] + task.paragraph) <= 300


def test_prompts_are_filled_in() -> None:
    check_prompt(PROMPT, "here")
    paragraph, title = "Die {paragraph} Mühle {0}", "Mills {1}"
    prompt = fill_prompt(PROMPT, paragraph, title, "de")
    for part in ("German", title, paragraph):  # braces in them are no placeholders
        assert part in prompt
    for lang, name in {"zh-Hant": "Chinese", "ckb": "(code ckb)", "": "the language of"}.items():
        assert name in fill_prompt("{language}: {paragraph}", paragraph, title, lang)
    template = 'As {{"question": ...}}: {paragraph}'
    check_prompt(template, "here")
    assert fill_prompt(template, "Die", title, "de") == 'As {"question": ...}: Die'


TEMPLATES = ["Ask.", "{paragraph} {text}", "{paragraph} {}", "{paragraph", "{paragraph} }"]
TEMPLATES += ['{paragraph} {"json": 1}', "{paragraph.name}", "{paragraph[0][1]}"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_cannot_be_filled_in_is_refused(template: str) -> None:
    with pytest.raises(InputError, match=r"^here: "):
        check_prompt(template, "here")


# --- the journal ---

SETTINGS: dict[str, Any] = {"options": {"model": "a", "seed": 0}, "inputs": {"file": "hash"}}
ANSWERS = [
    ("a", Answer("Who?\nMe.", "stop", 7, 2)),
    ("b", Answer("\ud800 ü 水", None, 0, 0)),
    ("a", Answer("", "length", 1, 9)),
]


def write_journal(path: Path) -> bytes:
    with open_journal(path, SETTINGS) as journal:
        for count, (key, answer) in enumerate(ANSWERS):
            journal.add(key, answer)  # is in the file before the next one is asked for
            assert path.read_bytes().count(b"\n") == count + 2
    return path.read_bytes()


def test_what_is_added_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    with open_journal(path, {**SETTINGS, "options": {}}) as journal:  # may change while it is empty
        assert not journal.answers
    write_journal(path)
    with open_journal(path, SETTINGS) as journal:
        assert journal.answers == {"a": [ANSWERS[0][1], ANSWERS[2][1]], "b": [ANSWERS[1][1]]}
        with (
            pytest.raises(InputError, match="another process"),
            open_journal(path, SETTINGS),
        ):
            pass


@given(st.integers(0, 400))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_torn_end_is_mended(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.unlink(missing_ok=True)
    torn = write_journal(path)[:size]
    path.write_bytes(torn)
    with open_journal(path, SETTINGS) as journal:
        assert sum(map(len, journal.answers.values())) == max(0, torn.count(b"\n") - 1)
        journal.add("c", ANSWERS[0][1])
    with open_journal(path, SETTINGS) as journal:
        assert journal.answers["c"] == [ANSWERS[0][1]]


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"key": "a", "other": 1}\n', b"[]\n"])
def test_a_damaged_line_is_named_and_nothing_is_cut_off(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    first, rest = write_journal(path).split(b"\n", 1)
    path.write_bytes(damaged := first + b"\n" + line + rest)
    with pytest.raises(InputError, match=r"a\.jsonl:2"), open_journal(path, SETTINGS):
        pass
    assert path.read_bytes() == damaged


# --- runs ---


def moody(request: dict[str, Any], number: int) -> Reply:
    """No, one, two or three bad answers first, by what is asked; some answers overtake others."""
    prompt, tries = prompt_of(request), len(request["messages"]) // 2
    mood = crc32(prompt.encode())
    bad = (
        "",
        "I'm sorry, I can't.",
        "Wann wurde die Mühle am Fluss gebaut?",
        "The old mill of Arden is grey.",
    )
    text = bad[(mood + tries) % 4] if tries < mood // 4 % 4 else question_on(prompt)
    return replace(says(text), delay=0.002 * (mood % 5))


def test_rows_are_questions_on_whole_articles(tmp_path: Path) -> None:
    path = source(tmp_path)
    with ChatServer() as server:
        report = run(job(tmp_path, server.url), workers=1)
        with pytest.raises(InputError):
            run(job(tmp_path, server.url), workers=1)
    rows = list(read_rows(tmp_path / "out.jsonl"))
    assert report["kept"] == len(rows) == len(NAMES)
    for row, raw in zip(rows, read_rows(path), strict=True):
        record = check_row(row, "out")
        assert record.pos == (f"{raw['title']}\n{raw['text']}",)
        assert (record.lang, record.source) == ("en", "articles")
        assert row["paragraph"] in raw["text"]
        assert record.query == question_on(f"Paragraph:\n{row['paragraph']}")
    assert not parts_folder(tmp_path / "out.jsonl").exists()
    assert len({prompt_of(request) for request in server.requests}) == len(NAMES)
    assert len({request["seed"] for request in server.requests}) == len(NAMES)


def test_the_same_file_for_any_concurrency_and_number_of_parts(tmp_path: Path) -> None:
    files, reports = [], []
    for concurrency, parts in ((1, 1), (16, 1), (4, 3), (2, 5)):
        folder = tmp_path / f"{concurrency}-{parts}"
        source(folder)
        with ChatServer(moody) as server:
            for number in range(parts, 0, -1):
                run_part(job(folder, server.url, concurrency=concurrency), Shard(number, parts))
            joined = Parts.find(folder / "out.jsonl")  # by what parts say of themselves
            reports.append(merge(joined.job(Synthesis, folder / "out.jsonl"), parts))
        files.append((folder / "out.jsonl").read_bytes())
    assert len(set(files)) == 1
    assert all(report == reports[0] for report in reports)
    refused = reports[0]["refused"]
    assert {"empty", "refusal", "other language", "not a question"} <= refused.keys()
    assert reports[0]["dropped"] > 0
    assert reports[0]["answers"] == sum(refused.values()) + reports[0]["kept"]


def test_a_refused_answer_is_asked_for_again_with_the_reason(tmp_path: Path) -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        if len(request["messages"]) == 1:
            return says("What does the text say?")
        return writer(request, number)

    source(tmp_path, ["A"])
    with ChatServer(mind) as server:
        report = run(job(tmp_path, server.url), workers=1)
    assert report["refused"] == {"points at the text": 1}
    assert report["examples"]["points at the text"] == [(0, "What does the text say?")]
    first, second = server.requests
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][0] == first["messages"][0]
    assert second["messages"][1]["content"] == "What does the text say?"
    assert "speaks of the text" in second["messages"][2]["content"]
    assert first["seed"] != second["seed"]


def test_after_its_tries_an_article_is_dropped(tmp_path: Path) -> None:
    silent = [{"choices": []}, {"choices": [{"message": {"content": None}}]}]
    source(tmp_path, ["A", "B"])
    with ChatServer(lambda request, number: Reply(silent[number % 2])) as server:
        report = run(job(tmp_path, server.url, tries=2), workers=1)
    assert len(server.requests) == 4
    assert (report["kept"], report["dropped"], report["refused"]) == (0, 2, {"empty": 4})
    assert list(read_rows(tmp_path / "out.jsonl")) == []


def test_a_question_asked_before_is_dropped(tmp_path: Path) -> None:
    source(tmp_path, ["A", "B", "C"])
    question = "Which stone was used for the mill?"
    texts = {"A": question, "B": "Who owned the mill of B then?", "C": question.upper()}

    def mind(request: dict[str, Any], number: int) -> Reply:
        name = prompt_of(request).partition("Mill ")[2][:1]
        return replace(says(texts[name]), delay=0.1 if name == "A" else 0)  # the last to come

    with ChatServer(mind) as server:
        report = run(job(tmp_path, server.url), workers=1)
    assert report["duplicates"] == 1
    assert report["examples"]["duplicate"] == [(2, question.upper())]
    assert [row["query"] for row in read_rows(tmp_path / "out.jsonl")] == [texts["A"], texts["B"]]


def test_what_a_request_holds_and_counts_without_usage(tmp_path: Path) -> None:
    def bare(request: dict[str, Any], number: int) -> Reply:
        return Reply({"choices": writer(request, number).body["choices"]})

    source(tmp_path, ["A"])
    body = {"top_p": 0.5, "max_tokens": None, "max_completion_tokens": 9}
    with ChatServer(bare) as server:
        report = run(job(tmp_path, server.url, temperature=0.1, body=body), workers=1)
    (request,) = server.requests
    asked = {name: request.pop(name) for name in ("messages", "seed")}
    expected = {"model": MODEL, "temperature": 0.1, "top_p": 0.5, "max_completion_tokens": 9}
    assert request == expected
    assert report["tokens_in"] == pytest.approx(len(asked["messages"][0]["content"]) / 4, rel=0.1)
    assert 5 < report["tokens_out"] < 50


def test_what_failed_is_asked_again_by_the_next_run_and_what_was_refused_is_left_out(
    tmp_path: Path,
) -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        if "Mill Av" in prompt_of(request):
            return fails(400, "maximum context length is 64 tokens", code="context_length_exceeded")
        return fails(500, "oops") if "Mill Bw" in prompt_of(request) else writer(request, number)

    source(tmp_path)
    with ChatServer(mind) as server:
        first = job(tmp_path, server.url)
        with pytest.raises(EndpointError, match=r"1 of 28 articles.*oops.*26 answers are kept"):
            run(first, workers=1)
        left = estimate(first, Shard())
        report = run(replace(first, skip_failed=True), workers=1)
    assert (left["settled"], left["requests"]) == (26, 2)
    assert (report["kept"], report["failed"], report["rejected"]) == (26, 1, 1)
    assert "maximum context length" in report["examples"]["rejected"][0][1]
    assert "oops" in report["examples"]["failed"][0][1]
    assert len(server.requests) == 26 + 2 * (1 + 2)  # a refused prompt is sent once, others twice


def test_a_dead_endpoint_is_given_up_and_the_run_goes_on_later(tmp_path: Path) -> None:
    source(tmp_path)
    prompts: list[str] = []

    def dying(request: dict[str, Any], number: int) -> Reply:
        if number >= 9:
            return fails(503, "gone")
        prompts.append(prompt_of(request))
        return writer(request, number)

    with ChatServer(dying) as server:
        with pytest.raises(EndpointError, match=rf"{GIVE_UP} articles in a row.*9 answers"):
            run(job(tmp_path, server.url), workers=1)
        assert len(server.requests) < 60
    with ChatServer() as server:  # another port
        report = run(job(tmp_path, server.url, concurrency=3), workers=1)
    again = [prompt_of(request) for request in server.requests]
    assert not set(prompts) & set(again)
    assert len(prompts) + len(again) == report["kept"] == len(NAMES)


@pytest.mark.parametrize("what", ["key", "model", "path", "protocol"])
def test_what_is_wrong_for_all_stops_at_once(what: str, tmp_path: Path) -> None:
    source(tmp_path)
    nonsense = Reply({"error": {"message": "no such thing"}})
    mind = (lambda request, number: nonsense) if what == "protocol" else writer
    with ChatServer(mind, key="sk-right" if what == "key" else None) as server:
        wrong = job(tmp_path, f"{server.url}/v9" if what == "path" else server.url, concurrency=2)
        wrong = replace(wrong, model="other") if what == "model" else wrong
        with pytest.raises(EndpointError if what == "protocol" else AccessError):
            run(wrong, workers=1)
        assert len(server.requests) <= GIVE_UP + 2


def test_answers_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    source(tmp_path, ["A", "B"])
    with ChatServer(lambda r, number: fails(500, "oops") if number else says("Hm.")) as server:
        first = job(tmp_path, server.url, concurrency=1)
        with pytest.raises(EndpointError):
            run(first, workers=1)
    before = first.journal_path(Shard()).read_bytes()
    other = replace(first, seed=1, prompt="Ask on {paragraph}!")
    with pytest.raises(InputError, match=r"other settings \(prompt, seed\)"):
        run(other, workers=1)
    path = source(tmp_path, ["A", "C"])
    with pytest.raises(InputError, match=rf"other settings \({path}\)"):
        run(first, workers=1)
    assert first.journal_path(Shard()).read_bytes() == before


def test_parts_share_the_limit_of_requests(tmp_path: Path) -> None:
    source(tmp_path, NAMES[:6])
    with ChatServer() as server:
        plain = job(tmp_path, server.url)
        assert plain.endpoint is not None
        limited = replace(plain, endpoint=replace(plain.endpoint, requests_per_minute=1200.0))
        run_part(limited, Shard(1, 2))  # three requests, 0.1 s apart
    assert len(server.times) == 3
    assert server.times[-1] - server.times[0] >= 0.18


def test_the_estimate_is_what_is_asked(tmp_path: Path) -> None:
    source(tmp_path)
    with ChatServer(moody) as server:
        plain = job(tmp_path, server.url)
        before = estimate(plain, Shard())
        parts = [estimate(plain, Shard(number, 3)) for number in (1, 2, 3)]
        assert not server.requests
        assert not parts_folder(tmp_path / "out.jsonl").exists()
        report = run(plain, workers=1)
        sent = [prompt_of(request) for request in server.requests]
    assert before["requests"] == before["articles"] == len(NAMES)
    assert sum(part["articles"] for part in parts) == len(NAMES)
    assert before["requests"] <= report["answers"] == len(sent) <= before["most_requests"]
    assert before["tokens_in"] <= before["most_tokens_in"]
    assert report["tokens_out"] <= before["most_tokens_out"]
    assert set(before["prompts"]) <= set(sent)


WRONG: list[dict[str, Any]] = [
    {"tries": 0},
    {"prompt": "no place"},
    {"temperature": 3.0},
    {"model": " "},
    {"body": {"stream": True}},
    {"question": (9, 3)},
    {"reach": 100},
    {"reach": 1 << 20},
    {"limit": 0},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_values_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Synthesis(**{"target": "a", "files": ("b",), "model": "c", **options})
