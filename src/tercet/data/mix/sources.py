"""What a mix is made of: sources with weights or shares, from the command line or a TOML file.

Knows nothing of rows.
"""

import dataclasses
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.rows import files_of, stem_of

# What a TOML file may set besides `sources`; as the fields of `tercet.data.mix.job.Mix`.
SETTINGS: dict[str, tuple[type, ...]] = {
    "rows": (int,),
    "epochs": (int, float),
    "alpha": (int, float),
    "cap": (int,),
    "caps": (dict,),
    "repeats": (int,),
    "unit": (str,),
    "lengths": (list,),
    "model": (str,),
    "revision": (str,),
    "file_mb": (int, float),
    "seed": (int,),
}


@dataclass(frozen=True)
class Source:
    """Files of rows that are drawn alike."""

    files: tuple[str, ...]  # files of rows, or folders of them
    name: str = ""  # in the report; the first file's name without suffixes if empty
    weight: float = 1.0  # how often each row is drawn in an epoch, as in training
    share: float | None = None  # per cent of the mix, instead of a weight
    cap: int | None = None  # rows drawn at most

    def __post_init__(self) -> None:
        """Raises InputError on values that cannot be."""
        if not self.files or not all(map(_is_name, self.files)):
            raise InputError(f"source {self.name or '?'}: files must be a list of names of files")
        for name, least in (("weight", 0.0), ("share", 0.0), ("cap", 1.0)):
            value = getattr(self, name)
            if value is not None and (not _is_number(value) or not least <= value < math.inf):
                raise InputError(
                    f"source {self.label}: {name} must be a number of at least {least:g}, got "
                    f"{value!r}"
                )

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or stem_of(Path(self.files[0]))

    def paths(self) -> list[Path]:
        """Its files of rows; raises InputError where one is not there."""
        return [path for name in self.files for path in files_of(Path(name))]

    def capped(self, cap: int | None) -> "Source":
        """The source with a cap, unless it has one of its own."""
        return self if self.cap is not None else dataclasses.replace(self, cap=cap)

    def to_json(self) -> dict[str, Any]:
        """Its fields, as `of` takes them."""
        return {**dataclasses.asdict(self), "files": list(self.files)}

    @staticmethod
    def of(facts: dict[str, Any]) -> "Source":
        """The source of a TOML table; raises InputError on an unknown or missing key."""
        known = [field.name for field in dataclasses.fields(Source)]
        if unknown := sorted(facts.keys() - set(known)):
            raise InputError(f"unknown key {unknown[0]!r}: a source has {', '.join(known)}")
        files = facts.get("files")
        if not isinstance(files, list | tuple):
            raise InputError("a source needs files, a list of names")
        return Source(**{**facts, "files": tuple(files)})


def parse_source(text: str) -> Source:
    """`rows.jsonl=2` draws each row twice, `rows.jsonl=30%` makes 30 per cent of the mix of it.

    >>> parse_source("qa.jsonl=2").weight, parse_source("qa.jsonl=30%").share
    (2.0, 30.0)
    """
    name, equals, amount = text.rpartition("=")
    if not equals or Path(text).exists():
        return Source((text,))
    try:
        number = float(amount.removesuffix("%"))
    except ValueError:
        if Path(name).exists():
            raise InputError(
                f"{text}: {amount!r} is no weight: give a number, as in 2, or a share, as in 30%"
            ) from None
        return Source((text,))
    if amount.endswith("%"):
        return Source((name,), share=number)
    return Source((name,), weight=number)


def read_config(path: Path) -> dict[str, Any]:
    """Sources and settings of a TOML file, by the names of the fields of a mix.

    Raises InputError naming the file on what it cannot hold.
    """
    try:
        facts = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as TOML: {error}") from error
    tables = facts.pop("sources", None)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: no [[sources]], each with files = [...]")
    for name, value in facts.items():
        if name not in SETTINGS:
            raise InputError(f"{path}: unknown key {name!r}: it may hold {', '.join(SETTINGS)}")
        if not isinstance(value, SETTINGS[name]) or isinstance(value, bool):
            raise InputError(f"{path}: {name} is {value!r}: not of the right kind")
    if {"rows", "epochs"} <= facts.keys():
        raise InputError(f"{path}: rows and epochs both say how long the mix is: leave one out")
    try:
        sources = [Source.of(table) for table in tables]
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return {**facts, "sources": sources}


def check_sources(sources: Sequence[Source]) -> None:
    """Raises InputError on sources that cannot be mixed."""
    if not sources:
        raise InputError("there are no sources to mix")
    labels = [source.label for source in sources]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InputError(f"two sources are called {twice[0]!r}: name them in a TOML file")
    shared = [source for source in sources if source.share is not None]
    if shared and len(shared) < len(sources):
        other = next(source.label for source in sources if source.share is None)
        raise InputError(f"source {other} has no share, but others do: give all of them one")
    if shared and not math.isclose(total := sum(s.share or 0.0 for s in shared), 100, abs_tol=0.01):
        raise InputError(f"the shares of the sources add up to {total:g}%, not 100%")
    if not shared and not any(source.weight for source in sources):
        raise InputError("all weights are 0: there is nothing to mix")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
