"""Language tags: their usual form, which there are, and what names of files say.

Knows nothing of texts: it does not guess what language one is in.
"""

import re
from pathlib import Path

from tercet.data.pairs.base import PACKED
from tercet.errors import InputError

# ISO 639-1, and "sh", which Wikipedia and parallel corpora still use
TWO_LETTERS = frozenset(
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy "
    "da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu "
    "hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb "
    "lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om "
    "or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv "
    "sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh "
    "zu".split()
)
# Names of countries in place of those of languages, as files often have them.
MISTAKEN = {"cn": "zh", "cz": "cs", "dk": "da", "gr": "el", "jp": "ja", "ua": "uk"}
_TAG = re.compile(  # language, script, region; a variant behind "@" says nothing here
    r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|\d{3}))?(?:@\w+)?"
)
_PAIR = re.compile(r"[a-z]{2,3}-[a-z]{2,3}")
_PLAIN = (".txt", ".text", ".raw", ".tok", ".snt", ".sgm")


def tag(text: str) -> str:
    """A tag as BCP 47 writes it: `pt_br` -> `pt-BR`, `zh_hant` -> `zh-Hant`, `sr@latin` -> `sr`.

    Raises InputError where it is no tag, or its two letters are no language.
    """
    match = _TAG.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a language tag such as de, pt-BR or ckb")
    language = match[1].lower()
    if len(language) == 2 and language not in TWO_LETTERS:
        meant = f": did you mean {MISTAKEN[language]}?" if language in MISTAKEN else ""
        raise InputError(f"{text!r} is not a language of ISO 639-1{meant}")
    script, region = match[2], match[3]
    return "-".join(filter(None, (language, script and script.title(), region and region.upper())))


def known(text: str | None) -> str:
    """The tag in its usual form, "" where it is none."""
    try:
        return tag(text) if text else ""
    except InputError:
        return ""


def primary(language: str) -> str:
    """The language of a tag without script and region."""
    return language.partition("-")[0]


def direction(text: str) -> tuple[str, str]:
    """`de-en` -> ("de", "en"), `pt-BR:en` -> ("pt-BR", "en"); raises InputError."""
    first, mark, second = text.partition(":") if ":" in text else text.partition("-")
    if not mark or not second:
        raise InputError(f"{text!r} is not a direction such as de-en (or pt-BR:en)")
    if tag(first) == tag(second):
        raise InputError(f"{text!r} goes from a language to the same one")
    return tag(first), tag(second)


def both(query: str, positive: str) -> str:
    """The tag of a row whose query and positive are in these languages.

    The region of the second is left out: `en-pt-BR` would read as one language, Brazilian.
    """
    return f"{query}-{primary(positive)}"


def same(wanted: str, found: str) -> bool:
    """Whether a tag that was asked for covers one that was found: `de` covers `de-AT`."""
    return found == wanted or found.startswith(f"{wanted}-")


def of_text_file(path: Path) -> tuple[str, str]:
    """The language in a name and the name without it: `news.de-en.de.gz` -> ("de", "news.de-en").

    Also `de.txt`, `news.deu.txt` and Moses' `news.de`; ("", the name) where there is none. Three
    letters at the very end of a name are the suffix of a format rather.
    """
    parts = path.name.split(".")
    while len(parts) > 1 and f".{parts[-1].lower()}" in (*PACKED, *_PLAIN):
        parts.pop()
    *stem, last = parts
    paired = bool(stem and _PAIR.fullmatch(stem[-1]))
    format_ = len(last) == 3 and path.name.endswith(last) and not paired
    language = "" if format_ or (stem and _PAIR.fullmatch(last)) else known(last)
    return (language, ".".join(stem)) if language else ("", path.name)


def of_catalogue(path: Path) -> str:
    """The language of a PO file by its place: `de/LC_MESSAGES/x.po`, `po/de.po`, `x.de.po`."""
    folders = path.parts
    if len(folders) > 2 and folders[-2] == "LC_MESSAGES":
        return known(folders[-3].partition(".")[0])  # of zh_TW.Big5 too
    return known(path.stem.rpartition(".")[2])


def of_wiki(url: str) -> str:
    """The language of a Wikimedia address: `https://de.wikipedia.org/...` -> `de`."""
    match = re.match(r"(?:https?:)?//([a-z-]{2,12})\.(?:m\.)?wik[a-z]+\.org\b", url)
    return known(match[1]) if match else ""
