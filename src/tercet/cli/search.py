"""`tercet index`, `search`, `ls`, `rm`, `encode`, `info`: files to an index, questions to it."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from tercet.cli.meter import Meter
from tercet.cli.options import (
    Count,
    Device,
    Heads,
    HybridWeights,
    Json,
    Model,
    Natural,
    Opt,
    Revision,
    Tokens,
    as_usage,
    command,
    echo,
    emit,
    kept,
    parse_filters,
)
from tercet.cli.parts import Cut, carry_out
from tercet.config import HEADS, MAX_LENGTH, Mode, Role
from tercet.documents.base import Reading
from tercet.errors import InputError, TercetError

if TYPE_CHECKING:
    from tercet.bulk import EncodeJob
    from tercet.collection import Collection
    from tercet.encoder import Encoder
    from tercet.records import Hit

SNIPPET = 240  # characters of a hit that are shown
SOME_SKIPPED = 3  # exit code: done, but for files that could not be read
AT_ONCE = 64  # questions from a pipe that are encoded together


@command()
def index(
    paths: tuple[str, ...] = (),
    *,
    to: Path,
    chunk: int | None = None,
    overlap: int | None = None,
    late_chunking: bool = False,
    multi_pool: Count | None = None,
    heads: Heads = None,
    dtype: Literal["float16", "int8"] | None = None,
    backend: Literal["graph", "exact"] | None = None,
    index: str | None = None,
    model: Model = None,
    revision: Revision = None,
    rebuild: bool = False,
    reading: Reading,
    as_json: Json = False,
) -> int:
    """Index files and folders for search.

    Reads .txt .md .html .jsonl .csv .tsv .eml .ipynb .rtf (also packed as .gz .bz2 .xz .zst),
    .docx .pptx .xlsx .epub .parquet and .pdf, and text without an extension. On the next run
    unchanged files are passed over, changed ones replaced, and those gone from the folders
    removed. A file that cannot be read is named and skipped; the exit code is then 3, or 1 where
    nothing could be read. How an index is made (--chunk, --overlap, --late-chunking, --multi-pool,
    --heads, --dtype, --backend) is fixed the first time. With --index the vectors are in a Qdrant
    server or cluster, whose key comes from the environment variable QDRANT_API_KEY: any machine
    searches them by the address alone, and the folder keeps what changing them needs. Vectors that
    are there already move to --index, and are not made anew.

    \b
    Examples:
      tercet index docs --to my-index
      tercet index notes.md papers/ --to my-index --heads dense,sparse --dtype int8
      tercet index laws --to laws-index --model BAAI/bge-m3 --chunk 0
      tercet index repository --to my-index --exclude "drafts/" --exclude "*.min.html"
      tercet index answers.csv --to my-index --text-field answer --encoding windows-1251
      tercet index --rebuild --to my-index
      tercet index docs --to my-index --index qdrant://localhost:6333/docs
      tercet index --to my-index --index folder

    Options:
      paths PATH...:
      to DIR: Folder of the index; made where there is none, else brought up to date.
      chunk N: Tokens of a chunk; 0 keeps documents whole, to 8192 tokens.  [default: 512]
      overlap N: Tokens that neighbours share.  [default: 64, at most an eighth of a chunk]
      late_chunking: Take chunks' vectors from one pass over their document, 8192 tokens at a
          time.
      multi_pool K: Merge the multi-vectors of a chunk to about one for K tokens.  [default: 1]
      dtype: How vectors are stored.  [default: float16]
      backend: graph: candidates from a graph; exact: every row is scored.  [default: graph]
      index ADDRESS: qdrant://HOST:PORT/NAME or qdrant+https://HOST:PORT/NAME, for a new one on a
          cluster with ?shards=6&replicas=2 behind it; `folder` moves vectors back.
      rebuild: First encode every stored document anew: for a damaged index or another model;
          --heads, --multi-pool, --dtype and --backend may change. Files of PATH are read again,
          changed or not.
    """
    from tercet.documents.chunks import Chunking
    from tercet.documents.files import SourceFile, find_files, item_failed

    moves = index is not None and to.exists()
    if not (paths or rebuild or moves):
        raise click.UsageError("missing argument 'PATH...'")
    if str(to).startswith(("qdrant:", "qdrant+https:")):
        raise click.UsageError("--to is a folder: give the address with --index")
    from tercet.collection import FOLDER, Collection
    from tercet.collection.sync import AddReport, Change, SyncState, check_paths

    if index not in (None, FOLDER):
        from tercet.index.qdrant import Address

        with as_usage("'--index'"):
            Address.parse(str(index))
    with as_usage("'--chunk' / '--overlap'"):  # before a model is loaded
        made = Chunking() if chunk is None else Chunking(chunk, 0, late_chunking)
        if overlap is not None:
            Chunking(made.chunk, overlap)
    check_paths(paths)  # a wrong one makes no index
    if paths and not to.exists():  # nor does a folder in which nothing can be read
        items = list(find_files(paths, reading))
        if not any(isinstance(item, SourceFile) for item in items):
            raise InputError(f"nothing to index: {next(filter(item_failed, items))}")
    start = time.monotonic()
    remains = (
        f"{to} is as it was"
        if rebuild or not paths
        else f"the documents indexed so far are kept in {to}"
    )
    with kept(lambda: f"{remains}: the same command goes on"), Meter("indexing") as meter:

        def progress(state: SyncState) -> None:
            meter.show(state.done, state.total, count=state.tokens, unit="tokens")

        def report(change: Change) -> None:
            if change.kind in ("skipped", "truncated"):
                meter.note(f"tercet: {change.kind} {change.id}: {change.reason}")
            elif change.kind == "note":
                meter.note(f"tercet: {change.id}: {change.reason}")

        with Collection.open(
            to,
            _encoder(model, revision),
            create=bool(paths),
            rebuild=rebuild,
            backend=backend,
            heads=heads,
            dtype=dtype,
            chunk=chunk,
            overlap=overlap,
            late_chunking=late_chunking or None,
            multi_pool=multi_pool,
            index_url=index,
            progress=progress,
        ) as collection:
            added = AddReport()
            if paths:
                added = collection.add(
                    paths, reading=reading, reread=rebuild, report=report, progress=progress
                )
            documents = len(collection)
            _advise(collection)
    seconds = time.monotonic() - start
    if as_json:
        facts = {"index": str(to), "documents": documents, **asdict(added)}
        emit({**facts, "seconds": round(seconds, 3)})
    else:
        echo(
            f"{to}: {documents} documents; {added.added} added, {added.updated} updated, "
            f"{added.unchanged} unchanged, {added.removed} removed, "
            f"{len(added.skipped)} skipped in {seconds:.1f} s"
        )
    if not any(problem.failed for problem in added.skipped):
        return 0
    return SOME_SKIPPED if added.added or added.updated or added.unchanged else 1


def _advise(collection: "Collection") -> None:
    if advice := collection.advice:
        echo(f"tercet: {collection.name}: {advice}", err=True)


def _encoder(model: str | None, revision: str | None) -> "Encoder | None":
    """The encoder that was named; None leaves it to the index."""
    if model is None and revision is None:
        return None
    from tercet.encoder import Encoder

    return Encoder.load(model, revision=revision)


def _least(value: str) -> float | Literal["auto"] | None:
    """`auto`, `none` or a number; raises ValueError for anything else."""
    if value in ("auto", "none"):
        return "auto" if value == "auto" else None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is none of auto, none or a number such as 1.1")
    return number


@command()
def search(
    question: tuple[str, ...] = (),
    *,
    index: str,
    k: Annotated[int, Opt(min=1, flag="-k")] = 10,
    mode: Mode = "hybrid",
    weights: HybridWeights = None,
    candidates: Natural | None = None,
    filter: Annotated[Mapping[str, Any] | None, Opt(parse=parse_filters, many=True)] = None,
    chunks: bool = False,
    min_score: Annotated[Any, Opt(parse=_least, metavar="X|auto|none")] = "auto",
    model: Model = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Search an index, a running server, or a collection in Qdrant.

    All words given are one QUESTION, quoted or not; without any, questions are read from stdin, one
    a line. Every hit shows its score, the raw scores of its parts, and its text from the sentence
    that matches best on, with matched words bold on a terminal. A server (`tercet serve`) has
    its model loaded and answers in milliseconds; its key comes from the environment variable
    TERCET_KEY.

    \b
    Examples:
      tercet search --index my-index "how do bees talk to each other?"
      tercet search --index my-index -k 3 --mode sparse error E14
      tercet search --index my-index --filter language=de --filter year=2024 "Mülltrennung"
      tercet search --index my-index --json < questions.txt > hits.jsonl
      tercet search --index http://localhost:8080 "how do bees talk to each other?"
      tercet search --index qdrant://localhost:6333/docs "how do bees talk to each other?"

    Options:
      question [QUESTION]...:
      index DIR|URL: Folder that `tercet index` made, the address of a server, or that of a
          collection in Qdrant.
      k: Hits to a question.
      mode: One representation alone (multi re-ranks what dense finds), or all together.
      candidates N: Chunks that dense and sparse each bring to be scored; 0 scores every
          chunk.  [default: 200]
      filter KEY=VALUE: Only documents with this metadata; repeat a key for alternatives.
          `tercet info INDEX` lists the keys.
      chunks: The best chunks, not one for each document.
      min_score: Leave out hits with a lower score. auto: nothing is shown where not even the
          best hit has the score that the model has learned as the least of an answer; none: the
          nearest are always shown.
    """
    if len(question) > 1 and all(len(part.split()) > 1 for part in question):
        raise click.UsageError("give one question; several come on stdin, one a line")
    options: dict[str, Any] = {"k": k, "mode": mode, "weights": weights, "chunks": chunks}
    if candidates is not None:
        options["candidates"] = candidates
    if isinstance(min_score, float):
        options["min_score"] = min_score
    auto = min_score == "auto" and mode == "hybrid" and weights is None
    with ExitStack() as closing:
        if index.lower().startswith(("http://", "https://")):
            if model is not None or revision is not None:
                raise click.UsageError("a server has its own model: leave out --model, --revision")
            asked = _server(index, {**options, "filter": filter or {}})
        else:
            from tercet.collection import Collection

            collection = Collection.open(index, _encoder(model, revision), read_only=True)
            _advise(collection)
            asked = _folder(closing.enter_context(collection), {**options, "filter": filter})
        least = asked.least() if auto else None
        terminal = not question and sys.stdin.isatty()
        if terminal:
            count = asked.documents()
            echo(f"{index}: {count:,} documents; a question a line, Ctrl-D ends", err=True)
        for batch in [[" ".join(question)]] if question else _from_stdin():
            for query, hits in zip(batch, asked.search(batch), strict=True):
                shown, nothing = hits, "no hits"
                if least is not None and hits and hits[0].score < least:
                    shown, nothing = (
                        [],
                        (
                            f"no answer: the best hit scores {hits[0].score:.3f}, answers at least "
                            f"{least:.3f}; --min-score none shows the nearest"
                        ),
                    )
                elif isinstance(min_score, float) and not hits:
                    nothing = f"no hit scores {min_score:g}; --min-score none shows the nearest"
                if as_json:
                    emit({"query": query, "hits": [asdict(hit) for hit in shown]})
                else:
                    _show_hits(None if question or terminal else query, shown, nothing)


@dataclass(frozen=True)
class _Asked:
    """What is searched: a folder, or a running server."""

    search: "Callable[[list[str]], list[list[Hit]]]"
    documents: Callable[[], int]
    least: Callable[[], float | None]  # what the best hit of an answered question scores


def _folder(collection: "Collection", options: dict[str, Any]) -> _Asked:
    if "candidates" in options:
        options["candidates"] = options["candidates"] or None
    return _Asked(
        lambda questions: collection.search(questions, **options, highlight=True),
        lambda: len(collection),
        lambda: collection.min_score,
    )


def _server(url: str, options: dict[str, Any]) -> _Asked:
    from tercet.cli.remote import Server

    server = Server(url)
    if options["weights"] is not None:
        options["weights"] = asdict(options["weights"])
    return _Asked(
        lambda questions: [server.search(question, **options) for question in questions],
        server.documents,
        server.min_score,
    )


def _from_stdin() -> Iterator[list[str]]:
    """Batches of lines; a person at a terminal is answered line by line. Empty lines are left out.

    Raises InputError for a line that is not UTF-8.
    """
    terminal = sys.stdin.isatty()

    def prompt() -> None:
        if terminal:  # beside answers that may go into a file
            echo("question> ", nl=False, err=True)

    waiting: list[str] = []
    prompt()
    for line, raw in enumerate(sys.stdin.buffer, 1):
        try:
            question = raw.decode().strip()
        except UnicodeDecodeError as error:
            raise InputError(f"line {line} of stdin is not UTF-8") from error
        if question:
            waiting.append(question)
        if waiting and (len(waiting) >= AT_ONCE or terminal):
            yield waiting
            waiting = []
        prompt()
    if waiting:
        yield waiting
    if terminal:  # Ctrl-D leaves the prompt's line open
        echo(err=True)


def _show_hits(question: str | None, hits: "list[Hit]", nothing: str) -> None:
    if question is not None:
        echo(question, bold=True)
    if not hits:
        echo(f"   {nothing}")
    for rank, hit in enumerate(hits, 1):
        scores = {head: getattr(hit, head) for head in HEADS}
        parts = ", ".join(f"{head} {s:.3f}" for head, s in scores.items() if s is not None)
        parts += f", exact {hit.exact:.3f}" if hit.exact else ""
        language = f"  [{hit.language}]" if hit.language else ""
        source = f"  {hit.source}" if hit.source not in ("", hit.id) else ""
        page = "" if hit.page is None else f"  page {hit.page}"
        name = " ".join(hit.id.split())
        echo(f"{rank:2}. {hit.score:.3f}  ({parts})  {name}{language}{source}{page}")
        if hit.title:
            echo(f"    {' '.join(hit.title.split())}", bold=True)
        if hit.headings:
            echo(f"    {_shortened(' › '.join(hit.headings))}")
        echo("    ", nl=False)
        for part, marked in _snippet(hit):
            echo(part, bold=marked, nl=False)
        echo()
    if question is not None:
        echo()


def _shortened(text: str) -> str:
    """The beginning of a text, in one line."""
    line = " ".join(text.split())
    return line[:SNIPPET] + "…" * (len(line) > SNIPPET)


def _snippet(hit: "Hit") -> Iterator[tuple[str, bool]]:
    """A hit's text from its best sentence on, in one line: parts, and whether they are matched."""
    start = 0 if hit.sentence is None else hit.sentence.start
    marked = {place for mark in hit.marks for place in range(mark.start, mark.end)}
    line: list[tuple[str, bool]] = []
    for place, char in enumerate(hit.text[start:].rstrip(), start):
        if not char.isspace():
            line.append((char, place in marked))
        elif line and line[-1][0] != " ":
            line.append((" ", False))
        if len(line) > SNIPPET:
            line[SNIPPET:] = [("…", False)]
            break
    if hit.text[:start].strip():
        yield "… ", False
    for bold, part in groupby(line, key=itemgetter(1)):
        yield "".join(char for char, _ in part), bold


@command()
def ls(index: str, *, as_json: Json = False) -> None:
    """List the documents of an index.

    A line for each: id, language, title and source, with tabs between.

    \b
    Examples:
      tercet ls my-index
      tercet ls my-index --json > documents.jsonl
      tercet ls qdrant://localhost:6333/docs

    Options:
      index INDEX:
    """
    from tercet.collection import Collection

    with Collection.open(index, read_only=True) as collection:
        for document in collection.documents():
            facts = asdict(document)
            del facts["text"], facts["outline"]
            if as_json:
                emit(facts)
            else:
                shown = (document.id, document.language or "-", document.title, document.source)
                echo("\t".join(" ".join(field.split()) for field in shown))


@command()
def rm(index: str, ids: tuple[str, ...], *, as_json: Json = False) -> int:
    """Remove documents from an index.

    Their files stay. A document comes back when its file is changed and indexed again. An ID that
    no document has is named, and the exit code is then 1.

    \b
    Examples:
      tercet rm my-index docs/old.md
      tercet rm my-index "papers.jsonl#12" "papers.jsonl#13"

    Options:
      index INDEX:
      ids ID...:
    """
    from tercet.collection import Collection

    with Collection.open(index, create=False) as collection:
        missing = [id for id in dict.fromkeys(ids) if id not in collection]
        removed = collection.delete(ids)
        documents = len(collection)
    for id in missing:
        echo(f"tercet: {index} has no document {id!r}", err=True)
    if as_json:
        emit({"index": str(index), "removed": removed, "missing": missing, "documents": documents})
    else:
        echo(f"{index}: {documents} documents; {removed} removed")
    return int(bool(missing))


@command()
def encode(
    file: Path,
    *,
    out: Path,
    heads: Heads = None,
    max_length: Tokens = MAX_LENGTH,
    mcls: Count | None = None,
    role: Role = "passage",
    multi_pool: Count | None = None,
    sparse_top: Count | None = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = None,
    cut: Cut,
    as_json: Json = False,
) -> None:
    """Encode the texts of a file.

    FILE is .txt, one text a line, empty lines included, or .jsonl, a "text" and maybe a "title" in
    every line that is not blank; packed as .gz, .bz2, .xz or .zst, too. All of it is checked before
    the model runs. Row n of the result is text n. Texts stream through, so the file may be of any
    size; what is encoded is kept, and after a kill or a failure the same command goes on. It may be
    encoded in parts: on a machine with several GPUs, part after part takes the next one.

    \b
    Examples:
      tercet encode sentences.txt --out vectors
      tercet encode papers.jsonl --out vectors --heads dense,sparse --max-length 512
      tercet encode questions.txt --out vectors --role query --json
      tercet encode papers.jsonl --out vectors --shard 2/8
      tercet encode papers.jsonl --out vectors --ray auto

    Options:
      out DIR: Folder to make, as `tercet.embeddings.Embeddings.load` opens it.
      max_length N: Tokens of a text that are read, [CLS] and </s> included; the rest is cut and
          counted.
      mcls N: Put a [CLS] before every N tokens and average them: for long texts and a model
          that was not trained on long ones. The paper has 256.
      role: Which prefix of the model to put before each text, where it has any; plain: none.
      multi_pool K: Merge the multi-vectors of a text to about one for K tokens.
      sparse_top N: Keep the N largest sparse weights of a text.
    """
    from tercet.bulk import SUFFIXES, EncodeJob
    from tercet.embeddings import check_absent
    from tercet.rows import kind_of

    if kind_of(file) not in SUFFIXES:
        raise click.UsageError(f"{file}: give a file that ends in {' or '.join(SUFFIXES)}")
    check_absent(out)
    job = EncodeJob(
        str(out),
        str(file),
        heads=heads,
        max_length=max_length,
        mcls=mcls,
        role=role,
        multi_pool=multi_pool,
        sparse_top=sparse_top,
        model=model,
        revision=revision,
        device=device,
    )

    def watched(meter: Meter) -> "EncodeJob":
        def show(done: int, size: int, tokens: int) -> None:
            meter.show(done, size, count=tokens, unit="tokens")

        return replace(job, show=show)

    if cut == Cut():

        def remains() -> str:
            if not job.partial.exists():
                return f"nothing is kept of {out}: the same command begins anew"
            return f"what is encoded is kept in {job.partial}: the same command goes on"

        report: dict[str, Any] | None
        with kept(remains), Meter("encoding") as meter:
            try:
                report = watched(meter).encode()
            except (TercetError, OSError):
                if job.partial.exists():
                    meter.note(f"tercet: {remains()}")
                raise
    else:
        gpus = device is None or device.startswith("cuda")
        report = carry_out(job, cut, "encoding", as_json=as_json, watched=watched, gpus=gpus)
    if report is not None:
        tell_encoded(job, report, as_json=as_json)


def tell_encoded(job: "EncodeJob", report: dict[str, Any], *, as_json: bool) -> None:
    """What was encoded."""
    if cut_texts := report["truncated"]:
        echo(
            f"tercet: {cut_texts} of {report['texts']} texts were cut to {job.max_length} tokens",
            err=True,
        )
    if as_json:
        emit(report)
        return
    tokens, seconds = report["tokens"], report["seconds"]
    echo(
        f"{report['out']}: {report['texts']} texts, {tokens} tokens in {seconds:.1f} s "
        f"({tokens / max(seconds, 1e-9):,.0f} tokens/s)"
    )


@command()
def info(
    what: str | None = None,
    *,
    revision: Revision = None,
    verify: bool = False,
    as_json: Json = False,
) -> None:
    """Describe a model or an index.

    Also a folder that `tercet encode` made. By default the model that comes with Tercet.

    \b
    Examples:
      tercet info
      tercet info my-index --verify
      tercet info BAAI/bge-m3 --json
      tercet info qdrant://localhost:6333/docs

    Options:
      what [MODEL|INDEX]:
      verify: First read every byte of an index, and say what has changed on the disk.
    """
    folder = Path(what or "")
    if what and ("://" in what or (folder / "documents.sqlite").exists()):
        facts = _index_facts(what, verify)
    elif what and (folder / "embeddings.json").exists():
        facts = _embeddings_facts(folder)
    else:
        facts = _model_facts(what, revision)
    if as_json:
        emit(facts)
    else:
        _show_facts(facts)


def _index_facts(index: str, verify: bool) -> dict[str, Any]:
    from tercet.collection import Collection

    with Collection.open(index, read_only=True) as collection:
        if verify:
            collection.verify()
        facts = asdict(collection.info())
        facts["weights"] = _weights(collection)
    settings = facts.pop("settings")
    model = {"source": settings.pop("source"), "fingerprint": settings.pop("fingerprint")}
    del settings["index"]
    return {"kind": "index", **facts, "settings": settings, "model": model}


def _weights(collection: "Collection") -> dict[str, float] | None:
    """Of the hybrid sum; None where they are the model's own, and that is not here."""
    try:
        return asdict(collection.weights)
    except TercetError:
        return None


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

    from tercet.encoder import Encoder

    encoder = Encoder.load(source, revision=revision)
    return {
        "kind": "model",
        "source": encoder.source,
        "fingerprint": encoder.fingerprint,
        "heads": list(encoder.heads),
        "dims": encoder.dims,
        "weights": asdict(encoder.weights),
        "runs": {
            "backend": encoder.runtime.name,
            "device": encoder.device,
            "dtype": encoder.dtype,
            "why": _why(encoder.runtime.name, encoder.dtype),
        },
        "software": {
            "tercet": version("tercet"),
            encoder.runtime.name: version(encoder.runtime.name),
            "python": sys.version.split()[0],
            "usearch": version("usearch")
            if find_spec("usearch")
            else "not installed: pip install 'tercet[hnsw]' for large indexes",
        },
    }


def _why(backend: str, dtype: str) -> str:
    if backend != "torch":
        return "torch is not installed: pip install 'tercet[torch]' for training, GPUs and bfloat16"
    if dtype == "bfloat16":
        return "torch is installed, and this machine multiplies bfloat16"
    return "torch is installed, and this machine does not multiply bfloat16"


def _show_facts(facts: dict[str, Any], indent: str = "") -> None:
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict):
            echo(f"{indent}{name}:")
            _show_facts(value, indent + "  ")
        elif isinstance(value, list | tuple):
            echo(f"{indent}{name:<{width}}  {', '.join(map(str, value))}")
        else:
            shown = f"{value:,}" if type(value) is int else "-" if value is None else value
            echo(f"{indent}{name:<{width}}  {shown}")
