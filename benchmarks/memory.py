"""Resident memory of the encoder over many calls of mixed lengths, which must stay flat.

Every call has another number of tokens, as the requests of a server have: what is prepared for a
shape and never let go would show. Prints MB after each eighth, and CPU seconds.

    python benchmarks/memory.py
    ONEDNN_PRIMITIVE_CACHE_CAPACITY=1024 LRU_CACHE_CAPACITY=1024 python benchmarks/memory.py
"""

import random
import time
from pathlib import Path

import torch
from common import parser, save
from parity_texts import WORDS

from tercet import Encoder


def resident() -> int:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 >> 20


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", help="a folder; by default the bundled model")
    options.add_argument("--dtype", help="by default what suits this machine")
    options.add_argument("--calls", type=int, default=2000)
    args = options.parse_args()
    torch.set_num_threads(1)
    encoder = Encoder.load(args.model, dtype=args.dtype)
    draw = random.Random(1)
    encoder.encode([" ".join(draw.choices(WORDS, k=400))] * 4)  # the longest of all
    facts = {"dtype": str(encoder.dtype), "calls": args.calls, "MB": [resident()]}
    print(f"{encoder.dtype}: {facts['MB'][0]} MB at first", flush=True)
    start = time.process_time()
    for number in range(1, args.calls + 1):
        sizes = draw.choices((1, 5, 20, 60, 200), k=draw.choice((1, 1, 2, 4)))
        encoder.encode([" ".join(draw.choices(WORDS, k=size)) for size in sizes])
        if number % max(1, args.calls // 8) == 0:
            facts["MB"].append(resident())
            seconds = round(time.process_time() - start, 1)
            print(f"{number} calls: {facts['MB'][-1]} MB, {seconds} s", flush=True)
    save(args.json, facts | {"CPU seconds": seconds})


if __name__ == "__main__":
    main()
