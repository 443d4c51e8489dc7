"""Suites by name, such as `miracl:sw,yo` or `beir:FOLDER`, to their tasks.

Knows nothing of models or measures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tercet.errors import InputError
from tercet.evaluate.loaders import beir, bitext, miracl, mkqa, mldr, narrativeqa, own_pairs
from tercet.evaluate.tasks import Bitext, Task

PUBLISHED = ("miracl", "mkqa", "mldr", "narrativeqa")
OWN = ("beir", "bitext", "pairs")
LANGUAGES = {
    "miracl": miracl.LANGUAGES,
    "mkqa": mkqa.LANGUAGES,
    "mldr": mldr.LANGUAGES,
    "narrativeqa": ("en",),
}
SPLITS = {  # the first is the one that is reported
    "miracl": miracl.SPLITS,
    "mkqa": ("test",),
    "mldr": mldr.SPLITS,
    "narrativeqa": narrativeqa.SPLITS,
}
FORMS = (
    "miracl, mkqa, mldr (all languages, or some as in mldr:de,fr), narrativeqa, beir:FOLDER, "
    "bitext:FILE, pairs:FILE; @SPLIT behind it is another split, as in mldr:de@dev"
)
_SPLIT = re.compile(r"(.*)@([A-Za-z][\w-]*)")


@dataclass(frozen=True)
class Suite:
    """A suite as its name says."""

    kind: str  # one of PUBLISHED or OWN
    languages: tuple[str, ...] = ()  # of PUBLISHED: none means all
    path: str = ""  # of OWN
    split: str | None = None  # None: the one that is reported

    @staticmethod
    def parse(text: str) -> "Suite":
        """`mldr:de,fr@dev` -> mldr, ("de", "fr"), dev; raises InputError on what is no suite.

        A path that has an @ and exists is taken as it is.
        """
        kind, colon, what = text.strip().partition(":")
        split = None
        if kind in OWN and what and Path(what).exists():
            return Suite(kind, path=what)
        if (match := _SPLIT.fullmatch(what if colon else kind)) is not None:
            split = match[2]
            kind, what = (kind, match[1]) if colon else (match[1], "")
        if kind not in PUBLISHED + OWN:
            raise InputError(f"no suite {kind!r}: there are {FORMS}")
        if kind in OWN:
            if not what:
                raise InputError(f"{kind} needs a path, as in {kind}:FOLDER")
            if split is not None and kind != "beir":
                raise InputError(
                    f"{what}@{split}: no such file or folder, and {kind} has no splits"
                )
            return Suite(kind, path=what, split=split)
        languages = tuple(filter(None, (part.strip() for part in what.split(","))))
        if colon and not languages:
            raise InputError(f"{text!r}: name languages behind the colon, as in {kind}:de,fr")
        for language in languages:
            if language not in LANGUAGES[kind]:
                raise InputError(
                    f"{kind} has no language {language!r}: it has {', '.join(LANGUAGES[kind])}"
                )
        if split is not None and split not in SPLITS[kind]:
            raise InputError(f"{kind} has no split {split!r}: it has {', '.join(SPLITS[kind])}")
        return Suite(kind, languages=tuple(dict.fromkeys(languages)), split=split)


def load(
    text: str, *, local: Path | None = None, languages: Sequence[str] = ()
) -> list[Task | Bitext]:
    """The tasks of a suite by its name, see FORMS; raises InputError.

    local: a folder with a copy of the published files, instead of the hub. languages: tasks of
    others are left out; behind the name of a suite they mean the same.
    """
    suite = Suite.parse(text)
    if suite.kind in OWN:
        if local is not None:
            raise InputError(f"{text} is local anyway: a copy is given for published suites only")
        return _of_languages(text, _own(suite), languages)
    wanted = suite.languages or LANGUAGES[suite.kind]
    if languages:
        if absent := [name for name in languages if name not in wanted]:
            raise InputError(f"{text} has no language {absent[0]!r}: it has {', '.join(wanted)}")
        wanted = tuple(name for name in wanted if name in languages)
    split = suite.split or SPLITS[suite.kind][0]
    if suite.kind == "miracl":
        return [*miracl.load(wanted, split, local=local)]
    if suite.kind == "mldr":
        return [*mldr.load(wanted, split, local=local)]
    if suite.kind == "mkqa":
        return [*mkqa.load(wanted, local=local)]
    return [*narrativeqa.load(split, local=local)]


def _own(suite: Suite) -> list[Task | Bitext]:
    if suite.kind == "beir":
        return [*beir.load(Path(suite.path), suite.split or beir.SPLIT)]
    if suite.kind == "bitext":
        return [*bitext.load(suite.path)]
    return [*own_pairs.load(Path(suite.path))]


def _of_languages(
    text: str, tasks: list[Task | Bitext], wanted: Sequence[str]
) -> list[Task | Bitext]:
    """The tasks of these languages; of one in several languages, their queries alone."""
    if not wanted:
        return tasks
    there = {task.language for task in tasks if isinstance(task, Bitext) or not task.languages}
    for task in tasks:
        if isinstance(task, Task):
            there.update(task.languages.values())
    if absent := [name for name in wanted if name not in there]:
        named = ", ".join(name or "not said" for name in sorted(there))
        raise InputError(f"{text} has nothing in the language {absent[0]!r}: there is {named}")
    out: list[Task | Bitext] = []
    for task in tasks:
        if isinstance(task, Bitext):
            out += [task] if task.language in wanted else []
        elif (some := task.of_languages(wanted)) is not None:
            out.append(some)
    return out
