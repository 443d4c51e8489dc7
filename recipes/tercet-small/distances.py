"""How far students are from their teacher, language by language, on held-out sentences.

`python distances.py TEACHER STUDENT... --rows SPLIT/dev/parallel_ntrex.jsonl.gz` prints 1,000 times
the mean cosine distance of dense vectors and of tokens' multi-vectors, and the number of tokens
relative to the teacher's. A token is compared with the teacher's token that covers its last
character. Finer than retrieval: it showed what the trimmed vocabulary costs each language.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from tercet.checkpoint import Checkpoint, read_checkpoint
from tercet.model import dense_vectors
from tercet.rows import read_rows
from tercet.tokenizer import TokenBatch
from tercet.train.init import sample_states

LANGUAGES = "en fi ja ru ar hi el th tr ka fa he bn ko kk sw am yo".split()
SENTENCES, TOKENS = 60, 160  # of a language, of a sentence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", help="the teacher, and students")
    parser.add_argument("--rows", type=Path, required=True, help="rows of translations")
    parser.add_argument("--prefix", default="passage: ", help="of the teacher")
    given = parser.parse_args()
    texts: dict[str, dict[str, None]] = defaultdict(dict)
    for row in read_rows(given.rows):
        first, _, last = row["lang"].rpartition("-")
        texts[first][row["query"]] = None
        texts[last][row["pos"][0]] = None
    some = {name: list(texts[name])[:SENTENCES] for name in LANGUAGES if texts[name]}
    teacher, *students = (read_checkpoint(path) for path in given.models)
    known = {name: read(teacher, found, given.prefix) for name, found in some.items()}
    for path, student in zip(given.models[1:], students, strict=True):
        rows = [compare(known[name], read(student, found, "")) for name, found in some.items()]
        for number, what in enumerate(("dense", "tokens", "length")):
            column = [row[number] for row in rows]
            cells = " ".join(f"{name} {x:.4g}" for name, x in zip(some, column, strict=True))
            sys.stdout.write(f"{path} {what}: {cells}; mean {np.mean(column):.4g}\n")


Read = tuple[torch.Tensor, torch.Tensor, TokenBatch, list[np.ndarray]]


@torch.no_grad()
def read(model: Checkpoint, texts: list[str], prefix: str) -> Read:
    """Dense vectors, multi-vectors, tokens, and where each token ends in its text."""
    assert model.model.multi is not None
    places = [model.tokenizer.with_offsets(prefix + text) for text in texts]
    tokens = model.tokenizer.frame([ids for ids, _ in places], max_length=TOKENS)
    states = sample_states(model.model, tokens)
    dense = dense_vectors(states, torch.from_numpy(tokens.offsets[:-1]))
    ends = [spans[: size - 2, 1] - len(prefix) for (_, spans), size in zip(
        places, tokens.lengths.tolist(), strict=True)]  # fmt: skip
    return dense, model.model.multi(states), tokens, ends


def compare(teacher: Read, student: Read) -> tuple[float, float, float]:
    """Distances of dense vectors and of tokens, times 1,000, and the relative number of tokens."""
    wanted, theirs, long, ends = teacher
    dense, multi, short, mine = student
    near = []
    for text, (covers, own) in enumerate(zip(ends, mine, strict=True)):
        seen = own <= covers[-1]
        at = np.searchsorted(covers, own[seen]).clip(max=len(covers) - 1) + 1  # behind [CLS]
        first = int(short.offsets[text]) + 1
        goal = theirs[torch.from_numpy(long.offsets[text] + at)]
        near.append((multi[first : first + int(seen.sum())] * goal).sum(-1))
    return (
        1000 * (1 - float((wanted * dense).sum(-1).mean())),
        1000 * (1 - float(torch.cat(near).mean())),
        len(short.ids) / len(long.ids),
    )


if __name__ == "__main__":
    main()
