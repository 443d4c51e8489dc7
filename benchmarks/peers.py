"""Runs another library on a list of texts and writes what it returned as plain arrays.

Runs in the peers' own environment (see requirements-peers.txt), never in Tercet's, and imports
nothing of ours. Other scripts start it with `run_peer`; the timed versions are in encode_speed.py.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
FIXED = {"use_fp16": False, "devices": ["cpu"]}
EVERY = {"return_dense": True, "return_sparse": True, "return_colbert_vecs": True}


def pack(dense: Any, sparse: list[dict[str, float]] | None, multi: list[Any] | None) -> Arrays:
    """Dense rows, sparse dictionaries and lists of token vectors as flat arrays."""
    arrays: Arrays = {"dense": np.asarray(dense, dtype=np.float32)}
    if sparse is not None:
        rows = [sorted((int(k), float(v)) for k, v in row.items()) for row in sparse]
        arrays["sparse_indptr"] = np.cumsum([0, *(len(row) for row in rows)])
        arrays["sparse_indices"] = np.array([i for row in rows for i, _ in row], dtype=np.int64)
        arrays["sparse_data"] = np.array([w for row in rows for _, w in row], dtype=np.float32)
    if multi is not None:
        arrays["offsets"] = np.cumsum([0, *(len(part) for part in multi)])
        arrays["multi"] = np.concatenate(multi).astype(np.float32)
    return arrays


def run_flagembedding(model: str, texts: list[str], job: dict[str, Any]) -> Arrays:
    """FlagEmbedding in float32, one text at a time."""
    from FlagEmbedding import BGEM3FlagModel

    flag = BGEM3FlagModel(model, **FIXED, colbert_dim=job.get("colbert_dim", -1))
    out = flag.encode(texts, batch_size=1, max_length=job["max_length"], **EVERY)
    return pack(out["dense_vecs"], out["lexical_weights"], out["colbert_vecs"])


def run_flag_class(model: str, texts: list[str], job: dict[str, Any]) -> Arrays:
    """What the methods of FlagEmbedding's class return, its defaults untouched where possible."""
    from FlagEmbedding import BGEM3FlagModel

    fixed = FIXED | {"colbert_dim": job["colbert_dim"]}
    flag = BGEM3FlagModel(model, **fixed)
    out = flag.encode(texts, batch_size=1, **EVERY)
    arrays = pack(out["dense_vecs"], out["lexical_weights"], out["colbert_vecs"])
    sparse, multi = out["lexical_weights"], out["colbert_vecs"]
    arrays["lexical"] = flag.compute_lexical_matching_score(sparse, sparse)
    arrays["colbert"] = np.array([float(flag.colbert_score(multi[0], m)) for m in multi])
    pairs = [(texts[0], text) for text in texts]
    for name, weights in (("", None), (" weighted", job["weights"])):
        scores = flag.compute_score(pairs, batch_size=1, weights_for_different_modes=weights)
        arrays.update({f"score{name} {key}": np.array(value) for key, value in scores.items()})
    told = BGEM3FlagModel(
        model,
        query_instruction_for_retrieval=job["instruction"],
        query_instruction_format=job["format"],
        **fixed,
    )
    arrays["instructed"] = told.encode_queries(texts[0])["dense_vecs"]
    arrays["instructed corpus"] = told.encode_corpus(texts[0])["dense_vecs"]
    short = BGEM3FlagModel(model, truncate_dim=job["truncate_dim"], **fixed)
    cut = short.encode(texts, batch_size=1, return_colbert_vecs=True)
    arrays["truncated"] = cut["dense_vecs"]
    arrays["truncated multi"] = cut["colbert_vecs"][0]
    one = flag.encode(texts[0], **EVERY)
    facts = {
        "tokens": flag.convert_id_to_token(sparse),
        "tokens of one": flag.convert_id_to_token(sparse[0]),
        "default": sorted(k for k, v in flag.encode(texts[0]).items() if v is not None),
        "shape of one": list(one["dense_vecs"].shape),
        "scores of one": flag.compute_score(pairs[1], batch_size=1),
    }
    arrays["facts"] = np.array(json.dumps(facts, default=float, ensure_ascii=False))
    return arrays


def run_transformers(model: str, texts: list[str], job: dict[str, Any]) -> Arrays:
    """The bare trunk by AutoModel, float32: the normalised [CLS] state of each text."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    trunk = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            batch = tokenizer(
                text, truncation=True, max_length=job["max_length"], return_tensors="pt"
            )
            state = trunk(**batch).last_hidden_state[0, 0]
            rows.append(torch.nn.functional.normalize(state, dim=-1).numpy())
    return pack(np.stack(rows), None, None)


def run_sentence_transformers(model: str, texts: list[str], job: dict[str, Any]) -> Arrays:
    """The dense vectors as sentence-transformers makes them from the folder's modules.json."""
    from sentence_transformers import SentenceTransformer

    trunk = SentenceTransformer(model, device="cpu")
    trunk.max_seq_length = job["max_length"]
    return pack(trunk.encode(texts, batch_size=1), None, None)


RUNNERS = {
    "FlagEmbedding": run_flagembedding,
    "FlagEmbedding class": run_flag_class,
    "transformers": run_transformers,
    "sentence-transformers": run_sentence_transformers,
}


def run_peer(python: Path, library: str, model: Path, job: dict[str, Any], work: Path) -> Path:
    """Runs peers.py in the peers' environment; returns the .npz it wrote."""
    job_file = work / f"{library}.json"
    out = work / f"{library}.npz"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    command = [str(python), __file__, library]
    done = subprocess.run(
        [*command, str(model), str(job_file), str(out)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{library} failed on {model}:\n{done.stderr[-3000:]}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=sorted(RUNNERS))
    parser.add_argument("model", help="folder of the checkpoint")
    parser.add_argument("job", type=Path, help="JSON: texts, max_length and what the library needs")
    parser.add_argument("out", type=Path, help=".npz to write")
    args = parser.parse_args()
    job = json.loads(args.job.read_text(encoding="utf-8"))
    arrays = RUNNERS[args.library](args.model, job["texts"], job)
    names = (args.library.split()[0], "transformers", "torch", "tokenizers", "numpy")
    versions = {name: version(name) for name in names}
    versions["python"] = sys.version.split()[0]
    np.savez(args.out, versions=np.array(json.dumps(versions)), **arrays)


if __name__ == "__main__":
    main()
