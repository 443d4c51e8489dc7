"""`tercet encode`: texts of a file to a folder of Embeddings, in bounded memory."""

import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tercet.cli.meter import Meter
from tercet.cli.options import emit, heads_option, json_option, model_options
from tercet.config import MAX_LENGTH, ROLES, Head
from tercet.errors import InputError

SUFFIXES = (".txt", ".jsonl")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to make, as `tercet.embeddings.Embeddings.load` opens it.",
)
@heads_option
@click.option(
    "--max-length",
    type=click.IntRange(min=3),
    default=MAX_LENGTH,
    show_default=True,
    metavar="N",
    help="Tokens of a text that are read, [CLS] and </s> included; the rest is cut and counted.",
)
@click.option(
    "--mcls",
    type=click.IntRange(min=1),
    metavar="N",
    help="Put a [CLS] before every N tokens and average them: for long texts and a model that was "
    "not trained on long ones. The paper has 256.",
)
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="passage",
    show_default=True,
    help="Which prefix of the model to put before each text, where it has any; plain: none.",
)
@click.option(
    "--multi-pool",
    type=click.IntRange(min=1),
    metavar="K",
    help="Merge the multi-vectors of a text to about one for K tokens.",
)
@click.option(
    "--sparse-top",
    type=click.IntRange(min=1),
    metavar="N",
    help="Keep the N largest sparse weights of a text.",
)
@model_options
@click.option("--device", metavar="NAME", help="cpu, cuda or mps.  [default: the best there is]")
@json_option
def encode(
    file: Path,
    out: Path,
    heads: tuple[Head, ...] | None,
    max_length: int,
    mcls: int | None,
    role: Any,
    multi_pool: int | None,
    sparse_top: int | None,
    model: str | None,
    revision: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Encode the texts of a file.

    FILE is .txt, one text a line, or .jsonl, a "text" and maybe a "title" in every line. Row n of
    the result is line n of the file, empty lines included. Texts stream through, so the file may
    be of any size.

    \b
    Examples:
      tercet encode sentences.txt --out vectors
      tercet encode papers.jsonl --out vectors --heads dense,sparse --max-length 512
      tercet encode questions.txt --out vectors --role query --json
    """
    if file.suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"{file}: give a file that ends in {' or '.join(SUFFIXES)}")
    texts = Texts(file)  # says that it cannot be read before a model is loaded
    from tercet.encoder import Encoder
    from tercet.writer import EmbeddingsWriter

    encoder = Encoder.load(model, revision=revision, device=device)
    start = time.monotonic()
    done = tokens = truncated = 0
    with EmbeddingsWriter(out) as writer, Meter("encoding") as meter:
        for shard in encoder.stream(
            texts,
            heads=encoder.heads if heads is None else heads,
            max_length=max_length,
            role=role,
            mcls=mcls,
            multi_pool=multi_pool,
            sparse_top=sparse_top,
        ):
            writer.add(shard)
            done += len(shard)
            tokens += 0 if shard.lengths is None else int(shard.lengths.sum())
            truncated += 0 if shard.truncated is None else int(shard.truncated.sum())
            meter.show(texts.bytes_of(len(shard)), texts.size, count=tokens, unit="tokens")
    seconds = time.monotonic() - start
    if truncated:
        click.echo(f"tercet: {truncated} of {done} texts were cut to {max_length} tokens", err=True)
    if as_json:
        emit(
            {
                "out": str(out),
                "texts": done,
                "tokens": tokens,
                "truncated": truncated,
                "heads": list(shard.heads),
                "fingerprint": encoder.fingerprint,
                "seconds": round(seconds, 3),
            }
        )
    else:
        click.echo(
            f"{out}: {done} texts, {tokens} tokens in {seconds:.1f} s "
            f"({tokens / max(seconds, 1e-9):,.0f} tokens/s)"
        )


class Texts:
    """The texts of a file, one a line, and how many bytes of it they take."""

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file has no line, OSError where it cannot be read."""
        self.path = path
        with path.open("rb") as lines:
            if not lines.read(1):
                raise InputError(f"{path} is empty: there is nothing to encode")
        self.size = path.stat().st_size
        self._waiting: deque[int] = deque()  # bytes of the texts that were read, not yet encoded
        self._done = 0

    def __iter__(self) -> Iterator[str]:
        parse = _title_and_text if self.path.suffix.lower() == ".jsonl" else _line
        with self.path.open("rb") as lines:
            for number, raw in enumerate(lines, 1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{self.path}:{number}: byte 0x{raw[error.start]:02x} is not UTF-8; "
                        f"convert the file to UTF-8"
                    ) from error
                text = parse(line.rstrip("\r\n"), f"{self.path}:{number}")
                self._waiting.append(len(raw))
                yield text

    def bytes_of(self, texts: int) -> int:
        """Bytes of the file that are encoded, now that so many more texts are."""
        self._done += sum(self._waiting.popleft() for _ in range(texts))
        return self._done


def _line(line: str, where: str) -> str:
    return line


def _title_and_text(line: str, where: str) -> str:
    """Title, line break, text, as in the paper; raises InputError naming the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(f"{where}: give an object with a string in 'text', as in {{'text': '…'}}")
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise InputError(f"{where}: 'title' is a {type(title).__name__}, not a string")
    return f"{title}\n{row['text']}" if title else str(row["text"])
