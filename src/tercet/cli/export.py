"""`tercet export`: a model in the form that other libraries load."""

from pathlib import Path

import click

from tercet.cli.options import Json, Revision, command, echo, emit

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
    """


@command("sentence-transformers")
def sentence_transformers(
    model: str | None = None, *, to: Path, revision: Revision = None, as_json: Json = False
) -> None:
    """Write the three models of sentence-transformers 6.

    MODEL is the folder or hub id of a checkpoint, by default the model that comes with Tercet. In
    DIR come the folders dense (SentenceTransformer), sparse (SparseEncoder) and multi
    (MultiVectorEncoder), of the heads that the model has. They give the numbers of Tercet's own
    encoder, and are one file of weights under three names, or where the file system has no hard
    links three copies.

    \b
    Examples:
      tercet export sentence-transformers --to exported
      tercet export sentence-transformers BAAI/bge-m3 --to exported

    Options:
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


export.add_command(sentence_transformers)
