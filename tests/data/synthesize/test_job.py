"""Whole runs against a local server: the same rows, whatever happens on the way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from tercet.data.shards import Parts, Shard, merge, parts_folder, run, run_part
from tercet.data.synthesize.estimate import Price, estimate
from tercet.data.synthesize.job import GIVE_UP, Synthesis
from tercet.endpoint import AccessError, Endpoint, EndpointError
from tercet.errors import InputError
from tercet.rows import check_row, read_rows
from tests.chat_server import (
    HTML,
    MODEL,
    NO_JSON,
    ChatServer,
    Reply,
    fails,
    question_on,
    says,
    writer,
)
from tests.data.synthesize.test_articles import article, write

NAMES = [f"{first}{second}" for first in "ABCDEFG" for second in "uvwx"]


def source(folder: Path, names: list[str] = NAMES) -> Path:
    rows = [{"text": article(name), "title": f"Mill {name}", "lang": "en"} for name in names]
    return write(folder / "articles.jsonl", rows)


def job(folder: Path, url: str, **options: Any) -> Synthesis:
    endpoint = {name: options.pop(name) for name in ("concurrency",) if name in options}
    return Synthesis(
        str(folder / "out.jsonl"),
        (str(folder / "articles.jsonl"),),
        MODEL,
        endpoint=Endpoint(url, retries=1, backoff=0.001, timeout=5.0, **endpoint),
        shortest=300,
        **options,
    )


def first_words(request: dict[str, Any]) -> str:
    """The prompt of a conversation."""
    text: str = request["messages"][0]["content"]
    return text


def moody(request: dict[str, Any], number: int) -> Reply:
    """No, one, two or three bad answers first, by what is asked; some answers overtake others."""
    prompt, tries = first_words(request), len(request["messages"]) // 2
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
    rows = list(read_rows(tmp_path / "out.jsonl"))
    assert report["kept"] == len(rows) == len(NAMES)
    for row, given in zip(rows, read_rows(path), strict=True):
        record = check_row(row, "out")
        assert record.pos == (f"{given['title']}\n{given['text']}",)
        assert record.lang == "en"
        assert record.source == "articles"
        assert row["paragraph"] in given["text"]
        assert record.query == question_on(f"Paragraph:\n{row['paragraph']}")
    assert not parts_folder(tmp_path / "out.jsonl").exists()
    prompts = [first_words(request) for request in server.requests]
    assert len(set(prompts)) == len(NAMES)
    assert len({request["seed"] for request in server.requests}) == len(NAMES)


def test_the_same_file_for_any_concurrency_and_number_of_parts(tmp_path: Path) -> None:
    files, reports = [], []
    for concurrency, parts in ((1, 1), (16, 1), (4, 3), (2, 5)):
        folder = tmp_path / f"{concurrency}-{parts}"
        folder.mkdir()
        source(folder)
        with ChatServer(moody) as server:
            one = job(folder, server.url, concurrency=concurrency)
            for number in range(parts, 0, -1):
                run_part(one, Shard(number, parts))
            reports.append(merge(one, parts))
        files.append((folder / "out.jsonl").read_bytes())
    assert len(set(files)) == 1
    assert all(report == reports[0] for report in reports)
    refused = reports[0]["refused"]
    assert {"empty", "refusal", "other language", "not a question"} <= refused.keys()
    assert reports[0]["dropped"] > 0
    assert reports[0]["answers"] == sum(refused.values()) + reports[0]["kept"]


def test_parts_are_joined_from_what_they_say_of_themselves(tmp_path: Path) -> None:
    source(tmp_path)
    with ChatServer() as server:
        run_part(job(tmp_path, server.url), Shard())
    target = tmp_path / "out.jsonl"
    parts = Parts.find(target)
    assert merge(parts.job(Synthesis, target), parts.count)["kept"] == len(NAMES)


def test_faults_on_the_way_leave_no_trace(tmp_path: Path) -> None:
    faults = (
        fails(429, "slow down"),
        fails(503, "busy", retry_after="0.01"),
        fails(500, "oops"),
        HTML,
        NO_JSON,
        Reply(says("Who?").body, cut=True),
        Reply(b"", delay=0.3),
    )

    def rough(request: dict[str, Any], number: int) -> Reply:  # every other request fails
        return writer(request, number) if number % 2 else faults[number // 2 % len(faults)]

    files = []
    for mind in (writer, rough):
        folder = tmp_path / mind.__name__
        folder.mkdir()
        source(folder, NAMES[:14])
        with ChatServer(mind) as server:
            one = job(folder, server.url, concurrency=1)  # so that a fault never meets a retry
            assert one.endpoint is not None
            run(replace(one, endpoint=replace(one.endpoint, timeout=0.2)), workers=1)
        files.append((folder / "out.jsonl").read_bytes())
    assert len(server.requests) == 28
    assert files[0] == files[1]


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
    source(tmp_path, ["A", "B"])
    with ChatServer(lambda request, number: says("No idea.")) as server:
        report = run(job(tmp_path, server.url, tries=2), workers=1)
    assert len(server.requests) == 4
    assert (report["kept"], report["dropped"], report["answers"]) == (0, 2, 4)
    assert list(read_rows(tmp_path / "out.jsonl")) == []


def test_a_question_asked_before_is_dropped(tmp_path: Path) -> None:
    source(tmp_path, ["A", "B", "C"])
    question = "Which stone was used for the mill?"
    texts = {"A": question, "B": "Who owned the mill of B then?", "C": question.upper()}

    def mind(request: dict[str, Any], number: int) -> Reply:
        name = first_words(request).partition("Mill ")[2][:1]
        return replace(says(texts[name]), delay=0.1 if name == "A" else 0)  # the last to come

    with ChatServer(mind) as server:
        report = run(job(tmp_path, server.url), workers=1)
    assert report["duplicates"] == 1
    assert report["examples"]["duplicate"] == [(2, question.upper())]
    assert [row["query"] for row in read_rows(tmp_path / "out.jsonl")] == [texts["A"], texts["B"]]


def test_what_a_request_holds(tmp_path: Path) -> None:
    source(tmp_path, ["A"])
    body = {"top_p": 0.5, "max_tokens": None, "max_completion_tokens": 9}
    with ChatServer() as server:
        run(job(tmp_path, server.url, temperature=0.1, body=body), workers=1)
    (request,) = server.requests
    assert request.keys() == {
        *("model", "messages", "temperature", "seed", "top_p", "max_completion_tokens")
    }
    assert (request["temperature"], request["max_completion_tokens"]) == (0.1, 9)


def test_a_prompt_too_long_drops_its_article_alone(tmp_path: Path) -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        if "Mill Av" in first_words(request):
            return fails(400, "maximum context length is 64 tokens", code="context_length_exceeded")
        return writer(request, number)

    source(tmp_path)
    with ChatServer(mind) as server:
        report = run(job(tmp_path, server.url), workers=1)
    assert (report["kept"], report["rejected"]) == (len(NAMES) - 1, 1)
    assert "maximum context length" in report["examples"]["rejected"][0][1]


def test_what_failed_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    def mind(request: dict[str, Any], number: int) -> Reply:
        return fails(500, "oops") if "Mill Bw" in first_words(request) else writer(request, number)

    source(tmp_path)
    with ChatServer(mind) as server:
        one = job(tmp_path, server.url)
        with pytest.raises(EndpointError, match=r"1 of 28 articles.*oops.*27 answers are kept"):
            run(one, workers=1)
        report = run(replace(one, skip_failed=True), workers=1)
    assert (report["kept"], report["failed"]) == (27, 1)
    assert len(server.requests) == 27 + 4


def test_a_dead_endpoint_is_given_up_and_the_run_goes_on_later(tmp_path: Path) -> None:
    source(tmp_path)
    asked: list[str] = []

    def dying(request: dict[str, Any], number: int) -> Reply:
        if number >= 9:
            return fails(503, "gone")
        asked.append(first_words(request))
        return writer(request, number)

    with ChatServer(dying) as server:
        with pytest.raises(
            EndpointError, match=rf"{GIVE_UP} articles in a row.*9 answers are kept"
        ):
            run(job(tmp_path, server.url), workers=1)
        assert len(server.requests) < 60
    with ChatServer() as server:  # another port
        report = run(job(tmp_path, server.url, concurrency=3), workers=1)
    again = [first_words(request) for request in server.requests]
    assert not set(asked) & set(again)
    assert len(asked) + len(again) == report["kept"] == len(NAMES)


@pytest.mark.parametrize("what", ["key", "model", "path", "protocol"])
def test_what_is_wrong_for_all_stops_at_once(what: str, tmp_path: Path) -> None:
    source(tmp_path)
    nonsense = Reply({"error": {"message": "no such thing"}})
    with ChatServer(
        lambda request, number: nonsense if what == "protocol" else writer(request, number),
        key="sk-right" if what == "key" else None,
    ) as server:
        one = job(tmp_path, f"{server.url}/v9" if what == "path" else server.url, concurrency=2)
        if what == "model":
            one = replace(one, model="other")
        kind = EndpointError if what == "protocol" else AccessError
        with pytest.raises(kind):
            run(one, workers=1)
        assert len(server.requests) <= GIVE_UP + 2


def test_answers_of_other_settings_are_not_taken(tmp_path: Path) -> None:
    source(tmp_path, ["A", "B"])
    with ChatServer(
        lambda request, number: fails(500, "oops") if number else says("Hm.")
    ) as server:
        one = job(tmp_path, server.url, concurrency=1)
        with pytest.raises(EndpointError):
            run(one, workers=1)
    for other in (replace(one, seed=1), replace(one, prompt="Ask on {paragraph}!")):
        with pytest.raises(InputError, match="other settings"):
            run(other, workers=1)
    source(tmp_path, ["A", "C"])
    with pytest.raises(InputError, match="other settings"):
        run(one, workers=1)


def test_a_finished_target_is_never_overwritten(tmp_path: Path) -> None:
    source(tmp_path, ["A"])
    with ChatServer() as server:
        one = job(tmp_path, server.url)
        run(one, workers=1)
        with pytest.raises(InputError, match="exists already"):
            run(one, workers=1)
    assert len(server.requests) == 1


def test_parts_share_the_limit_of_requests(tmp_path: Path) -> None:
    source(tmp_path, NAMES[:6])
    with ChatServer() as server:
        one = job(tmp_path, server.url)
        assert one.endpoint is not None
        limited = replace(one, endpoint=replace(one.endpoint, requests_per_minute=1200.0))
        run_part(limited, Shard(1, 2))  # three requests, 0.1 s apart
    assert len(server.times) == 3
    assert server.times[-1] - server.times[0] >= 0.18


def test_the_estimate_is_what_is_asked(tmp_path: Path) -> None:
    source(tmp_path)
    with ChatServer(moody) as server:
        one = job(tmp_path, server.url)
        before = estimate(one, Shard())
        assert not server.requests
        assert not parts_folder(tmp_path / "out.jsonl").exists()
        report = run(one, workers=1)
        sent = [first_words(request) for request in server.requests]
    assert before.requests == before.articles == len(NAMES)
    assert before.requests <= report["answers"] == len(sent) <= before.most_requests
    assert before.tokens_in <= before.most_tokens_in
    assert report["tokens_out"] <= before.most_tokens_out
    assert set(before.prompts) <= set(sent)
    assert Price(2.0, 3.0).of(1_000_000, 2_000_000) == 8.0


def test_the_estimate_counts_what_is_still_to_do(tmp_path: Path) -> None:
    source(tmp_path)
    with ChatServer(
        lambda request, number: writer(request, number) if number < 5 else fails(500, "oops")
    ) as server:
        one = job(tmp_path, server.url)
        with pytest.raises(EndpointError):
            run(one, workers=1)
    left = estimate(one, Shard())
    assert (left.settled, left.requests) == (5, len(NAMES) - 5)
    parts = [estimate(one, Shard(number, 3)) for number in (1, 2, 3)]
    assert sum(part.articles for part in parts) == len(NAMES)


def test_answers_without_usage_are_counted_by_estimate(tmp_path: Path) -> None:
    def bare(request: dict[str, Any], number: int) -> Reply:
        body = writer(request, number).body
        return Reply({"choices": body["choices"]})

    source(tmp_path, ["A"])
    with ChatServer(bare) as server:
        report = run(job(tmp_path, server.url), workers=1)
    assert report["tokens_in"] > 100
    assert 5 < report["tokens_out"] < 50


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []},
        {"choices": [{}]},
        {"choices": [None]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": None}}], "usage": {"prompt_tokens": "many"}},
    ],
    ids=json.dumps,
)
def test_a_choice_without_text_is_an_empty_answer(body: Any, tmp_path: Path) -> None:
    source(tmp_path, ["A"])
    with ChatServer(lambda request, number: Reply(body)) as server:
        report = run(job(tmp_path, server.url), workers=1)
    assert report["refused"] == {"empty": 3}


@pytest.mark.parametrize(
    "options",
    [
        {"tries": 0},
        {"prompt": "no place"},
        {"temperature": 3.0},
        {"max_tokens": 0},
        {"model": " "},
        {"body": {"stream": True}},
        {"question": (9, 3)},
        {"paragraph": (9, 3)},
    ],
    ids=str,
)
def test_values_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Synthesis(**{"target": "a", "files": ("b",), "model": "c", **options})
