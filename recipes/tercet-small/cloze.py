"""Paragraphs to pairs: a beginning asks for the rest (the inverse cloze task, Lee et al. 2019).

`python cloze.py MIX/raw --to FILE` gives text of languages without questions of their own a part in
the unified stage, as news are asked for by their first line.
"""

import argparse
import json
import random
from pathlib import Path

from tercet.io import atomic_write
from tercet.rows import read_rows

BEGINNING = 40, 120  # characters, drawn for each row
REST = 80  # characters at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, help="folder of rows with a text")
    parser.add_argument("--to", type=Path, required=True, help="file of the pairs, .jsonl.gz")
    given = parser.parse_args()
    draw = random.Random(0)
    with atomic_write(given.to) as file:
        for path in sorted(given.rows.glob("*.jsonl*")):
            for row in read_rows(path):
                text = row["text"]
                at = text.find(" ", draw.randint(*BEGINNING))
                if at > 0 and len(text) - at > REST:
                    pair = {"query": text[:at], "pos": [text[at + 1 :]], "lang": row["lang"]}
                    line = json.dumps({**pair, "source": row["source"]}, ensure_ascii=False)
                    file.write(f"{line}\n".encode())


if __name__ == "__main__":
    main()
