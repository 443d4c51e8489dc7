"""Rows to token ids and places, streamed to the folder that `Examples` opens.

What stays in memory of a text is a few numbers. Knows nothing of models or batches. Shapes: N rows,
S texts.
"""

import hashlib
import math
from array import array
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tercet.errors import InputError
from tercet.rows import Record, check_row, numbered_rows, parts_of
from tercet.split import group_rows, text_key
from tercet.tokenizer import Tokenizer
from tercet.train.arrays import ArraysWriter
from tercet.train.config import DataConfig

Progress = Callable[[int, int, int], None]  # bytes of files that are done, of all; tokens
BLOCK = 4096  # texts tokenised at once, or
CHARACTERS = 1 << 20  # as many as these
ARRAYS: dict[str, type] = {
    "ids": np.int32,
    "offsets": np.int64,
    "keys": np.int64,
    "text_group": np.int64,
    "query": np.int64,
    "positives": np.int64,
    "positive_offsets": np.int64,
    "positive_scores": np.float32,
    "negatives": np.int64,
    "negative_offsets": np.int64,
    "negative_scores": np.float32,
    "group": np.int64,
    "source": np.int32,
    "language": np.int32,
    "file": np.int32,
    "line": np.int64,
}


@dataclass(frozen=True)
class Role:
    """What is put before the texts of a role, and the content tokens that are read of one."""

    prefix: str
    limit: int


@dataclass(frozen=True)
class Roles:
    """Queries and passages; raw texts are passages."""

    query: Role
    passage: Role

    @staticmethod
    def of(config: DataConfig, tokenizer: Tokenizer) -> "Roles":
        """The roles of a config."""
        return Roles(
            Role(config.query_prefix, tokenizer.content_limit(config.query_tokens)),
            Role(config.passage_prefix, tokenizer.content_limit(config.passage_tokens)),
        )


def write_examples(
    folder: Path,
    key: str,
    inputs: Sequence[Sequence[Path]],
    labels: Sequence[str],
    tokenizer: Tokenizer,
    roles: Roles,
    progress: Progress | None = None,
) -> None:
    """Reads the files of every source into a folder; raises InputError on what cannot train."""
    sizes = [[sum(part.stat().st_size for part in parts_of(p)) for p in ps] for ps in inputs]
    total = sum(size for some in sizes for size in some)
    done = shown = number = 0
    with ArraysWriter(folder, key, ARRAYS) as writer:
        rows = _Rows(writer, _Texts(writer, tokenizer, roles))
        for source, paths in enumerate(inputs):
            before = rows.count
            for path, size in zip(paths, sizes[source], strict=True):
                for line, row in numbered_rows(path):
                    rows.add(check_row(row, f"{path}:{line}"), roles)
                    writer.extend("source", (source,))
                    writer.extend("file", (number,))
                    writer.extend("line", (line,))
                    if progress is not None and rows.texts.tokens > shown:
                        shown = rows.texts.tokens
                        progress(done, total, shown)
                number, done = number + 1, done + size
            if rows.count == before:
                names = ", ".join(str(path) for path in paths)
                raise InputError(f"source {labels[source]}: no rows in {names}")
        rows.finish()


class _Texts:
    """Different texts in the order of their first appearance, by place 0, 1, ..."""

    def __init__(self, writer: ArraysWriter, tokenizer: Tokenizer, roles: Roles) -> None:
        self.keys = array("q")  # text_key of each
        self.tokens = 0
        self._writer, self._tokenizer = writer, tokenizer
        self._places: dict[int, int] = {}  # by a hash of the exact text
        self._waiting: list[tuple[str, int]] = []  # texts to be tokenised, and their limits
        self._characters = 0
        self._limits = sorted((roles.query.limit, roles.passage.limit))
        writer.extend("offsets", (0,))

    def place(self, text: str, prefix: str, limit: int, refused: Container[int] = ()) -> int | None:
        """The place of a text behind a prefix; None where its text_key is among the refused.

        A query and a passage share a place, unless one may be cut and the other not.
        """
        least, most = self._limits
        if len(prefix) + len(text) <= least:
            limit = most
        exact = f"{limit} {len(prefix)} {prefix}{text}".encode("utf-8", "surrogatepass")
        digest = int.from_bytes(hashlib.blake2b(exact, digest_size=8).digest(), "big")
        found = self._places.get(digest)
        key = text_key(text) if found is None else self.keys[found]
        if key in refused:
            return None
        if found is None:
            found = self._places[digest] = len(self.keys)
            self.keys.append(key)
            self._waiting.append((prefix + text, limit))
            self._characters += len(prefix) + len(text)
            if len(self._waiting) >= BLOCK or self._characters >= CHARACTERS:
                self.flush()
        return found

    def flush(self) -> None:
        """Tokenises what waits."""
        contents: list[list[int]] = [[]] * len(self._waiting)
        for limit in set(self._limits):
            own = [at for at, (_, its) in enumerate(self._waiting) if its == limit]
            found = self._tokenizer.contents([self._waiting[at][0] for at in own], limit=limit)
            for at, ids in zip(own, found, strict=True):
                contents[at] = ids
        for ids in contents:
            self.tokens += len(ids)
            self._writer.extend("ids", ids)
            self._writer.extend("offsets", (self.tokens,))
        self._waiting.clear()
        self._characters = 0


class _Rows:
    """Columns of the rows, and the groups when all are there."""

    def __init__(self, writer: ArraysWriter, texts: _Texts) -> None:
        self.texts, self.count = texts, 0
        self._writer = writer
        self._languages: dict[str, int] = {}
        self._ends = {"positive": 0, "negative": 0}
        self._given = array("q"), array("q")  # rows that bring a group id, and the ids
        for name in self._ends:
            writer.extend(f"{name}_offsets", (0,))

    def add(self, record: Record, roles: Roles) -> None:
        """One row; a positive that is also among the negatives is left out of these."""
        asked, answer = roles.query, roles.passage
        if record.raw:
            query = self.texts.place(record.query, answer.prefix, answer.limit)
        else:
            prefix = asked.prefix if record.prompt is None else record.prompt
            query = self.texts.place(record.query, prefix, asked.limit)
        self._writer.extend("query", (query,))
        positives = self._list("positive", record.pos, record.pos_scores, answer, ())
        refused = {self.texts.keys[place] for place in positives}
        self._list("negative", record.neg, record.neg_scores, answer, refused)
        number = self._languages.setdefault(record.lang, len(self._languages))
        self._writer.extend("language", (number,))
        if record.group is not None:
            self._given[0].append(self.count)
            self._given[1].append(record.group)
        self.count += 1

    def _list(
        self,
        name: str,
        texts: Sequence[str],
        scores: Sequence[float] | None,
        role: Role,
        refused: Container[int],
    ) -> list[int]:
        """Appends a row's positives or negatives and returns their places."""
        found = [self.texts.place(text, role.prefix, role.limit, refused) for text in texts]
        kept = [(place, at) for at, place in enumerate(found) if place is not None]
        self._writer.extend(f"{name}s", [place for place, _ in kept])
        self._writer.extend(
            f"{name}_scores", [scores[at] if scores is not None else math.nan for _, at in kept]
        )
        self._ends[name] += len(kept)
        self._writer.extend(f"{name}_offsets", (self._ends[name],))
        return [place for place, _ in kept]

    def finish(self) -> None:
        """The rest: text keys, and groups through them."""
        self.texts.flush()
        keys = np.array(self.texts.keys, dtype=np.int64)
        self._writer.extend("keys", keys)
        query, positives = self._writer.written("query"), self._writer.written("positives")
        offsets = self._writer.written("positive_offsets") + np.arange(self.count + 1)
        of_rows = np.empty(int(offsets[-1]), dtype=np.int64)  # each row's query, then positives
        is_query = np.zeros(len(of_rows), dtype=np.bool_)
        is_query[offsets[:-1]] = True
        of_rows[is_query], of_rows[~is_query] = keys[query], keys[positives]
        rows, ids = (np.array(some, dtype=np.int64) for some in self._given)
        groups = group_rows(of_rows, offsets, (rows, ids))
        self._writer.extend("group", groups.rows)
        self._writer.extend("text_group", groups.of_texts(keys))
        self._writer.facts["languages"] = list(self._languages)
