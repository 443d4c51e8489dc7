"""Chunks cover a text in order, in size, on borders of sentences."""

import random
import time
from functools import cache
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from tercet.documents.chunks import Chunker, Chunking, places
from tercet.documents.sentences import sentences
from tercet.errors import InputError
from tercet.layout import BUNDLED
from tercet.records import Document, Section, Span


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
            # alone what is shared may begin with a token of its own, where no word begins
            shared = cutter.count(text[span.start : before.end]) - 1
            shared += text[span.start - 1].isspace()
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


LANGUAGES = {
    "en": "Tides rise twice a day. Dr. Weber wrote 3.14 pages on it! Why? “The moon.” ",
    "de": "Der Igel schläft im Winter. Am 5. Mai wacht er auf. Was frisst er? Käfer. ",
    "fr": "Le fromage mûrit en cave. Combien de mois ? Au moins quatre ! « C'est long. » ",
    "tr": "Kahve köpüklü olmalı. Kaç dakika pişer? Üç dakika. ",
    "vi": "Phở là món ăn sáng. Nước dùng ninh bao lâu? Tám giờ. ",
    "ru": "Озеро глубокое. Кто его измерил? И. Д. Черский. ",
    "el": "Το λάδι είναι πικρό. Γιατί\u037e Έχει φαινόλες. ",
    "hy": "Գիրքը նոր է։ Նա կարդում է։ ",
    "ka": "წიგნი ახალია. ის კითხულობს. ",
    "he": "המים מלוחים. כמה? שלושים אחוז! ",
    "ar": "الجمل يشرب كثيرا. كم لترا؟ مئة لتر. ",
    "ur": "یہ ایک کتاب ہے۔ وہ پڑھتا ہے۔ ",
    "am": "ቡና ከኢትዮጵያ ነው። ጥሩ ነው። ",
    "hi": "मानसून जून में आता है। किसान खुश होते हैं॥ ",
    "bn": "বই নতুন। সে পড়ে। ",
    "ta": "புத்தகம் புதியது. அவர் படிக்கிறார். ",
    "ko": "김치는 발효 음식이다. 며칠 걸리나요? 사흘입니다. ",
    "zh": "绿茶不发酵。红茶呢？“会！”他说。",
    "ja": "鶴を折る。「紙は何枚？」一枚だけ。",
    "my": "ဒါက စာအုပ်ပါ။ ကောင်းပါတယ်။ ",
    "km": "នេះជាសៀវភៅ។ ល្អណាស់។ ",
    "bo": "བོད་ཡིག་ཡིན། དེབ་ཡག་པོ་འདུག། ",
}


PIECES = [
    "3.14",
    "word, ",
    "\n",
    "\n\n",
    "。",
    "ﷺ",
    "👩\u200d👩\u200d👧",
    "🇩🇪",
    "e\u0301",
    "क्ष",
    "กำ",
]
PIECES += ["\u200d", " \u0301", "\U00013000", "x" * 50, " " * 50, "…”", "各"]


@cache
def model() -> Tokenizer:
    return Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))


def whole_clusters(text: str, spans: list[Span]) -> bool:
    """Whether no span begins or ends inside a grapheme cluster; white space has none."""
    starts = {match.start() for match in regex.finditer(r"\s|\X", text)} | {len(text)}
    places = {place for span in spans for place in (span.start, span.end)}
    return all(place in starts or text[place - 1].isspace() for place in places)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_sentences_of_many_languages_stay_whole(lang: str) -> None:
    sample = LANGUAGES[lang]
    last = [sample[span.end - 3 : span.end] for span in sentences(sample)]
    assert len(last) > 1
    for cutter in (Chunker(model(), Chunking(64, 16)), Chunker(model(), Chunking(48, 0))):
        spans = check(sample * 60, "", cutter)
        assert len(spans) > 5
        assert all((sample * 60)[span.end - 3 : span.end] in last for span in spans)


@pytest.mark.parametrize(
    "text",
    [
        "ต้มยำกุ้งเป็นแกงรสเปรี้ยวเผ็ดที่มีกลิ่นหอมของสมุนไพร" * 20,
        "ນີ້ແມ່ນປຶ້ມທີ່ລາວອ່ານຢູ່ໃນຫ້ອງສະໝຸດຂອງໂຮງຮຽນ" * 20,
        "नमस्तेकर्मक्षेत्रज्ञानम्" * 40,
        "漢字仮名交じり文" * 60,
        "👩‍👩‍👧‍👦👍🏽🇩🇪❤️" * 60,
        "e\u0301o\u0302\u0301" * 200,
        "\u1112\u1161\u11ab\u1100\u1173\u11af" * 100,
        "deadbeef0123" * 200,
        "🇩🇪🇫🇷" * 400,
    ],
)
def test_texts_without_breaks_are_cut_between_clusters_and_fill_their_chunks(text: str) -> None:
    cutter = Chunker(model(), Chunking(64, 16))
    spans = check(text, "", cutter)
    assert whole_clusters(text, spans)
    counts = [cutter.count(text[span.start : span.end]) for span in spans[:-1]]
    assert min(counts) > 40


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.sampled_from([*LANGUAGES.values(), *PIECES]),
        max_size=60,
    ).map("".join),
    st.sampled_from([(16, 0), (24, 8), (48, 16)]),
    st.sampled_from(["", "A title"]),
)
def test_any_text_is_cut_in_size_between_clusters(
    text: str, size: tuple[int, int], title: str
) -> None:
    cutter = Chunker(model(), Chunking(*size), window=256)
    if text.strip():
        spans = check(text, title, cutter)
        # a family of three has 6 tokens: where 14 are the most, or less by a title, it may be cut
        assert size[0] == 16 or whole_clusters(text, spans)


def test_a_mark_behind_a_full_stop_stays_with_it() -> None:
    sentence = "Tides rise twice a day. "
    text = f"{sentence * 2}。\u200d{sentence * 2}"
    assert whole_clusters(text, check(text, "", Chunker(model(), Chunking(16, 0))))


def test_what_a_chunk_counts_alone_is_checked() -> None:
    # "xy" is one token before a "z", two at the end of a chunk
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("xy(?=z)|."), "isolated")
    assert len(check("xyz" * 100, "", Chunker(tokenizer, Chunking(17, 0)))) > 12


@settings(deadline=None, max_examples=60)
@given(
    st.text(st.sampled_from("ab .\n\t🙂é漢̈\u200d"), max_size=400).filter(lambda text: text.strip()),
    st.sampled_from([0, 4, 8]),
)
def test_any_text_is_covered_in_order(text: str, overlap: int) -> None:
    check(text, "", chunker(16, overlap))


def test_no_chunk_ends_inside_white_space() -> None:
    tokenizer = words()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # a character is a token
    check(("x" * 14 + " " * 10) * 3 + "x" * 30, "", Chunker(tokenizer, Chunking(16, 8)))


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
    # behind what is shared there may be no room for one
    check(f"abcdefghijklmnop{dense}" * 20, "", Chunker(tokenizer, Chunking(32, 16)))
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


# Where chunks stand


def at(text: str, *pieces: str, title: str = "") -> list[tuple[int | None, list[str]]]:
    """The places of pieces of a text whose lines of "#" are headings, of "page" pages."""
    outline = []
    start = 0
    for line in text.split("\n"):
        if line.startswith("#"):
            outline.append(Section(start, line.count("#"), line))
        elif line.startswith("page"):
            outline.append(Section(start, 0, line[4:]))
        start += len(line) + 1
    spans = [Span(text.index(piece), text.index(piece) + len(piece)) for piece in pieces]
    return list(places(Document("a", text, title, outline=tuple(outline)), spans))


def test_a_chunk_stands_under_the_headings_that_hold_where_it_begins() -> None:
    text = "above\n# A\none two\n### C skips\nthree\n## B\nfour five\n# D\nsix"
    pieces = ("above", "# A\none", "two", "three\n## B\nfour", "five", "# D\nsix")
    paths = [path for _, path in at(text, *pieces)]
    skipped = ["# A", "### C skips"]
    assert paths == [[], ["# A"], ["# A"], skipped, ["# A", "## B"], ["# D"]]
    assert [page for page, _ in at(text, *pieces)] == [None] * 6
    assert at("no heading", "no", "heading") == [(None, [])] * 2


def test_headings_that_open_a_chunk_hold_in_it_and_what_it_shares_does_not() -> None:
    text = "# A\n\n## B\n\n## C\n\n### D\n\none. two\n\n# E\n\n## F\n\nthree four"
    pieces = (
        "# A\n\n## B\n\n## C\n\n### D\n\none. two",
        "two\n\n# E\n\n## F\n\nthree",
        "three four",
    )
    paths = [path for _, path in at(text, *pieces)]
    assert paths == [["# A", "## C", "### D"], ["# E", "## F"], ["# E", "## F"]]


def test_the_title_is_no_heading_of_its_chunks() -> None:
    text = "# A\n## B\none\n# C\n## # A\ntwo"
    assert [path for _, path in at(text, "one", "two", title="# A")] == [
        ["## B"],
        ["# C", "## # A"],
    ]
    assert [path for _, path in at("# A\none", "one", title="# A")] == [[]]


def test_a_chunk_is_on_the_page_where_it_starts() -> None:
    text = "zero\npage1\n# A\none\npage3\ntwo three"
    pieces = ("zero", "one\npage3\ntwo", "page3\ntwo", "three")
    assert at(text, *pieces) == [(None, []), (1, ["# A"]), (3, ["# A"]), (3, ["# A"])]


def test_places_of_many_headings_take_time_in_proportion() -> None:
    count = 50_000
    text = "".join(f"# {number:05}\nword\n" for number in range(count))
    outline = tuple(Section(13 * number, 1, f"# {number:05}") for number in range(count))
    spans = [Span(13 * number + 8, 13 * number + 12) for number in range(count)]
    start = time.monotonic()
    found = list(places(Document("a", text, outline=outline), spans))
    assert time.monotonic() - start < 5
    assert [path for _, path in found] == [[section.label] for section in outline]
