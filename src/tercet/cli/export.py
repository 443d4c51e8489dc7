"""`tercet export`: a model in the form that other libraries load."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from tercet.cli.options import Json, Model, Opt, Revision, command, echo, emit

Suite = Annotated[Path | None, Opt(metavar="FOLDER")]

# What each head's folder is loaded with, in sentence-transformers.
LOADED = {
    "dense": "SentenceTransformer({!r})",
    "sparse": "SparseEncoder({!r}, trust_remote_code=True)",
    "multi": "MultiVectorEncoder({!r})",
}


@click.group()
def export() -> None:
    """Write a model in the form that other libraries load.

    \b
    Examples:
      tercet export sentence-transformers BAAI/bge-m3 --to exported
      tercet export onnx --to exported
      tercet export openvino BAAI/bge-m3 --to exported --int8
    """


@command("sentence-transformers")
def sentence_transformers(
    model: Model = None, *, to: Path, revision: Revision = None, as_json: Json = False
) -> None:
    """Write the three models of sentence-transformers 6.

    In DIR come the folders dense (SentenceTransformer), sparse (SparseEncoder) and multi
    (MultiVectorEncoder), of the heads that the model has. They give the numbers of Tercet's own
    encoder, and are one file of weights under three names, or where the file system has no hard
    links three copies.

    \b
    Examples:
      tercet export sentence-transformers --to exported
      tercet export sentence-transformers BAAI/bge-m3 --to exported

    Options:
      model MODEL:
      to DIR: Folder to make.
    """
    from tercet.adapters.sentence_transformers import export

    done = export(model, to, revision=revision)
    loads = {head: LOADED[head].format(str(to / head)) for head in done.heads}
    if as_json:
        emit({"folder": str(to), "loads": loads, "linked": done.linked, "bytes": done.bytes})
        return
    for line in loads.values():
        echo(line)
    how = "the weights are there once, linked" if done.linked else "each has a copy of the weights"
    echo(f"{done.bytes / 1e6:,.1f} MB in all; {how}")


@dataclass(frozen=True)
class Graph:
    """What is written of a model, and what is said of it.

    Options:
      to DIR: Folder to make.
      beir FOLDER: Also print nDCG@10 of each head on it, before and after.
    """

    to: Path
    int8: bool = False
    beir: Suite = None
    revision: Revision = None
    as_json: Json = False


@command()
def onnx(model: Model = None, *, graph: Graph) -> None:
    """Write a graph for ONNX Runtime.

    It takes input_ids and attention_mask, (texts, tokens), and gives dense, token_weights and
    multi_vectors, at all positions. What differs from the checkpoint's own numbers is printed. The
    folder is a MODEL for every command of Tercet.

    \b
    Examples:
      tercet export onnx --to exported
      tercet export onnx BAAI/bge-m3 --to exported --int8 --beir data/scifact

    Options:
      model MODEL:
      int8: Multiply in int8, with a scale for each token.
    """
    _write("onnx", model, graph)


@command()
def openvino(model: Model = None, *, graph: Graph) -> None:
    """Write a graph for OpenVINO, the fastest on CPUs with int8.

    It takes and gives what that of `tercet export onnx` does. Needs tercet[openvino].

    \b
    Examples:
      tercet export openvino --to exported --int8

    Options:
      model MODEL:
      int8: Store weights in int8, and multiply so with a scale for each part of a token.
    """
    _write("openvino", model, graph)


def _write(kind: str, model: str | None, graph: Graph) -> None:
    from tercet.encoder import Encoder
    from tercet.evaluate.parity import differences, golden_texts
    from tercet.exports import export as write

    to, beir, revision = graph.to, graph.beir, graph.revision
    if beir is not None:
        _check_suite(beir)
    write(model, to, kind, int8=graph.int8, revision=revision)
    exact = Encoder.load(model, revision=revision, dtype="float32", device="cpu")
    exported, texts = Encoder.load(to), list(golden_texts().values())
    facts: dict[str, Any] = {
        "folder": str(to),
        "bytes": sum(path.stat().st_size for path in to.iterdir()),
        "dtype": exported.dtype,
        "parity": differences(exact.encode(texts), exported.encode(texts)),
    }
    if beir is not None:
        facts["ndcg_at_10"] = {
            name: _quality(encoder, beir)
            for name, encoder in (("before", exact), ("after", exported))
        }
    if graph.as_json:
        emit(facts)
        return
    echo(f"{to}: {facts['bytes'] / 1e6:,.0f} MB, {kind} in {exported.dtype}")
    echo(f"beside {exact.runtime.name} in float32, {len(texts)} texts:")
    for head, line in facts["parity"].items():
        echo(f"  {head:<7}" + ", ".join(f"{name} {value:.3g}" for name, value in line.items()))
    if beir is not None:
        echo(f"nDCG@10 on {beir}:")
        before, after = facts["ndcg_at_10"]["before"], facts["ndcg_at_10"]["after"]
        for system, value in before.items():
            echo(f"  {system:<14}{100 * value:5.1f} before, {100 * after[system]:5.1f} after")


def _check_suite(folder: Path) -> None:
    if not (folder / "corpus.jsonl").exists() and not any(folder.glob("corpus.jsonl*")):
        raise click.UsageError(f"--beir: {folder} has no corpus.jsonl: give a BEIR folder")


def _quality(encoder: Any, folder: Path) -> Mapping[str, float]:
    from tercet.evaluate.runner import EvaluateConfig, EvaluatePlan, evaluate

    config = EvaluateConfig(bm25=False, measures=("nDCG@10",))
    report = evaluate(encoder, EvaluatePlan(suites=(f"beir:{folder}",)), config)
    average: Mapping[str, float] = report["averages"][0]["tasks"]
    return average


for _command in (onnx, openvino, sentence_transformers):
    export.add_command(_command)
