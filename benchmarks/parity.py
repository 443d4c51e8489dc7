"""The same numbers: Tercet beside FlagEmbedding on the same random checkpoint and texts.

Compares, in float32, dense vectors, multi-vectors and sparse weights with what FlagEmbedding
gives one text at a time; in bfloat16, the cosines. Then writes the checkpoint with Tercet's own
writer and compares what FlagEmbedding, transformers and sentence-transformers make of that folder.
Also asserts that different texts lie 100 tolerances apart, so that a match means something.

    make peers
    python benchmarks/parity.py                                   # small, a minute
    python benchmarks/parity.py --size full --tokenizer DIR       # 24 layers, 2.3 GB on disk
    python benchmarks/parity.py --model src/tercet/models/small   # a folder as it is

Exit status 1 where anything misses its tolerance.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from common import PEERS, ROOT, parser, save
from make_reference import FULL, SMALL, write_reference
from parity_texts import Case, cases
from peers import run_peer

from tercet.checkpoint import read_checkpoint, write_checkpoint
from tercet.config import MAX_LENGTH
from tercet.embeddings import Embeddings
from tercet.encoder import Encoder

ABSOLUTE, RELATIVE, SPARSE = 1e-5, 1e-4, 1e-4  # tolerances in float32
COSINE_DENSE, COSINE_TOKEN = 0.999, 0.99  # floors in bfloat16
LONG = 2000  # tokens; longer texts are left out of the round trip
APART = 100  # different texts differ by this many tolerances

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """One line of the report: a worst value beside its limit."""

    what: str
    where: str  # the text with the worst value
    value: float
    limit: float
    least: bool = False  # the limit is a floor

    @property
    def passed(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit


@dataclass(frozen=True)
class Numbers:
    """What one implementation gave: dense (B, D), sparse CSR (B, V), multi (sum T, M), offsets."""

    dense: Floats
    sparse: Any = None  # None, as the two below, where only dense was computed
    multi: Any = None
    offsets: Any = None

    @staticmethod
    def load(path: Path, vocabulary: int) -> "Numbers":
        with np.load(path) as arrays:
            sparse = multi = offsets = None
            if "sparse_data" in arrays:
                parts = tuple(arrays[f"sparse_{n}"] for n in ("data", "indices", "indptr"))
                sparse = sp.csr_array(parts, shape=(len(parts[2]) - 1, vocabulary))
                multi, offsets = arrays["multi"], arrays["offsets"]
            return Numbers(arrays["dense"], sparse, multi, offsets)


def ours(encoder: Encoder, texts: list[str], max_length: int, *, exact: bool = True) -> Numbers:
    """All texts in one call, so batched with each other; exact multi-vectors before float16."""
    got = encoder.encode(texts, max_length=max_length)
    if got.multi is None or got.sparse is None:
        raise AssertionError("all heads were asked for")
    multi = got.multi.astype(np.float32)
    if exact:
        stored, multi = multi, multi_before_rounding(encoder, texts, max_length)
        if np.abs(stored - multi).max() > 2**-10:
            sys.exit("the stored multi-vectors are not the model's, rounded to float16")
    return Numbers(dense_of(got), got.sparse.to_scipy(), multi, got.offsets)


def dense_of(embeddings: Embeddings) -> Floats:
    if embeddings.dense is None:
        raise AssertionError("dense vectors were asked for")
    return embeddings.dense


def multi_before_rounding(encoder: Encoder, texts: list[str], max_length: int) -> Floats:
    """(sum T, M) float32, text by text: Embeddings hold float16, too coarse for the tolerance."""
    parts = []
    for text in texts:
        batch = encoder.tokenizer.encode([text], max_length=max_length)
        (out,) = encoder.runtime.passes(batch, ("multi",), half=False)
        assert out.multi is not None
        parts.append(np.delete(out.multi, batch.cls, axis=0))
    return np.concatenate(parts)


def token_owner(numbers: Numbers) -> npt.NDArray[np.int64]:
    counts = np.diff(numbers.offsets)
    return np.repeat(np.arange(len(counts)), counts)


def worst(name: str, errors: Floats, rows: Any, named: list[Case], limit: float) -> Check:
    """The largest error, with the text it belongs to."""
    at = int(errors.argmax())
    return Check(name, named[int(rows[at])].name, float(errors[at]), limit)


def compare_vectors(
    what: str, a: Floats, b: Floats, rows: Any, named: list[Case], *, relative: bool = True
) -> list[Check]:
    """Largest absolute difference, and difference relative to the vector's length."""
    checks = [worst(f"{what}: absolute", np.abs(a - b).max(1), rows, named, ABSOLUTE)]
    if relative:
        error = np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
        checks.append(worst(f"{what}: relative", error, rows, named, RELATIVE))
    return checks


def compare_sparse(what: str, a: sp.csr_array, b: sp.csr_array, named: list[Case]) -> list[Check]:
    """Largest difference of a weight, an id that one side lacks counting as 0."""
    errors = np.asarray(abs(a - b).max(axis=1).toarray()).ravel()
    checks = [worst(f"{what}: weights", errors, range(len(errors)), named, SPARSE)]
    loud = [((m > SPARSE).astype(np.int8)) for m in (a, b)]
    for side, (one, other) in (("ours", (a, loud[1])), ("theirs", (b, loud[0]))):
        present = (one > 0).astype(np.int8)
        missing = (other - other.multiply(present)).sum(axis=1)
        checks.append(
            worst(f"{what}: ids missing in {side}", missing, range(len(missing)), named, 0)
        )
    return checks


def compare(what: str, a: Numbers, b: Numbers, named: list[Case]) -> list[Check]:
    """All float32 checks of two implementations."""
    checks = compare_vectors(f"{what} dense", a.dense, b.dense, range(len(named)), named)
    if b.multi is None:
        return checks
    counts = np.abs(np.diff(a.offsets) - np.diff(b.offsets)).astype(np.float32)
    checks.append(worst(f"{what} token counts", counts, range(len(counts)), named, 0))
    if counts.max() == 0:
        checks += compare_vectors(f"{what} multi", a.multi, b.multi, token_owner(a), named)
    return checks + compare_sparse(f"{what} sparse", a.sparse, b.sparse, named)


def compare_cosines(what: str, a: Numbers, b: Numbers, named: list[Case]) -> list[Check]:
    """The smallest cosines of dense and of token vectors."""
    checks = []
    for name, x, y, rows, floor in (
        ("dense", a.dense, b.dense, np.arange(len(named)), COSINE_DENSE),
        ("every token", a.multi, b.multi, token_owner(a), COSINE_TOKEN),
    ):
        cosine = (x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
        at = int(cosine.argmin())
        label = f"{what} {name}: cosine"
        checks.append(Check(label, named[rows[at]].name, float(cosine[at]), floor, least=True))
    return checks


def check_apart(numbers: Numbers, ids: list[list[int]], named: list[Case]) -> list[Check]:
    """The closest pair of texts with different tokens, in each representation."""
    pairs = [(i, j) for i in range(len(ids)) for j in range(i + 1, len(ids)) if ids[i] != ids[j]]
    found: dict[str, tuple[float, str]] = {}

    def keep(head: str, value: float, i: int, j: int) -> None:
        if head not in found or value < found[head][0]:
            found[head] = (value, f"{named[i].name} | {named[j].name}")

    for i, j in pairs:
        keep("dense", float(np.abs(numbers.dense[i] - numbers.dense[j]).max()), i, j)
        x, y = (numbers.multi[numbers.offsets[k] : numbers.offsets[k + 1]] for k in (i, j))
        if len(x) == len(y):
            keep("multi", float(np.abs(x - y).max()), i, j)
        if len(numbers.sparse[[i]].data) and len(numbers.sparse[[j]].data):
            keep("sparse", float(abs(numbers.sparse[[i]] - numbers.sparse[[j]]).max()), i, j)
    floors = {"dense": ABSOLUTE, "multi": ABSOLUTE, "sparse": SPARSE}
    return [
        Check(f"different texts, {head}", where, value, APART * floors[head], least=True)
        for head, (value, where) in found.items()
    ]


def report(checks: list[Check]) -> None:
    width = max(len(check.what) for check in checks)
    for check in checks:
        sign = ">=" if check.least else "<="
        mark = "ok  " if check.passed else "MISS"
        print(f"{mark} {check.what:<{width}} {check.value:10.6g} {sign} {check.limit:<7.3g}"
              f" ({check.where})")  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--size", choices=("small", "full"), default="small")
    options.add_argument("--tokenizer", type=Path, help="folder with XLM-R's tokenizer files")
    options.add_argument("--model", type=Path, help="compare on this folder, as it is")
    options.add_argument("--peers", type=Path, default=PEERS)
    options.add_argument("--work", type=Path, default=ROOT / ".work")
    options.add_argument("--max-length", type=int, default=MAX_LENGTH, help="cut texts to this")
    options.add_argument("--threads", type=int, help="torch threads, for both sides")
    options.add_argument("--no-round-trip", action="store_true", help="skip our writer's folder")
    args = options.parse_args()
    if not args.peers.exists():
        sys.exit(f"{args.peers} does not exist: run `make peers` first")
    if args.size == "full" and args.tokenizer is None and args.model is None:
        options.error("--size full needs --tokenizer: a folder with XLM-R's tokenizer.json")
    if args.threads:
        torch.set_num_threads(args.threads)

    if args.model and not (args.model / "config.json").exists():
        options.error(f"--model {args.model}: no checkpoint there")
    name = args.model.name if args.model else args.size
    model = args.model or args.work / f"reference-{args.size}"
    if not (model / "model.safetensors").exists():
        write_reference(model, SMALL if args.size == "small" else FULL, tokenizer=args.tokenizer)
    work = args.work / f"parity-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)

    named = cases()
    texts = [case.text for case in named]
    encoder = Encoder.load(model, device="cpu", dtype=torch.float32)
    job = {"texts": texts, "max_length": args.max_length, "colbert_dim": encoder.dims["multi"]}
    theirs_file = run_peer(args.peers, "FlagEmbedding", model, job, work)

    vocabulary = encoder.dims["vocabulary"]
    theirs = Numbers.load(theirs_file, vocabulary)
    exact = ours(encoder, texts, args.max_length)
    tokens = encoder.tokenizer.encode(texts, max_length=args.max_length)
    ids = [part.tolist() for part in np.split(tokens.ids, tokens.offsets[1:-1])]
    checks = check_apart(theirs, ids, named)
    checks += compare("fp32", exact, theirs, named)
    del encoder
    encoder = Encoder.load(model, device="cpu", dtype=torch.bfloat16)
    half = ours(encoder, texts, args.max_length, exact=False)
    del encoder
    checks += compare_cosines("bf16", half, theirs, named)

    if not args.no_round_trip:
        short = [i for i, part in enumerate(ids) if len(part) < min(args.max_length, LONG)]
        some = [named[i] for i in short]
        written = model
        if not args.model:
            written = work / "written"
            checkpoint = read_checkpoint(model)
            write_checkpoint(written, checkpoint.model, checkpoint.tokenizer)
            del checkpoint
        base = Encoder.load(written, device="cpu", dtype=torch.float32)
        again = ours(base, [case.text for case in some], args.max_length)
        del base
        for library in ("FlagEmbedding", "transformers", "sentence-transformers"):
            part = job | {"texts": [case.text for case in some]}
            out = run_peer(args.peers, library, written, part, work)
            checks += compare(f"written, {library}", again, Numbers.load(out, vocabulary), some)
        shutil.rmtree(work / "written", ignore_errors=True)

    report(checks)
    with np.load(theirs_file) as arrays:
        versions = json.loads(str(arrays["versions"]))
    print(f"{len(named)} texts, {len(tokens.ids)} tokens, {name} checkpoint; {versions}")
    lines = [vars(check) | {"passed": check.passed} for check in checks]
    facts = {"size": name, "texts": len(named), "tokens": len(tokens.ids), "versions": versions}
    save(args.json, facts | {"checks": lines})
    sys.exit(0 if all(check.passed for check in checks) else 1)


if __name__ == "__main__":
    main()
