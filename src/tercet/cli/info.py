"""`tercet info`: what a model, an index or a folder of embeddings is."""

import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from tercet.cli.options import emit, json_option


@click.command()
@click.argument("what", metavar="[MODEL|INDEX]", required=False)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a model on the hub.")
@json_option
def info(what: str | None, revision: str | None, as_json: bool) -> None:
    """Describe a model or an index.

    Also a folder that `tercet encode` made. By default the model that comes with Tercet.

    \b
    Examples:
      tercet info
      tercet info my-index --json
      tercet info BAAI/bge-m3
    """
    folder = None if what is None else Path(what)
    if folder is not None and (folder / "documents.sqlite").exists():
        facts = _index_facts(folder)
    elif folder is not None and (folder / "embeddings.json").exists():
        facts = _embeddings_facts(folder)
    else:
        facts = _model_facts(what, revision)
    if as_json:
        emit(facts)
    else:
        _show(facts)


def _index_facts(folder: Path) -> dict[str, Any]:
    from tercet.collection import Collection

    with Collection.open(folder, create=False) as collection:
        found = asdict(collection.info())
    settings = found.pop("settings")
    model = {"source": settings.pop("source"), "fingerprint": settings.pop("fingerprint")}
    del settings["index"]
    return {"kind": "index", **found, "settings": settings, "model": model}


def _embeddings_facts(folder: Path) -> dict[str, Any]:
    from tercet.embeddings import Embeddings

    loaded = Embeddings.load(folder)
    return {
        "kind": "embeddings",
        "path": str(folder),
        "texts": len(loaded),
        "heads": list(loaded.heads),
        "tokens": None if loaded.lengths is None else int(loaded.lengths.sum()),
        "truncated": None if loaded.truncated is None else int(loaded.truncated.sum()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "model": {"fingerprint": loaded.fingerprint},
    }


def _model_facts(source: str | None, revision: str | None) -> dict[str, Any]:
    import torch

    from tercet.encoder import Encoder

    encoder = Encoder.load(source, revision=revision)
    return {
        "kind": "model",
        "source": encoder.source,
        "fingerprint": encoder.fingerprint,
        "heads": list(encoder.heads),
        "dims": encoder.dims,
        "weights": asdict(encoder.weights),
        "software": {
            "tercet": version("tercet"),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
    }


def _show(facts: dict[str, Any], indent: str = "") -> None:
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}:")
            _show(value, indent + "  ")
        elif isinstance(value, list | tuple):
            click.echo(f"{indent}{name:<{width}}  {', '.join(map(str, value))}")
        else:
            shown = f"{value:,}" if type(value) is int else "-" if value is None else value
            click.echo(f"{indent}{name:<{width}}  {shown}")
