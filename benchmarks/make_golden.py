"""Stores what FlagEmbedding gives on the small random checkpoint, for the tests to compare with.

Run once, with the peers installed (`make peers`), whenever the texts or the checkpoint change:

    python benchmarks/make_golden.py

Writes two small files to tests/golden: `encoder.npz`, the numbers of all comparison texts (of
each text's token vectors a dozen, of full float32), and `flag_class.npz`, what the methods of
BGEM3FlagModel return. Each carries its provenance: versions, and digests of weights and texts.
"""

import json
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from common import PEERS, ROOT, parser
from make_reference import SMALL, digests, write_reference
from parity_texts import SENTENCES, cases, words
from peers import run_peer

from tercet.config import MAX_LENGTH

GOLDEN = ROOT / "tests" / "golden"
TOKENS = 12  # token vectors kept of each text, evenly spaced, the last one among them
CLASS_JOB: dict[str, Any] = {
    "texts": [*SENTENCES[:6], "", "the water <mask> of the old bridge", words(400, step=11)],
    "weights": [0.4, 0.2, 0.4],
    "instruction": "Find the passage: ",
    "format": "{}{}",
    "truncate_dim": 24,
}


def kept_tokens(offsets: Any) -> Any:
    """Rows of the packed token vectors that the golden file keeps."""
    kept = []
    for start, stop in pairwise(offsets):
        rows = np.linspace(start, stop - 1, min(TOKENS, stop - start))
        kept.append(rows.round().astype(np.int64))
    return np.concatenate(kept)


def save(path: Path, arrays: Any, facts: dict[str, Any]) -> None:
    provenance = np.array(json.dumps(facts, indent=1))
    contents = {name: arrays[name] for name in arrays if name != "versions"}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, provenance=provenance, **contents)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KB")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--peers", type=Path, default=PEERS)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        model = work / "reference"
        shape = write_reference(model, SMALL)
        texts = [case.text for case in cases()]
        job: dict[str, Any] = {"texts": texts, "max_length": MAX_LENGTH}
        job["colbert_dim"] = shape.multi
        with np.load(run_peer(args.peers, "FlagEmbedding", model, job, work)) as loaded:
            arrays = dict(loaded)
        facts = {"what": "BGEM3FlagModel.encode, use_fp16=False, batch_size=1, max_length=8192"}
        facts |= json.loads(str(arrays["versions"])) | digests(shape, texts)
        arrays["tokens"] = kept_tokens(arrays["offsets"])
        arrays["multi"] = arrays["multi"][arrays["tokens"]]
        save(GOLDEN / "encoder.npz", arrays, facts)

        job = CLASS_JOB | {"colbert_dim": shape.multi}
        with np.load(run_peer(args.peers, "FlagEmbedding class", model, job, work)) as loaded:
            arrays = dict(loaded)
        facts = {"what": "methods of BGEM3FlagModel, batch_size=1"}
        facts |= json.loads(str(arrays["versions"])) | digests(shape, job["texts"])
        save(GOLDEN / "flag_class.npz", arrays, facts)


if __name__ == "__main__":
    main()
