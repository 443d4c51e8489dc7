"""Chunks cover a text in order, in size, on borders of sentences."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tercet.documents.chunks import Chunker, Chunking
from tercet.errors import InputError
from tercet.records import Span


def words() -> Tokenizer:
    """A word or a mark is a token, whatever it is."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


WORDS = words()
BORDERS = ".!?\n"


def chunker(chunk: int = 32, overlap: int = 8, *, late: bool = False) -> Chunker:
    return Chunker(WORDS, Chunking(chunk, overlap, late))


def prose(sentences: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    parts = []
    for _ in range(sentences):
        length = draw.randint(3, 9)
        parts.append(" ".join("ab" * draw.randint(1, 4) for _ in range(length)).capitalize() + ".")
        parts.append(draw.choice([" ", " ", " ", "\n\n"]))
    return "".join(parts)


def check(text: str, title: str, cutter: Chunker) -> list[Span]:
    """What holds for every cut: in order, in size, and nothing but white space left out."""
    spans = cutter.spans(text, title)
    heading = cutter.heading(title)
    covered = 0
    for before, span in zip([None, *spans], spans, strict=False):
        assert before is None or (before.start < span.start and before.end <= span.end)
        piece = text[span.start : span.end]
        assert piece == piece.strip() != ""
        assert cutter.count(heading + piece) + 2 <= cutter.chunking.chunk
        assert not text[covered : span.start].strip()
        if before is not None and before.end > span.start:
            shared = cutter.count(text[span.start : before.end])
            assert shared <= cutter.chunking.overlap
        covered = span.end
    assert not text[covered:].strip()
    return spans


def test_chunks_end_where_sentences_end_and_overlap() -> None:
    text = prose(200)
    spans = check(text, "A title", chunker())
    assert len(spans) > 20
    assert all(text[span.end - 1] in BORDERS for span in spans)
    shared = [max(0, a.end - b.start) for a, b in pairwise(spans)]
    assert sum(size > 0 for size in shared) > len(spans) // 4
    apart = check(text, "A title", chunker(overlap=0))
    assert all(a.end <= b.start for a, b in pairwise(apart))


def test_a_long_title_is_cut_so_that_text_has_room() -> None:
    cutter = chunker()
    title = " ".join(f"word{number}" for number in range(100))
    assert cutter.heading(title) == " ".join(title.split()[:8]) + "\n"
    assert cutter.heading("") == ""
    assert check(prose(30), title, cutter)


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.sampled_from("ab .\n\t🙂é漢̈\u200d"), max_size=400).filter(lambda text: text.strip()),
    st.sampled_from([0, 4, 8]),
)
def test_any_text_is_covered_in_order(text: str, overlap: int) -> None:
    check(text, "", chunker(16, overlap))


def test_short_and_whole_documents_are_one_span() -> None:
    assert chunker().spans("  short text \n") == [Span(2, 12)]
    assert chunker(0).spans(" " + prose(500)) == [Span(1, len(prose(500).strip()) + 1)]


def test_windows_do_not_show() -> None:
    text = prose(900)
    narrow = Chunker(WORDS, Chunking(32, 8), window=2000)
    assert check(text, "", narrow) == chunker().spans(text)


def test_ten_megabytes_take_time_in_proportion() -> None:
    # Without windows 2 MB without a break would take (2 MB / 100 KB)^2 = 400 times 100 KB's time.
    started = time.process_time()
    chunker(512, 64).spans("x" * 100_000 + " ")
    short = time.process_time() - started
    started = time.process_time()
    chunker(512, 64).spans("漢 " * 100_000 + "x" * 2_000_000)
    assert time.process_time() - started < 100 * short + 5
    assert chunker().spans("a." + " " * 3_000_000 + "b. " * 40)[0] == Span(0, 2)


@pytest.mark.parametrize("dense", ["\ufdfa", "\u3300\u3301", "\ufdfa a "])
def test_characters_of_many_tokens_are_read_once(
    dense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = words()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # a character is a token
    cutter = Chunker(tokenizer, Chunking(64, 8), window=1024)
    assert len(check(dense * 2000, "A title", cutter)) > 200
    monkeypatch.setattr(cutter, "count", None)
    assert len(cutter.spans(dense * 2000)) > 200


def test_passes_hold_every_span_once_within_the_limit() -> None:
    cutter = Chunker(WORDS, Chunking(32, 8, True), max_length=132)
    text, title = prose(300), "The title"
    spans = cutter.spans(text, title)
    runs = cutter.passes(text, title, spans)
    assert [span for run in runs for span in run] == spans
    assert len(runs) > 3
    for run in runs:
        read = cutter.heading(title) + text[run[0].start : run[-1].end]
        assert cutter.count(read) + 2 <= 100
    assert cutter.passes("Short text.", "", [Span(0, 11)]) == [[Span(0, 11)]]


@pytest.mark.parametrize(
    "options", [(8, 0, False), (9000, 0, False), (64, 33, False), (64, -1, False), (0, 0, True)]
)
def test_options_that_cannot_be_are_refused(options: tuple[int, int, bool]) -> None:
    with pytest.raises(InputError, match="give"):
        Chunking(*options)


def test_a_tokenizer_that_truncates_is_refused() -> None:
    tokenizer = words()
    tokenizer.enable_truncation(16)
    with pytest.raises(InputError):
        Chunker(tokenizer, Chunking())
