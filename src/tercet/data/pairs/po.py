"""Catalogues of messages (PO): each message and its translation.

Fuzzy, empty and obsolete ones are left out. Knows nothing of other formats of translations.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tercet.data.pairs.base import (
    Found,
    Left,
    Plan,
    Units,
    Unreadable,
    decode,
    known_encoding,
    need,
    read_bytes,
)
from tercet.data.pairs.languages import known, of_catalogue, same
from tercet.data.pairs.translations import translations

SOURCE = "en"  # gettext's manual asks for messages in English
_CHARSET = re.compile(rb'"Content-Type:[^"\n]*charset=([\w.:-]+)', re.IGNORECASE)
_STRING = re.compile(r'\s*(?:#~\s*)?(?:msg\w+(?:\[\d+\])?\s*)?"')
_LINE = re.compile(r"\(line (\d+)\)(?:: (.*))?$")


def read_po(path: Path, label: str, plan: Plan) -> Units:
    """Every message as a unit; raises Unreadable where the file is no catalogue.

    Raises MissingExtraError without polib.
    """
    need("polib")
    import polib

    raw = read_bytes(path, label)
    match = _CHARSET.search(raw)
    encoding = (known_encoding(match[1].decode()) if match else None) or "utf-8"
    _check(decode(raw, label, encoding), label)
    try:
        catalogue = polib.pofile(
            str(path), encoding="utf-8-sig" if encoding == "utf-8" else encoding
        )
    except OSError as error:  # which polib raises for what it cannot parse
        found = _LINE.search(str(error))
        where = f"{label}:{found[1]}" if found else label
        raise Unreadable(
            where, f"not PO: {(found and found[2]) or 'a line that is none'}"
        ) from error
    source, target = _languages(catalogue.metadata, path, label, plan)
    for number, entry in enumerate(catalogue):
        where = f"{label}:{entry.linenum}"
        yield number, list(_unit(entry, source, target, plan, where))


def _check(text: str, label: str) -> None:
    """Raises Unreadable at a string that does not end: polib would cut its last character."""
    for number, row in enumerate(text.split("\n"), 1):
        if _STRING.match(row) and not re.search(r'"\s*$', row[row.index('"') + 1 :]):
            raise Unreadable(f"{label}:{number}", "not PO: a string without its closing quote")


def _languages(facts: dict[str, str], path: Path, label: str, plan: Plan) -> tuple[str, str]:
    """The languages of messages and of translations."""
    source = known(facts.get("X-Source-Language")) or SOURCE
    target = known(facts.get("Language", "").partition(".")[0]) or of_catalogue(path)
    if len(plan.directions) == 1:
        sides = plan.directions[0]
        if not target:
            target = next((side for side in sides if not same(side, source)), "")
        if any(same(side, target) for side in sides):
            source = next((side for side in sides if not same(side, target)), source)
    if not target:
        raise Unreadable(
            label, "its language is not said in its header: give --direction, as en-de"
        )
    return source, target


def _unit(entry: Any, source: str, target: str, plan: Plan, where: str) -> Iterator[Found]:
    reason = ""
    if entry.obsolete:
        reason = "an obsolete message"
    elif "fuzzy" in entry.flags:
        reason = "a fuzzy translation"
    elif not (entry.msgstr or any(entry.msgstr_plural.values())):
        reason = "a message without translation"
    elif not re.search(r"\s", entry.msgid) and re.search(r"\w[._]\w", entry.msgid):
        reason = "a message that is a key"
    if reason:
        yield Left(reason, where, entry.msgid[:100])
    elif entry.msgstr_plural:
        forms = [entry.msgstr_plural[number] for number in sorted(entry.msgstr_plural)]
        if len(forms) > 1:  # the first is for one, the last for many
            yield from translations({source: entry.msgid, target: forms[0]}, plan, where)
        yield from translations({source: entry.msgid_plural, target: forms[-1]}, plan, where)
    else:
        yield from translations({source: entry.msgid, target: entry.msgstr}, plan, where)
