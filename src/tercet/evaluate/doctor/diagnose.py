"""The whole of `tercet doctor`: a target and a reference in, a diagnosis out."""

from collections.abc import Sequence
from pathlib import Path

from tercet.encoder import Encoder
from tercet.endpoint import Endpoint
from tercet.errors import InputError
from tercet.evaluate.doctor.endpoints import Api, Server
from tercet.evaluate.doctor.examine import Show, examine
from tercet.evaluate.doctor.local import answers_of, facts_of
from tercet.evaluate.doctor.otherwise import texts_of
from tercet.evaluate.doctor.readings import KINDS, Kind
from tercet.evaluate.doctor.reference import Reference
from tercet.evaluate.doctor.report import Diagnosis


def diagnose_endpoint(
    endpoint: Endpoint,
    reference: Reference,
    *,
    kinds: Sequence[Kind] = KINDS,
    api: Api | None = None,
    name: str | None = None,
    batch: int = 8,
    show: Show = lambda what, done, of: None,
) -> Diagnosis:
    """Asks a server, compares and explains; raises EndpointError where it gives no embeddings."""
    about = reference.about
    guess = about.model if not Path(about.model).exists() else Path(about.model).name
    server = Server.find(endpoint, name=name, guess=guess, api=api, batch=batch)
    asked = [kind for kind in kinds if kind in about.kinds]
    answers = server.ask(texts_of(reference), asked, multi=about.dims.get("multi"))
    if not answers.found:
        raise InputError(f"{server.words} offers none of {', '.join(kinds)}")
    heads = examine(reference, answers, again=server.alone, show=show)
    return Diagnosis(answers.source, about, tuple(heads), answers.facts)


def diagnose_model(
    encoder: Encoder,
    reference: Reference,
    *,
    kinds: Sequence[Kind] = KINDS,
    show: Show = lambda what, done, of: None,
) -> Diagnosis:
    """Runs a model of our own encoder, compares and explains."""
    about, texts = reference.about, texts_of(reference)
    asked = [kind for kind in kinds if kind in about.kinds and kind in encoder.heads]
    if not asked:
        raise InputError(f"the model has none of {', '.join(kinds)}")
    answers = answers_of(encoder, texts, asked)
    heads = examine(reference, answers, show=show)
    return Diagnosis(answers.source, about, tuple(heads), tuple(facts_of(encoder, texts, about)))
