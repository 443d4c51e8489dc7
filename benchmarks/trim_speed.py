"""What `tercet trim` adds to the tokenizer: counting all pieces of a text beside tokenising it.

    nice python benchmarks/trim_speed.py --texts data/train/*.jsonl.xz --tokenizer tokenizer.json

The first --megabytes of the files' texts, of each file an equal part; repeated if they are fewer,
which flatters the counting, so that is said. Then, one after the other, seconds and seconds of all
cores:

read       the rows from their files, which trim does besides
tokenizer  encode_batch_fast alone, on blocks of texts, its results thrown away
count      the number of texts in which each piece occurs (trim)
bounded    the same, and once more for the texts that lose pieces (--vocabulary)
languages  the occurrences of each piece in each language (--balanced)
"""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import parser, save

from tercet.rows import tagged_texts, text_files
from tercet.tokenizer import Tokenizer
from tercet.train.prune_vocab import count_languages, score_ids, texts_with

BLOCK = 4096  # texts that the tokenizer alone is given at once
Pair = tuple[str, str]


def texts_of(files: Sequence[Path], size: int) -> tuple[list[Pair], int]:
    """(language, text) of so many bytes, and how many bytes of them repeat none."""
    pairs: list[Pair] = []
    total = 0
    for number, path in enumerate(files):
        share = total + (size - total) // (len(files) - number)
        for pair in tagged_texts([path]):
            if total >= share:
                break
            pairs.append(pair)
            total += len(pair[1].encode("utf-8", "replace"))
    own = total
    at = 0
    while total < size and own:
        pairs.append(pairs[at])
        total += len(pairs[at][1].encode("utf-8", "replace"))
        at += 1
    return pairs, own


def alone(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """The tokenizer and nothing else."""
    for first in range(0, len(texts), BLOCK):
        tokenizer.backend.encode_batch_fast(texts[first : first + BLOCK], add_special_tokens=False)


def bounded(tokenizer: Tokenizer, pairs: Sequence[Pair]) -> None:
    """Counts, and counts the texts with a piece of the rarer half."""
    counts = score_ids(tokenizer, pairs)
    texts_with(tokenizer, pairs, counts < np.median(counts[counts > 0]), 1)


def main() -> None:
    given = parser(__doc__)
    given.add_argument("--texts", type=Path, nargs="+", required=True)
    given.add_argument("--tokenizer", type=Path, required=True)
    given.add_argument("--megabytes", type=float, default=440.0)
    options = given.parse_args()
    tokenizer = Tokenizer.from_file(options.tokenizer)
    steps: dict[str, dict[str, float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        done = work()
        steps[name] = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(name, *(f"{key} {value:.2f}" for key, value in steps[name].items()), flush=True)
        return done

    files = text_files(options.texts)
    pairs, own = timed("read", lambda: texts_of(files, int(options.megabytes * 1e6)))
    print(f"{len(pairs):,} texts; {own / 1e6:,.1f} of {options.megabytes:,.1f} MB repeat none")
    texts = [text for _, text in pairs]
    timed("count", lambda: score_ids(tokenizer, pairs))
    timed("bounded", lambda: bounded(tokenizer, pairs))
    timed("languages", lambda: count_languages(tokenizer, pairs))
    timed("tokenizer", lambda: alone(tokenizer, texts))
    for name in ("count", "bounded", "languages"):
        ratio = {
            kind: steps[name][kind] / steps["tokenizer"][kind]
            for kind in ("seconds", "cpu_seconds")
        }
        print(f"{name} / tokenizer:", *(f"{key} {value:.2f}" for key, value in ratio.items()))
    save(options.json, {"texts": len(pairs), "steps": steps})


if __name__ == "__main__":
    main()
