"""Answers of a local folder or hub id, through our own encoder, and what its files say.

Knows nothing of endpoints or verdicts.
"""

from collections.abc import Sequence

import numpy as np

from tercet.config import HEADS, Head
from tercet.encoder import Encoder
from tercet.evaluate.doctor.compare import Fact
from tercet.evaluate.doctor.endpoints import Answers
from tercet.evaluate.doctor.readings import Answer, Kind, Sparse
from tercet.evaluate.doctor.reference import About
from tercet.evaluate.doctor.routes import Text
from tercet.evaluate.doctor.sequences import TOKENS


def answers_of(encoder: Encoder, texts: Sequence[Text], kinds: Sequence[Kind]) -> Answers:
    """What the model gives, without prefixes; vectors of tokens of texts up to 1,024 tokens."""
    heads: list[Head] = [head for head in HEADS if head in kinds and head in encoder.heads]
    found: dict[Kind, list[Answer | None]] = {head: [None] * len(texts) for head in heads}
    short = [row for row, text in enumerate(texts) if len(text.ids) <= TOKENS]
    long = [row for row in range(len(texts)) if row not in set(short)]
    for rows, some in ((short, heads), (long, [head for head in heads if head != "multi"])):
        if not rows or not some:
            continue
        made = encoder.encode([texts[row].text for row in rows], heads=some, role="plain")
        for place, row in enumerate(rows):
            if made.dense is not None:
                found["dense"][row] = made.dense[place]
            if made.sparse is not None:
                start, end = made.sparse.indptr[place : place + 2]
                weights = made.sparse.data[start:end].tolist()
                found["sparse"][row] = Sparse.of(made.sparse.indices[start:end], weights)
            if made.multi is not None:
                found["multi"][row] = made.tokens(place).astype(np.float32)
    where = encoder.source or "the model that comes with Tercet"
    return Answers(f"{where} ({str(encoder.dtype).removeprefix('torch.')})", found)


def facts_of(encoder: Encoder, texts: Sequence[Text], about: About) -> list[Fact]:
    """What differs from the checkpoint besides vectors."""
    out: list[Fact] = []
    if encoder.fingerprint == about.fingerprint:
        return out
    out.append(
        Fact("the files of weights, tokenizer or prefixes are not the checkpoint's own", False)
    )
    out += [
        Fact(f"there is no {kind} head, which the checkpoint has")
        for kind in about.kinds
        if kind != "states" and kind not in encoder.heads
    ]
    out += [
        Fact(f"{name} has size {encoder.dims[name]:,} instead of {size:,}")
        for name, size in about.dims.items()
        if encoder.dims.get(name, size) != size
    ]
    if encoder.max_length < about.max_length:
        out.append(
            Fact(f"there are positions for {encoder.max_length:,} tokens, not {about.max_length:,}")
        )
    limit = min(encoder.max_length, about.max_length)
    tokens = encoder.tokenizer.encode([text.text for text in texts], max_length=limit)
    other = []
    for row, text in enumerate(texts):
        mine = tokens.ids[int(tokens.offsets[row]) : int(tokens.offsets[row + 1])]
        if len(text.ids) <= limit and not np.array_equal(mine, text.ids):
            other.append(row)
    if other:
        first = texts[other[0]].text[:30]
        out.append(
            Fact(f"the tokenizer gives other ids for {len(other)} texts, the first {first!r}")
        )
    mine_of = {"query": encoder.settings.query_prefix, "passage": encoder.settings.passage_prefix}
    for role, prefix in about.prefixes.items():
        if (own := mine_of[role]) != prefix:
            out.append(Fact(f"the {role} prefix is {own!r} instead of {prefix!r}"))
    return out
