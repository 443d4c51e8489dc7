"""Headings as queries: which say nothing, which need the title before them, which repeat.

Knows nothing of files and formats. The words of the lists are in some large languages only; what
is common elsewhere shows itself by repeating.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tercet.data.pairs.base import has_word
from tercet.split import text_key

Keys = npt.NDArray[np.int64]
MODES = ("auto", "joined", "drop")
MARK = " > "  # between a title and a heading
LONGEST_PATH = 3  # headings joined: the title and the innermost ones
BEGINNING = 200  # characters of a text by which it is known
_BLOCK = 1 << 22  # keys counted at once


def _phrases(text: str) -> frozenset[str]:
    return frozenset(" ".join(phrase.split()) for phrase in text.split("|"))


# Sections around a text: what is below them answers nothing.
APPARATUS = _phrases(
    """
    references | external links | see also | further reading | notes | footnotes | bibliography |
    citations | notes and references | works cited | related pages | related links | contents |
    table of contents | toc | index | indices and tables | navigation | breadcrumbs |
    on this page | in this section | this page | links | license | licence | licensing |
    copyright | copyright notice | copyright and license | license and copyright | authors |
    contributors | credits | acknowledgements | acknowledgments | thanks | sponsors | backers |
    changelog | change log | changes | release notes | history of changes | badges | gallery |
    search | footer | share this | leave a comment | related posts | related articles | subscribe |
    newsletter | donate | page not found | einzelnachweise | weblinks | siehe auch | literatur |
    quellen | anmerkungen | fußnoten | belege | inhaltsverzeichnis | lizenz | danksagung |
    références | voir aussi | liens externes | notes et références | bibliographie | annexes |
    articles connexes | table des matières | referencias | véase también | enlaces externos |
    bibliografía | notas | índice | licencia | voci correlate | collegamenti esterni |
    altri progetti | bibliografia | licenza | referências | ver também | ligações externas |
    licença | referenties | zie ook | externe links | bronnen | przypisy | zobacz też |
    linki zewnętrzne | источники | примечания | литература | ссылки | см. также | примітки |
    посилання | див. також | джерела | 脚注 | 関連項目 | 外部リンク | 参考文献 | 出典 | 注釈 |
    目次 | 参见 | 參見 | 外部链接 | 外部連結 | 参考资料 | 參考資料 | 参考来源 | 注释 | 註釋 |
    相关条目 | 각주 | 같이 보기 | 외부 링크 | 참고 문헌 | kaynakça | dış bağlantılar |
    ayrıca bakınız | مراجع | وصلات خارجية | انظر أيضا | المراجع | انظر أيضًا | منابع |
    پیوند به بیرون | הערות שוליים | קישורים חיצוניים | ראו גם | सन्दर्भ | इन्हें भी देखें |
    บราณานุกรม | อ้างอิง | ดูเพิ่ม | tham khảo | liên kết ngoài | referensi | pranala luar |
    lihat pula
    """
)
CONTENTS = _phrases(
    "contents | table of contents | toc | on this page | in this section | navigation | "
    "inhaltsverzeichnis | table des matières | índice | 目次"
)
# Whole pages of this kind, by their title; a page may well be about "References".
PAGES = _phrases(
    """
    license | licence | licensing | copyright | changelog | change log | changes | release notes |
    authors | contributors | credits | acknowledgements | acknowledgments | index | contents |
    table of contents | indices and tables | search | search page | page not found | redirecting |
    lizenz | licence | licencia | licenza | licença
    """
)
# Sections that say something, under headings that do not say of what.
COMMON = _phrases(
    """
    introduction | overview | description | summary | abstract | background | motivation |
    history | usage | basic usage | advanced usage | how to use | getting started | get started |
    quick start | quickstart | installation | install | installing | setup | requirements |
    prerequisites | dependencies | configuration | options | parameters | arguments | returns |
    return value | properties | methods | attributes | fields | example | examples | features |
    about | api | api reference | documentation | development | contributing | testing | tests |
    support | help | faq | frequently asked questions | troubleshooting | known issues |
    limitations | caveats | warning | warnings | important | tip | tips | details | general |
    misc | miscellaneous | other | results | discussion | conclusion | conclusions |
    methods and materials | rationale | specification | implementation | security considerations |
    backwards compatibility | design | goals | non-goals | status | roadmap | todo | appendix |
    preface | foreword | biography | life | early life | career | personal life | legacy |
    reception | plot | cast | production | geography | demographics | climate | economy |
    etymology | education | definition | types | methodology | readme | home | welcome |
    main page | untitled | default | what's new | next steps | syntax | einleitung | einführung |
    überblick | beschreibung | zusammenfassung | geschichte | leben | werke | beispiel |
    beispiele | verwendung | hintergrund | allgemeines | leben und werk | résumé | présentation |
    histoire | description générale | biographie | exemple | exemples | utilisation | contexte |
    introducción | resumen | descripción | historia | biografía | ejemplo | ejemplos |
    introduzione | storia | descrizione | biografia e carriera | esempio | introdução | história |
    resumo | descrição | inleiding | geschiedenis | введение | история | биография | описание |
    пример | примеры | обзор | 概要 | はじめに | 歴史 | 概説 | 来歴 | 例 | 简介 | 簡介 | 概述 |
    历史 | 歷史 | 介绍 | 示例 | 개요 | 역사 | 소개 | giriş | tarihçe | مقدمة | تاريخ | resources |
    note | comments | more information | additional information | faqs | how it works | purpose |
    scope | terminology | glossary | notation | instructions | steps |
    references and further reading
    """
)
ABSTRACTS = frozenset(
    "abstract zusammenfassung résumé resumen resumo riassunto аннотация 摘要 要旨 초록".split()
)
_PAGE = re.compile(
    r"(?:.+ )?licen[cs]e(?:,? (?:version )?[\d.]+)?|.*\b(?:changelog|release notes)\b.*"
)
_NUMBER = re.compile(r"(?:\d+(?:\.\d+)*[.)]?|[ivx]+[.)]|[a-z][.)])\s+")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".replace(" ", "|")
_VERSION = re.compile(  # [1.2.0] - 2024-05-01, Release 0.23 (May 2026), changes for v2.0rc1
    rf"(?i)(?:\w+\s+){{0,2}}\W*v?\d+(?:\.\d+)+\w*(?:\W+(?:\d+\w*|(?:{_MONTHS})\w*|unreleased))*\W*"
)


def normal(heading: str) -> str:
    """The heading as it is compared: small letters, no number before it, no mark after it."""
    text = " ".join(heading.casefold().split())
    return _NUMBER.sub("", text, count=1).strip(" .:;!?-–—*_`'\"()[]¶#") if text else ""


def is_around(title: str, inner: Sequence[str]) -> bool:
    """Whether what stands under a title and headings is about a text rather than part of it.

    A list of contents ends at the next heading, whatever its level.
    """
    *above, own = map(normal, inner or ("",))
    page = normal(title)
    return (
        page in PAGES
        or _PAGE.fullmatch(page) is not None
        or own in APPARATUS
        or any(one in APPARATUS and one not in CONTENTS for one in above)
    )


def is_common(heading: str) -> bool:
    """Whether it does not say what is meant without the title."""
    return normal(heading) in COMMON


def is_question(heading: str) -> bool:
    """Whether it ends as questions do."""
    return heading.rstrip(" *_\"'»”)").endswith(("?", "？", "؟", "՞", "፧"))


def is_vague(heading: str) -> bool:
    """Whether it is one word, or four characters of a script without spaces: rarely a query."""
    words = normal(heading).split()
    if len(words) != 1:
        return False
    return words[0] < "\u2e80" or len(words[0]) <= 4


def is_version(heading: str) -> bool:
    """Whether it is the number of a release, maybe with its date."""
    return bool(_VERSION.fullmatch(heading.strip()))


def keys(heading: str, text: str) -> tuple[int, int]:
    """What a heading is counted by, and a text under it: 63 bits of each.

    The beginning of a text stands for it, so that copies and versions of a document are one.
    """
    return key(heading), text_key(text[:BEGINNING])


def key(heading: str) -> int:
    """What a heading is known by."""
    return text_key(normal(heading))


def joined(path: Sequence[str]) -> str:
    """`("Requests", "API", "Session", "Hooks")` -> `Requests > Session > Hooks`."""
    inner = [one for one in path[1:] if has_word(one) and normal(one) not in CONTENTS]
    return MARK.join((path[0], *inner[1 - LONGEST_PATH :]))


def repeating(files: Iterable[Path], least: int) -> Keys:
    """The keys, sorted, of headings with at least so many different texts; least 0: none.

    The files (.npy) hold (N, 2) keys of headings and texts. As many passes over them as it takes
    to hold a part of the keys in memory.
    """
    arrays: list[Keys] = [np.load(path, mmap_mode="r") for path in files] if least else []
    passes = -(-sum(len(array) for array in arrays) // _BLOCK)
    found = [_repeating(arrays, least, number, passes) for number in range(passes)]
    return np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)


def _repeating(arrays: list[Keys], least: int, number: int, passes: int) -> Keys:
    mine = [
        block[block[:, 0] % passes == number]
        for array in arrays
        for block in np.array_split(array, len(array) // _BLOCK + 1)
    ]
    different = np.unique(np.concatenate(mine), axis=0)
    headings, counts = np.unique(different[:, 0], return_counts=True)
    return headings[counts >= least]


def contains(found: Keys, wanted: int) -> bool:
    """Whether a key is among sorted ones."""
    at = int(np.searchsorted(found, wanted))
    return at < len(found) and int(found[at]) == wanted
