"""Translation memories (TMX), a unit at a time.

Entities that a file declares are refused rather than expanded, and nothing outside it is read.
Knows nothing of other formats of translations.
"""

import html
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from tercet.data.pairs.base import Found, Has, Plan, Problem, Units, Unreadable, open_bytes
from tercet.data.pairs.languages import known, same, tag
from tercet.data.pairs.translations import translations
from tercet.errors import InputError

_READ = 1 << 16  # bytes parsed at once
_CODES = frozenset(("bpt", "ept", "ph", "it", "ut", "sub"))  # markup of the source, not its text
_SPACE = {"lb", "br"}


def read_tmx(path: Path, label: str, plan: Plan, has: Has) -> Units:
    """Every <tu> as a unit; raises Unreadable at the line where the file is not TMX any more."""
    memory = _Memory(label, has)
    block = b"-"
    try:
        with open_bytes(path) as file:
            while block:
                block = file.read(_READ)
                fault = memory.parse(block)
                yield from memory.take(plan)  # what was whole before the fault is kept
                if fault is not None:
                    raise fault
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Unreadable(label, f"cannot be read: {reason}") from error


class _Memory:
    """Takes the events of the parser and keeps the units that were wanted."""

    def __init__(self, label: str, has: Has) -> None:
        self._label, self._has = label, has
        self._parser = parser = expat.ParserCreate(namespace_separator=None)
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._refuse
        parser.SkippedEntityHandler = self._skipped
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self._units: list[tuple[int, int, dict[str, str], str]] = []
        self._number = -1  # of the unit
        self._wanted = self._seen = False
        self._header = self._source = ""
        self._texts: dict[str, str] = {}
        self._fault = self._language = ""
        self._line = self._codes = 0
        self._parts: list[str] = []

    def parse(self, block: bytes) -> Unreadable | None:
        """Reads on, b"" being the end; returns what is wrong with the file from here on."""
        try:
            self._parser.Parse(block, not block)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            return Unreadable(f"{self._label}:{error.lineno}", f"not well-formed XML: {reason}")
        except Unreadable as error:
            return error
        return None

    def take(self, plan: Plan) -> Units:
        """The units that are whole."""
        units, self._units = self._units, []
        for number, line, texts, fault in units:
            where = f"{self._label}:{line}"
            yield number, list(self._found(texts, fault, plan, where))

    def _found(self, texts: dict[str, str], fault: str, plan: Plan, where: str) -> Iterator[Found]:
        if fault:
            yield Problem(where, fault)
        yield from translations(texts, plan, where)

    def _start(self, name: str, facts: dict[str, str]) -> None:
        if not self._seen:
            self._seen = True
            if name != "tmx":
                raise self._unreadable(f"not TMX: its root is <{name}>")
        if name == "header":
            self._header = known(facts.get("srclang"))
        elif name == "tu":
            self._number += 1
            self._wanted = self._has(self._number)
            self._source = known(facts.get("srclang")) or self._header
            self._texts, self._fault = {}, ""
            self._line = self._parser.CurrentLineNumber
        elif not self._wanted:
            return
        elif name == "tuv":
            self._language = self._tag(facts.get("xml:lang") or facts.get("lang") or "")
        elif name == "seg":
            self._parts, self._codes = [], 0
            self._parser.CharacterDataHandler = self._text
        elif name in _CODES:
            self._codes += 1
        elif name in _SPACE:
            self._parts.append(" ")

    def _tag(self, text: str) -> str:
        if not text:
            self._fault = "a <tuv> without xml:lang: its text is left out"
            return ""
        try:
            return tag(text)
        except InputError as error:
            self._fault = f"xml:lang: {error}: its text is left out"
            return ""

    def _end(self, name: str) -> None:
        if not self._wanted:
            return
        if name == "seg":
            self._parser.CharacterDataHandler = None
            if self._language:
                self._texts.setdefault(self._language, "".join(self._parts))
        elif name in _CODES:
            self._codes -= 1
        elif name == "tu":
            texts = self._texts
            first = [one for one in texts if same(self._source, one)][:1]
            ordered = {one: texts[one] for one in (*first, *texts)}
            self._units.append((self._number, self._line, ordered, self._fault))
            self._wanted = False

    def _text(self, text: str) -> None:
        if not self._codes:
            self._parts.append(text)

    def _skipped(self, name: str, parameter: bool) -> None:
        """An entity that no declaration was read for: those of HTML are meant."""
        if not parameter and self._parser.CharacterDataHandler is not None:
            self._text(html.unescape(f"&{name};"))

    def _refuse(self, name: str, *facts: Any) -> None:
        raise self._unreadable(f"it declares an entity ({name}): entities are not expanded")

    def _unreadable(self, reason: str) -> Unreadable:
        return Unreadable(f"{self._label}:{self._parser.CurrentLineNumber}", reason)
