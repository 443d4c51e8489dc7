"""Causes that show without trying variants: order, neighbours, refusals, nonsense, other weights.

Knows nothing of endpoints or of how causes are told.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tercet.evaluate.doctor.compare import SAME, WORST, error
from tercet.evaluate.doctor.readings import Answer, Cause, Kind, Sparse
from tercet.evaluate.doctor.reference import Reference, expected
from tercet.evaluate.doctor.routes import Text
from tercet.evaluate.doctor.search import Explained, Search, size_of

HALF, THIRD = 0.5, 1 / 3
RELATED = 0.8  # of the length: vectors of a fine-tuned model are nearer, those of strangers are not
ALONE, SHORT = 8, 512  # texts that are asked again one by one, and their tokens
GAP = 4  # times the errors of other texts: from there on a text is one that differs
NAMED = 4  # texts that are named

Again = Callable[[Sequence[Text], Kind], list[Answer | None]]


def texts_of(reference: Reference) -> list[Text]:
    """The texts with the ids that the checkpoint makes of them."""
    both = zip(reference.texts.values(), reference.raws(0), strict=True)
    weightless = reference.about.weightless
    return [Text(text, () if raw is None else raw.ids.tolist(), weightless) for text, raw in both]


def unusable(answers: Sequence[Answer | None]) -> Explained | None:
    """Answers that are empty, no finite numbers, or all alike."""
    some = [a.weights if isinstance(a, Sparse) else a for a in answers if a is not None]
    sparse = any(isinstance(a, Sparse) for a in answers)
    dense = not sparse and any(part.ndim == 1 and part.size for part in some)
    bad = sum(not np.isfinite(part).all() for part in some)
    empty = sum(part.size == 0 for part in some)
    if bad:
        mend = "float16 overflows in some models: serve in bfloat16 or float32; check the weights"
        return _certain(f"{bad} of {len(some)} answers hold no finite numbers", mend)
    if empty > len(some) / 2 or (empty and dense):  # a text without content may have no weight
        return _certain(f"{empty} of {len(some)} answers are empty", "check the server's log")
    if dense and len(some) > 2 and all(error(part, some[0]) < SAME["multi"] for part in some):
        return _certain("all texts get the same vector", "check that texts reach the model")
    return None


def shuffled(reference: Reference, search: Search) -> Explained | None:
    """Answers that are right but of other texts."""
    limit = reference.limits()[search.kind]["int8"]
    right = expected(reference.raws(0), search.kind, reference.about)
    moved, before, after = 0, [], []
    for row, own in enumerate(search.plain):
        answer = search.answers[row]
        if own is not None and own > limit and answer is not None:
            nearest = min(error(answer, other) for other in right if other is not None)
            moved += nearest <= limit
            before.append(own)
            after.append(nearest)
    if moved < 2 or moved <= HALF * len(before):
        return None
    cause = Cause(
        "vectors are right but come in another order than the texts",
        "give answers in the order of the texts, or an index with each",
    )
    return Explained((cause,), 1 - sum(after) / sum(before))


def neighbours(reference: Reference, search: Search, again: Again) -> Explained | None:
    """Texts that get other, better answers when they are asked alone."""
    texts = texts_of(reference)
    errors = {
        row: own
        for row, own in enumerate(search.plain)
        if own is not None and own > SAME[search.kind] and len(texts[row].ids) <= SHORT
    }
    rows = sorted(errors, key=lambda row: -errors[row])[:ALONE]
    found: list[Answer | None] = [None] * len(texts)
    for row, answer in zip(rows, again([texts[row] for row in rows], search.kind), strict=True):
        found[row] = answer
    alone = Search(reference, search.kind, found).errors
    if not alone:
        return None
    before, after = float(np.mean([errors[row] for row in rows])), float(np.mean(alone))
    if after > THIRD * before:
        return None
    cause = Cause(
        "a text's vector depends on the texts that it is sent with: alone it is right",
        "mask padding in attention, pooling and heads; till then send texts one by one",
    )
    return Explained((cause,), 1 - after / before)


def refused_too_soon(
    reference: Reference, search: Search, refused: dict[int, str]
) -> Explained | None:
    """Refused texts that the checkpoint takes whole; empty ones may be refused."""
    texts, longest = texts_of(reference), reference.about.max_length
    size = {row: len(text.ids) for row, text in enumerate(texts) if text.text.strip()}
    short = [row for row in refused if size.get(row, longest) < longest]
    if not short:
        return None
    least = min(size[row] for row in short)
    taken = (size.get(row, 0) for row, own in enumerate(search.plain) if own is not None)
    fits = max((tokens for tokens in taken if tokens < least), default=0)
    return _certain(
        f"texts of {least:,} tokens and more are refused, {fits:,} are taken: {refused[short[0]]}",
        f"allow {longest:,} tokens: in vLLM --max-model-len, in TEI --max-batch-tokens",
    )


def only_some(reference: Reference, search: Search) -> Explained | None:
    """What those texts have in common that differ much more than most do."""
    errors = {row: own for row, own in enumerate(search.plain) if own is not None}
    order = sorted(errors, key=lambda row: errors[row])
    floor = max(SAME[search.kind], errors[order[len(order) // 2]])
    wrong = [row for row in order if errors[row] > GAP * floor]
    if not wrong or errors[wrong[0]] <= GAP * max(floor, errors[order[-len(wrong) - 1]]):
        return None
    sizes = [len(text.ids) for text in texts_of(reference)]
    right = max(sizes[row] for row in errors if row not in wrong)
    least = min(sizes[row] for row in wrong)
    if right < least:
        mend = f"allow {reference.about.max_length:,} tokens as the checkpoint does"
        counts = {_count(search.answers[row]) for row in wrong}
        if len(counts) == 1 and (count := counts.pop()) is not None and count < least:
            return _guess(f"long texts are cut: all of them have {count:,} vectors", mend)
        return _guess(
            f"long texts are cut or changed: those up to {right:,} tokens are right, from "
            f"{least:,} on they differ",
            mend,
        )
    names = [list(reference.texts)[row] for row in sorted(wrong)]
    more = ", ..." if len(names) > NAMED else ""
    return _guess(
        f"only some texts differ: {', '.join(map(repr, names[:NAMED]))}{more}",
        "look at what is special in them: texts may be changed on their way to the model",
    )


def unknown(reference: Reference, search: Search, trunk_is_right: bool) -> Explained:
    """What can be said where nothing fits: other sizes, other weights."""
    kind, about = search.kind, reference.about
    mend = f"check which model and revision is served; {about.model} is compared with"
    size = next((size_of(a) for a in search.answers if a is not None and size_of(a)), 0)
    if size and size != (whole := about.size(kind)):
        return _guess(f"another model: vectors of {size:,} dimensions instead of {whole:,}", mend)
    if kind in ("sparse", "multi") and trunk_is_right:
        file = "sparse_linear" if kind == "sparse" else "colbert_linear"
        return _guess(
            f"the {kind} head's own weights are not the checkpoint's: the trunk is right",
            f"load {file}.pt of the checkpoint: where it is not found, some libraries go on with "
            "random weights",
        )
    if float(np.median(search.errors or [WORST])) < RELATED:
        return _guess(
            "weights of a related checkpoint, such as a fine-tuned one or another revision, or "
            "coarser quantisation than int8",
            mend,
        )
    says = "weights of another checkpoint, or something that is not in the list of causes"
    return _guess(says, mend)


def nothing(refused: dict[int, str]) -> Explained:
    """No answer to any text."""
    why = next(iter(refused.values()), "there is none")
    return _certain(f"no answer to any text: {why}", "check the server's log")


def _count(answer: Answer | None) -> int | None:
    """The vectors of a text, where it may have several."""
    return len(answer) if isinstance(answer, np.ndarray) and answer.ndim == 2 else None


def _certain(says: str, mend: str) -> Explained:
    return Explained((Cause(says, mend),), 1.0)


def _guess(says: str, mend: str) -> Explained:
    return Explained((Cause(says, mend),), 0.0)
