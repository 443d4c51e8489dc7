"""What a text alone shows: its length, its letters, damage from wrong encodings.

Each check takes texts and gives, for each, what is wrong with it in words, or None. Knows nothing
of rows, languages or files.
"""

import re
from collections.abc import Sequence

from tercet.data.filter.characters import Counts

Range = tuple[int, int]
Wrong = str | None

# Damaged characters in a thousand; a text about encodings may show one.
BROKEN = 1
# Places that read as UTF-8 decoded twice; fewer happen by chance in Czech and Turkish.
TWICE = 3


def check_encoding(texts: Sequence[str]) -> list[Wrong]:
    """Control characters, characters that stand for lost ones, and UTF-8 that was read as Latin."""
    broken = Counts.of(texts).broken.tolist()
    return [
        f"control characters or U+FFFD ({count})"
        if count * 1000 > BROKEN * len(text)
        else _mojibake(text)
        for text, count in zip(texts, broken, strict=True)
    ]


def check_length(texts: Sequence[str], allowed: Range) -> list[Wrong]:
    """Fewer or more characters than allowed."""
    least, most = allowed
    out: list[Wrong] = []
    for text in texts:
        length = len(text.strip())
        if length < least:
            out.append(f"{length} characters, less than {least}")
        else:
            out.append(f"{length} characters, more than {most}" if length > most else None)
    return out


def check_letters(texts: Sequence[str], least: float) -> list[Wrong]:
    """Less than this part of the characters, white space left out, are letters."""
    counts = Counts.of(texts)
    out: list[Wrong] = []
    for letters, solid in zip(counts.letters.tolist(), counts.solid.tolist(), strict=True):
        share = letters / solid if solid else 0.0
        out.append(f"{share:.0%} letters" if share < least else None)
    return out


def _as_bytes() -> dict[str, int]:
    """The byte that each character above ASCII was, had it been read as Windows-1252 or Latin-1."""
    table = {chr(byte): byte for byte in range(0x80, 0x100)}
    for byte in range(0x80, 0xA0):
        try:
            table[bytes([byte]).decode("cp1252")] = byte
        except UnicodeDecodeError:  # five bytes have no character there
            continue
    return table


_BYTES = _as_bytes()
_REST = "[" + re.escape("".join(c for c, byte in _BYTES.items() if 0x80 <= byte < 0xC0)) + "]"
_TWICE = re.compile(
    f"[\u00c2-\u00df]{_REST}|[\u00e0-\u00ef]{_REST}{{2}}|[\u00f0-\u00f4]{_REST}{{3}}"
)
# What no language writes: a quotation mark or dash, or a Latin letter, decoded twice.
_CERTAIN = re.compile(
    "\u00e2\u20ac[\u0153\u0161\u02dc\u2122\u201c\u201d\u00a2\u00a6\u009d]|\u00c3[\u00a1-\u00aa\u00ac-\u00ba\u00bc-\u00bf]"
)


def _mojibake(text: str) -> Wrong:
    if text.isascii():
        return None
    if found := _CERTAIN.search(text):
        return f"UTF-8 read as Latin: {found[0]!r}"
    places = [found[0] for found in _TWICE.finditer(text) if _decodes(found[0])]
    many = len(places) >= TWICE and len(places) * 1000 > BROKEN * len(text)
    return f"UTF-8 read as Latin: {places[0]!r}" if many else None


def _decodes(characters: str) -> bool:
    try:
        bytes(_BYTES[character] for character in characters).decode()
    except UnicodeDecodeError:
        return False
    return True
