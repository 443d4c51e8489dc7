"""`tercet evaluate` and `compare`: figures of every representation, of one model or two."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from tercet.cli.meter import Meter
from tercet.cli.options import (
    Count,
    Device,
    Heads,
    HybridWeights,
    Json,
    Model,
    Names,
    Opt,
    Revision,
    Tokens,
    as_usage,
    command,
    default_of,
    echo,
    emit,
    kept,
)
from tercet.config import BUNDLED_NAME, PAPER_WEIGHTS, Head, Weights, default_cache
from tercet.errors import InputError

if TYPE_CHECKING:
    from tercet.encoder import Encoder
    from tercet.evaluate.results import TaskResult


def _numbers(value: str) -> tuple[int, ...]:
    """`128,512` -> (128, 512)."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"{value!r} is not one or more numbers of tokens, as in 512,8192")
    return tuple(map(int, parts))


def _lengths(value: str) -> tuple[int, ...]:
    lengths = _numbers(value)
    if min(lengths) < 3:
        raise ValueError(f"{value!r}: a passage takes 3 tokens at least")
    return lengths


def _chunks(value: str) -> tuple[int, ...]:
    from tercet.evaluate.vectors import chunking_of

    return tuple(chunking_of(tokens).chunk for tokens in _numbers(value))


def _runs(values: tuple[str, ...]) -> dict[str, Path]:
    """`mine=run.trec` -> {"mine": Path("run.trec")}."""
    runs: dict[str, Path] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not (name.strip() and equals and path):
            raise ValueError(f"{value!r} is not of the form NAME=PATH")
        if name.strip() in runs:
            raise ValueError(f"two runs are named {name.strip()!r}")
        runs[name.strip()] = Path(path)
    return runs


@command()
def evaluate(
    suites: Annotated[tuple[str, ...], Opt(metavar="SUITE...")],
    *,
    model: Model = None,
    revision: Revision = None,
    no_model: bool = False,
    device: Device = None,
    heads: Heads = None,
    no_bm25: bool = False,
    local: Path | None = None,
    languages: Names | None = None,
    lengths: Annotated[tuple[int, ...], Opt(flag="--max-length", parse=_lengths)] = (),
    chunks: Annotated[tuple[int, ...], Opt(flag="--chunk", parse=_chunks)] = (),
    query_length: Tokens | None = None,
    mcls: Count | None = None,
    rerank: Count | None = None,
    union: Count | None = None,
    weights: HybridWeights = None,
    tune: Annotated[tuple[str, ...], Opt(flag="--tune-weights")] = (),
    least: Annotated[bool, Opt(flag="--tune-min-score")] = False,
    store: Annotated[Path | None, Opt(flag="--store-weights")] = None,
    measures: Names | None = None,
    ignore_identical_ids: bool = False,
    outside: Annotated[dict[str, Path] | None, Opt(flag="--run", parse=_runs, many=True)] = None,
    against: str | None = None,
    to: Path | None = None,
    cache: Path | None = None,
    multi_gb: Annotated[float, Opt(min=0)] = default_of(
        "tercet.evaluate.runner:EvaluateConfig", "multi_gb"
    ),
    as_json: Json = False,
) -> None:
    """Measure dense, sparse, multi-vector and their sums, beside BM25.

    A SUITE is miracl, mkqa, mldr (maybe with languages, as in miracl:sw,yo) or narrativeqa, as the
    M3 paper has them; beir:PATH, a BEIR folder or a folder of them; bitext:PATH, translations; or
    pairs:PATH, your own rows {"query", "pos"}. @SPLIT behind it names another split. What was
    encoded is kept, so that a second run, or one after a kill, is quick.

    \b
    Examples:
      tercet evaluate beir:data/scifact
      tercet evaluate miracl:sw,yo --model BAAI/bge-m3 --to report
      tercet evaluate pairs:test.jsonl --tune-weights pairs:dev.jsonl
      tercet evaluate narrativeqa --model BAAI/bge-m3 --max-length 128,512,4096,8192 --to curve
      tercet evaluate mldr:en@dev --model BAAI/bge-m3 --chunk 0,512
      tercet evaluate beir:data/scifact --no-model --run other=run.trec

    Options:
      suites SUITE...:
      no_model: BM25 and outside runs alone.
      no_bm25: Leave BM25 out.
      local DIR: Folder with copies of the published files, instead of the hub.
      languages LIST: Tasks, and queries, of these languages alone.
      lengths N,...: Tokens of a passage; several for a curve.  [default: 8192]
      chunks N,...: Cut passages into chunks of at most N tokens and score each by its best
          chunk: by a head's highest score, by the highest sum that one chunk has. Cut as tercet
          index does: neighbours share an eighth, 64 tokens at most, and a title that the file
          has apart stands before every chunk. 0: whole passages; 0,N: both. BM25 reads them
          whole.  [default: 0]
      query_length N: Tokens of a query.
      mcls N: A [CLS] before every N tokens of a passage; the paper has 256.
      rerank N: Candidates of dense that multi and all rank again.  [default: 200]
      union N: Candidates of dense and of sparse that dense+sparse ranks.  [default: 1000]
      weights D,S,M: Weights of dense, sparse and multi.  [default: the suite's, else the
          model's]
      tune SUITE: Find the weights on this dev suite first; may be repeated: each suite counts
          alike.
      least: Learn there, too, the hybrid score above which 99% of questions find their best
          answer, which `tercet search` takes as the least of an answer.
      store DIR: Keep what was tuned in this folder of the same model, or this index of it, if
          they are better than those it has.
      measures LIST: Measures by their names in ir_measures, as in nDCG@10,RR@10,Recall@100; those
          but nDCG, Recall, P and Success need it installed.
      ignore_identical_ids: Leave out passages under the id of their query, as is always done for
          arguana and quora, whose queries are passages too.
      outside NAME=PATH: A TREC run of another system, or a folder of TASK.trec files; may be
          repeated.
      against COLUMN: What every column is compared with, by a paired test.  [default: BM25]
      to DIR: Folder for report.json, report.html, TREC runs and qrels.
      cache DIR: Where vectors are kept for the next time.  [default: $TERCET_CACHE or
          ~/.cache/tercet]
      multi_gb: Disk for a corpus's multi-vectors; beyond it, those of candidates are encoded
          again.
    """
    if no_model:
        given = {
            "--model": model, "--tune-weights": tune, "--heads": heads, "--max-length": lengths,
            "--chunk": chunks, "--query-length": query_length, "--mcls": mcls, "--rerank": rerank,
            "--union": union, "--weights": weights,
        }  # fmt: skip
        if idle := [name for name, value in given.items() if value]:
            raise click.UsageError(f"--no-model leaves {idle[0]} without a meaning: leave it out")
        if no_bm25 and not outside:
            raise click.UsageError("--no-model and --no-bm25 leave nothing: give a --run")
    if store is not None and not tune:
        raise click.UsageError("--store-weights keeps what --tune-weights finds: give both")
    if least and not tune:
        raise click.UsageError("--tune-min-score learns on the suites of --tune-weights: give both")
    if weights is not None and tune:
        raise click.UsageError("give --weights or --tune-weights, not both")
    if lengths and chunks and 0 not in chunks:
        raise click.UsageError(
            "--max-length is of whole passages: leave it out, or give --chunk 0,N"
        )
    from tercet.collection import DOCUMENTS
    from tercet.encoder import Encoder
    from tercet.evaluate.results import text
    from tercet.evaluate.runner import EvaluateConfig, EvaluatePlan
    from tercet.evaluate.runner import evaluate as run

    with as_usage("'--measures'"):
        config = EvaluateConfig(
            bm25=not no_bm25,
            query_length=query_length,
            mcls=mcls,
            rerank=rerank,
            union=union,
            weights=weights,
            measures=measures,
            ignore_identical_ids=ignore_identical_ids,
            multi_gb=multi_gb,
            heads=heads,
        )
    plan = EvaluatePlan(
        suites=suites,
        local=local,
        languages=languages or (),
        lengths=lengths,
        chunks=chunks,
        tune=tune,
        min_score=least,
        outside=outside or {},
        against=against,
        to=to,
        cache=cache,
    )
    if store is not None and not any(
        (store / name).exists() for name in ("config.json", DOCUMENTS)
    ):
        raise click.UsageError(f"--store-weights: {store} is neither a model's folder nor an index")
    encoder = None if no_model else Encoder.load(model, revision=revision, device=device)
    if store is not None and encoder is not None:
        encoder.weights = _recorded_weights(store, encoder, heads or encoder.heads)
    folder = cache or default_cache()
    keeps = kept(lambda: f"what was encoded is kept in {folder}: the same command goes on")
    with closing(_Shower()) as shower, keeps:
        made = run(encoder, plan, config, show=shower, told=shower.told)
    if as_json:
        emit(made)
    else:
        echo(text(made))
        if to is not None:
            echo(f"{to}: report.json, report.html, runs and qrels")
    tuned = made["settings"]["tuned"]
    if least:
        echo(
            f"answers score at least {tuned['min_score']:g}, which refuses "
            f"{100 * tuned['refused']:.1f}% of the questions where their answers are left out",
            err=True,
        )
    if store is not None and encoder is not None:
        kept_now = _keep_weights(store, encoder, Weights(*tuned["weights"]), tuned["min_score"])
        echo(f"{store}: {kept_now}", err=True)


@command()
def compare(
    a: str,
    b: str,
    suites: Annotated[tuple[str, ...], Opt(metavar="SUITE...")] = (),
    *,
    local: Path | None = None,
    device: Device = None,
    cache: Path | None = None,
    as_json: Json = False,
) -> None:
    """Say whether B is better than A, by a paired test of every system.

    A and B are models (a folder, a hub id, or tercet-small for the one that comes with Tercet),
    which are evaluated on each SUITE, see `tercet evaluate --help`; or reports, folders that
    `tercet evaluate --to` wrote.

    \b
    Examples:
      tercet compare tercet-small run/model beir:data/scifact
      tercet compare report-before report-after

    Options:
      a A:
      b B:
      suites SUITE...:
      local DIR: Folder with copies of the published files, instead of the hub.
      cache DIR: Where vectors are kept for the next time.  [default: $TERCET_CACHE or
          ~/.cache/tercet]
    """
    from tercet.encoder import Encoder
    from tercet.evaluate.paired import compared, read_results, text
    from tercet.evaluate.runner import EvaluateConfig, EvaluatePlan
    from tercet.evaluate.runner import evaluate as run

    def results(source: str) -> list["TaskResult"]:
        path = Path(source)
        path = path / "report.json" if (path / "report.json").exists() else path
        if path.suffix == ".json":
            return read_results(path)
        if not suites:
            raise click.UsageError(
                f"{source} is no report that `tercet evaluate --to` wrote: to compare models, name "
                "a SUITE behind them, as in beir:FOLDER"
            )
        bundled = source == BUNDLED_NAME and not path.exists()
        encoder = Encoder.load(None if bundled else source, device=device)
        plan = EvaluatePlan(suites=suites, local=local, cache=cache)
        made: list[TaskResult] = []
        with closing(_Shower()) as shower:
            run(encoder, plan, EvaluateConfig(bm25=False), show=shower, told=made.append)
        return made

    lines = compared(results(a), results(b))
    if as_json:
        emit({"a": a, "b": b, "comparisons": lines})
    else:
        echo(f"A: {a}\nB: {b}\n{text(lines)}")


def _recorded_weights(folder: Path, encoder: "Encoder", heads: tuple[Head, ...]) -> Weights:
    """Those of a model's folder or an index; raises where it is of another model or other heads."""
    from tercet.collection import DOCUMENTS, Collection
    from tercet.onnx import read_source

    if (folder / DOCUMENTS).exists():
        with Collection.open(folder, encoder, read_only=True) as collection:
            stored, weights = collection.settings.heads, collection.weights
    else:
        checkpoint = read_source(folder)
        stored, weights = encoder.heads, checkpoint.settings.weights or PAPER_WEIGHTS
        if checkpoint.fingerprint != encoder.fingerprint:
            raise InputError(
                f"--store-weights: {folder} is another model ({checkpoint.fingerprint}) than "
                f"{encoder.source or BUNDLED_NAME} ({encoder.fingerprint}), for which weights are "
                f"to be tuned: give --model {folder}"
            )
    if set(heads) != set(stored):
        raise InputError(
            f"--store-weights: {folder} has {', '.join(stored)}, weights are to be tuned for "
            f"{', '.join(heads)}: give --heads {','.join(stored)}"
        )
    return weights


def _keep_weights(
    folder: Path, encoder: "Encoder", weights: Weights, min_score: float | None
) -> str:
    """Keeps weights in an index or in a checkpoint's tercet.json; returns what was done, in words.

    The encoder has the weights of before. An index keeps no least score: it belongs to a model.
    """
    from tercet.collection import DOCUMENTS, Collection
    from tercet.layout import set_weights

    old, new = (",".join(f"{w:g}" for w in of.as_tuple()) for of in (encoder.weights, weights))
    stay, is_index = weights == encoder.weights, (folder / DOCUMENTS).exists()
    if is_index and not stay:
        with Collection.open(folder, encoder, create=False) as collection:
            collection.keep_weights(weights)
    elif not is_index and (not stay or min_score is not None):
        set_weights(folder, weights, min_score)
    least = "" if is_index or min_score is None else f"; the least score of an answer {min_score:g}"
    if stay:
        return f"the weights {old} stay: none of those that were tried is better{least}"
    return f"the weights {old} became {new}{least}"


class _Shower:
    """A bar for each piece of work, and a line for each task that is done."""

    def __init__(self) -> None:
        self._what, self._meter = "", Meter("")

    def __call__(self, what: str, done: int, of: int | None) -> None:
        if what != self._what:
            self.close()
            self._what, self._meter = what, Meter(what)
            self._meter.__enter__()
        self._meter.show(done, of)

    def told(self, result: "TaskResult") -> None:
        self.close()
        seconds = sum(result.seconds.values())
        name = next((name for measures in result.values.values() for name in measures), "")
        figures = ", ".join(
            f"{system} {100 * measures[name].mean:.1f}"
            for system, measures in result.values.items()
        )
        how = f", best passage of {result.chunk:,} tokens" if result.chunk else ""
        echo(f"{result.name}{how}: {name}: {figures}; {seconds:,.1f} s", err=True)

    def close(self) -> None:
        self._meter.__exit__(None, None, None)
        self._what = ""
