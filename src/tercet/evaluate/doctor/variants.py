"""Token sequences of a text as the checkpoint makes them, and as implementations get them wrong.

Knows nothing of heads or endpoints.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer as Backend

from tercet.evaluate.doctor.readings import Cause
from tercet.evaluate.doctor.sequences import Distortion, Ids
from tercet.tokenizer import Tokenizer

# Maximum lengths that servers and libraries set: 512 is FlagEmbedding's default.
LENGTHS = (128, 256, 384, 512, 1024, 2048, 4096)
PREFIXES = (
    "query: ",
    "passage: ",
    "search_query: ",
    "search_document: ",
    "Represent this sentence: ",
    "Represent this sentence for searching relevant passages: ",
    "为这个句子生成表示以用于检索相关文章：",
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ",
)  # of E5, nomic, BGE v1.5 and instruction-tuned models, as their model cards have them

Make = Callable[["Framer", str], Sequence[int] | None]


class Framer:
    """Makes the tokens of texts; what was tokenised once is kept."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.cls, self.eos = [tokenizer.cls_id], [tokenizer.eos_id]
        self._known: dict[str, list[int]] = {}
        self._plain: Tokenizer | None = None

    def content(self, text: str) -> list[int]:
        """All ids of a text, without special tokens around it."""
        if text not in self._known:
            self._known[text] = self.tokenizer.contents([text])[0]
        return self._known[text]

    def spelled(self, text: str) -> list[int]:
        """The same, special tokens in the text read as any other characters."""
        if self._plain is None:
            backend = Backend.from_str(self.tokenizer.backend.to_str())
            backend.encode_special_tokens = True
            self._plain = Tokenizer(backend)
        return self._plain.contents([text])[0]

    def framed(self, content: Sequence[int], limit: int | None = None) -> list[int]:
        """[CLS] content </s>, cut at the end to so many tokens in all."""
        room = min(limit or self.max_length, self.max_length) - 2
        return [*self.cls, *content[:room], *self.eos]


NONE = Distortion()
LATE = 2048  # tokens of a text, beyond which a variant is tried last


@dataclass(frozen=True)
class Variant:
    """One way to come from texts to sequences."""

    cause: Cause | None  # None: as the checkpoint does
    make: Make
    distortion: Distortion = NONE
    everywhere: bool = False  # else of short texts only, which is enough to know it


def plainly(framer: Framer, text: str) -> list[int]:
    """The tokens of a text as the checkpoint has them."""
    return framer.framed(framer.content(text))


def variants(framer: Framer, prefixes: Sequence[str]) -> list[Variant]:
    """The plain one first, then those that were seen to go wrong.

    prefixes: besides the usual ones, such as those that the checkpoint names.
    """
    first = framer.tokenizer.pad_id + 1
    convert = "convert the model anew, or use a newer version of the server"
    positions = [
        Variant(
            Cause(
                f"position ids start at {wrong} instead of {first}",
                f"XLM-RoBERTa counts positions from padding index + 1: {convert}",
            ),
            plainly,
            Distortion(positions=wrong),
        )
        for wrong in range(first)
    ]
    prompts = [_prefixed(prefix) for prefix in dict.fromkeys((*prefixes, *PREFIXES)) if prefix]
    lengths = _lengths(framer.max_length)
    return [  # what takes long comes last
        Variant(None, plainly, everywhere=True),
        *(variant for tokens, variant in lengths if tokens <= LATE),
        *_special_tokens(),
        *prompts,
        *_texts(),
        *positions,
        *(variant for tokens, variant in lengths if tokens > LATE),
    ]


def _lengths(longest: int) -> list[tuple[int, Variant]]:
    """Ways to cut long texts, each with the tokens that it leaves of one."""
    mend = f"allow {longest:,} tokens as the checkpoint does, and check what a client sets"
    right = "truncate at the end: in TEI truncation_direction Right"

    def first(length: int) -> Make:
        return lambda f, text: f.framed(f.content(text), length)

    def last(length: int) -> Make:
        return lambda f, text: f.framed(f.content(text)[-(length - 2) :])

    def without_end(length: int) -> Make:
        return lambda f, text: [*f.cls, *f.content(text), *f.eos][:length]

    cases = [(n, f"texts are cut to {n:,} tokens", mend, first(n)) for n in LENGTHS if n < longest]
    if longest > 514:
        says = "texts are cut to 512 tokens besides [CLS] and </s>"
        cases.append((514, says, mend, first(514)))
    for n in (n for n in (512, longest) if n <= longest):
        says = f"the last {n:,} tokens of long texts are kept instead of the first"
        lost = f"texts are cut to {n:,} tokens, and </s> is lost"
        cases.append((n, says, right, last(n)))
        cases.append((n, lost, f"cut before </s> is put behind; {mend}", without_end(n)))
    return [(n, Variant(Cause(says, how), make, everywhere=True)) for n, says, how, make in cases]


def _special_tokens() -> list[Variant]:
    mend = (
        "put <s> before and </s> behind each text, once: check add_special_tokens, or for GGUF "
        "add_bos_token and add_eos_token"
    )

    def frame(before: int, behind: int) -> Make:
        def make(f: Framer, text: str) -> list[int] | None:
            room = f.max_length - before - behind
            return f.cls * before + f.content(text)[:room] + f.eos * behind or None

        return make

    cases = {
        (0, 1): "[CLS] (<s>) is missing",
        (1, 0): "</s> is missing",
        (0, 0): "[CLS] (<s>) and </s> are missing",
        (2, 1): "[CLS] (<s>) is there twice",
        (1, 2): "</s> is there twice",
        (2, 2): "[CLS] (<s>) and </s> are there twice",
    }
    return [Variant(Cause(says, mend), frame(*counts)) for counts, says in cases.items()]


def _prefixed(prefix: str) -> Variant:
    return _changed(
        lambda text: prefix + text,
        f"{prefix!r} is put before each text",
        "switch the prompt off: in TEI --default-prompt, in sentence-transformers the prompts of "
        "config_sentence_transformers.json",
    )


def _texts() -> list[Variant]:
    unchanged = "send texts to the model as they are"
    encoding = "read and send UTF-8: check the charset of requests and files"
    cases: list[tuple[Callable[[str], str], str, str]] = [
        (str.lower, "texts are lower-cased", unchanged + ": set do_lower_case to false"),
        (_without_accents, "accents are stripped", unchanged + ": set strip_accents to false"),
        (
            lambda text: _without_accents(text.lower()),
            "texts are lower-cased and accents are stripped",
            unchanged + ": this is the tokenizer of an uncased BERT",
        ),
        (str.strip, "blanks at the ends are stripped", unchanged),
        (lambda text: text.replace("\n", " "), "line breaks are replaced by blanks", unchanged),
        (lambda text: " ".join(text.split()), "runs of blanks are made one", unchanged),
        (
            lambda text: unicodedata.normalize("NFKC", text),
            "texts are brought to Unicode's NFKC",
            unchanged,
        ),
        (
            lambda text: unicodedata.normalize("NFC", text),
            "texts are brought to Unicode's NFC",
            unchanged,
        ),
        (
            lambda text: text.encode().decode("latin-1"),
            "UTF-8 is read as Latin-1",
            encoding,
        ),
        (
            lambda text: text.encode("ascii", "ignore").decode(),
            "characters outside ASCII are dropped",
            encoding,
        ),
    ]
    out = [_changed(change, says, mend) for change, says, mend in cases]
    spelled = Cause(
        "special tokens in a text are read as plain text",
        "harmless for most data: the checkpoint's tokenizer takes </s> in a text for a token",
    )
    return [*out, Variant(spelled, lambda f, text: f.framed(f.spelled(text)))]


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    return "".join(c for c in parts if unicodedata.category(c) != "Mn")


def _changed(change: Callable[[str], str], says: str, mend: str) -> Variant:
    return Variant(Cause(says, mend), lambda f, text: f.framed(f.content(change(text))))


def sequence(variant: Variant, framer: Framer, text: str) -> Ids | None:
    """The ids of a text, None where the variant has none."""
    made = variant.make(framer, text)
    return None if made is None else np.array(made, dtype=np.int32)
