"""Which language a text is in, by py3langid, whose model is in its wheel; what a tag says of rows.

Only a confident finding speaks against a tag; what the identifier does not know, and what it mixes
up, is left alone. Knows nothing of files or rows.
"""

import re
from functools import lru_cache
from typing import Any

from tercet.errors import MissingExtraError
from tercet.records import Scalar

GLANCE = 80  # characters; a text that begins as its row says is not looked at further
LOOK = 200  # that are identified first where nothing is said
LOOK_AGAIN = 1000  # before a text is called wrong
SURE = 0.9  # probability; of 17,000 texts of 130 languages 1 in 1,000 is wrong above it
DOUBT = 0.01  # the language said may still be it, above this
LETTERS = 20  # a shorter text is not judged: names and formulas
_NO_LANGUAGE = "zxx"  # the identifier's name for numbers, code and lists of names

# The other names of what the identifier knows: ISO 639-3, old and wide names.
_OTHER_NAMES = {
    other: name
    for name, others in (
        pair.split(":")
        for pair in """
        af:afr am:amh ar:ara,arb an:arg as:asm az:aze,azj ba:bak be:bel bg:bul bn:ben br:bre bs:bos
        ca:cat cs:ces,cze cy:cym,wel da:dan de:deu,ger dz:dzo el:ell,gre en:eng eo:epo
        et:est,ekk eu:eus,baq fa:fas,per,pes,prs fi:fin fo:fao fr:fra,fre fy:fry ga:gle gd:gla
        gl:glg gu:guj gug:gn,grn ha:hau he:heb,iw hi:hin hr:hrv ht:hat hu:hun hy:hye,arm id:ind,in
        ig:ibo is:isl,ice it:ita ja:jpn jv:jav,jw ka:kat,geo kik:ki kk:kaz km:khm kn:kan ko:kor
        ku:kur,kmr ky:kir la:lat lb:ltz lg:lug ln:lin lo:lao lt:lit lv:lav,lvs mg:mlg,plt mk:mkd,mac
        ml:mal mn:mon,khk mr:mar ms:msa,may,zsm mt:mlt my:mya,bur ne:nep,npi nl:nld,dut nn:nno
        no:nor,nb,nob oc:oci om:orm,gaz or:ori,ory pa:pan pl:pol ps:pus,pbt pt:por qu:que,quy,quz
        ro:ron,rum,mo ru:rus rw:kin sa:san se:sme si:sin sk:slk,slo sl:slv sn:sna so:som
        sq:sqi,alb,als sr:srp st:sot sv:swe sw:swa,swh ta:tam te:tel tg:tgk th:tha tk:tuk
        tl:tgl,fil tr:tur tt:tat ug:uig uk:ukr ur:urd uz:uzb,uzn vi:vie vo:vol wa:wln xh:xho yo:yor
        zh:zho,chi,cmn zu:zul fuv:ff,ful
        """.split()
    )
    for other in others.split(",")
}
# What the identifier, or the world, does not keep apart.
_KIN = [
    frozenset(names.split())
    for names in """
    no nn da|hr bs sr|id ms|st nso|zu xh|el grc|he hbo|ku sdh|zh yue wuu|ar ary arz|es an ext|pt gl
    it vec lij|fr gcf gcr|ht gcf gcr|en pcm|uz uzs|lv ltg|tt ba crh tk|tl bcl|oc ca|ug uz|az ba
    """.replace("\n", "|").split("|")
    if names.strip()
]
# Regions that are often written in small letters, as languages are.
_REGIONAL = frozenset(
    "pt-br pt-pt zh-cn zh-tw zh-hk en-us en-gb es-mx es-ar fr-ca fr-ch de-at de-ch nl-be".split()
)
_LANGUAGE = re.compile(r"[a-z]{2,3}|[A-Za-z]{3}|[0-9]{3}|[a-z]{3}[0-9]")
_MORE = re.compile(r"[A-Z][a-z]{3}|[A-Z]{2}|[0-9]{3}")  # script or region, written as BCP 47 has it
# The scripts of the languages that have others than those of a tag without one.
_SCRIPTS = {
    name: set(scripts.split(","))
    for name, scripts in (
        pair.split(":")
        for pair in """
        sr:Latn,Cyrl zh:Hans,Hant,Hani yue:Hant,Hans az:Latn bs:Latn uz:Latn ku:Latn kk:Cyrl
        mn:Cyrl tg:Cyrl tt:Cyrl ug:Arab ur:Arab pa:Guru ms:Latn ha:Latn
        """.split()
    )
}
_ANY_SCRIPT = {"Latn", "Cyrl", "Arab", "Deva", "Beng", "Ethi", "Jpan", "Kore"}


def languages_of(tag: str) -> list[tuple[str, str]]:
    """What a tag may say of the query and of the passages; two languages count in either order.

    >>> languages_of("zh-CN"), languages_of("de-en")
    ([('zh-CN', 'zh-CN')], [('de', 'en'), ('en', 'de')])

    A tag in small letters may be read in two ways:

    >>> languages_of("pt-br")
    [('pt', 'br'), ('br', 'pt'), ('pt-br', 'pt-br')]
    """
    subtags = tag.strip().replace("_", "-").split("-")
    out = []
    for at in range(1, len(subtags)):
        if _LANGUAGE.fullmatch(subtags[at]) and not _MORE.fullmatch(subtags[at]):
            left, right = "-".join(subtags[:at]), "-".join(subtags[at:])
            out += [(left, right), (right, left)]
    if not out or tag.lower().replace("_", "-") in _REGIONAL:
        out.append((tag, tag))
    return out


def names_of(tag: str) -> list[Scalar]:
    """A tag, and the short names that a filter may have for its language.

    >>> names_of("de-AT"), names_of("ger"), names_of("en")
    (['de-AT', 'de'], ['ger', 'de'], ['en'])
    """
    first = tag.replace("_", "-").partition("-")[0].lower()
    return list(dict.fromkeys((tag, _OTHER_NAMES.get(first, first))))


class Languages:
    """Identifies texts; one is made in a process and kept."""

    def __init__(self, sure: float = SURE) -> None:
        """Raises MissingExtraError where py3langid is not installed."""
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise MissingExtraError(
                "language identification needs py3langid: pip install 'tercet[filter]'"
            ) from error
        self._identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._known = frozenset(self._identifier.labels) - {_NO_LANGUAGE}
        self._sure = sure
        # a passage stands in many rows, most often one after the other
        self._classify = lru_cache(maxsize=4096)(self._identifier.classify)

    def name_of(self, tag: str) -> str | None:
        """The identifier's name for a tag's language, None where it does not know that."""
        first, *more = tag.replace("_", "-").split("-")
        name = _OTHER_NAMES.get(first.lower(), first.lower())
        scripts = [subtag for subtag in more if len(subtag) == 4]
        if name not in self._known or not _SCRIPTS.get(name, _ANY_SCRIPT).issuperset(scripts):
            return None
        return name

    def find(self, text: str) -> str | None:
        """The language of a text, None where that is not sure."""
        if not _enough(text):
            return None
        for length in (LOOK, LOOK_AGAIN) if len(text) > LOOK else (LOOK,):
            name, probability = self._classify(text[:length])
            if probability >= self._sure:
                return None if name == _NO_LANGUAGE else str(name)
        return None

    def against(self, text: str, tag: str) -> str | None:
        """The language that a text is in for sure, where that is not what the tag says."""
        expected = self.name_of(tag)
        if expected is None or not _enough(text):
            return None
        if are_kin(self._classify(text[:GLANCE])[0], expected):
            return None
        name, probability = self._classify(text[:LOOK_AGAIN])
        if probability < self._sure or name == _NO_LANGUAGE or are_kin(name, expected):
            return None
        doubt = dict(self._identifier.rank(text[:LOOK_AGAIN])).get(expected, 0.0) > DOUBT
        return None if doubt else str(name)

    def odds(self, text: str, tag: str, other: str) -> float:
        """How likely a text is in another language rather than the tag's; 0 where that is unknown.

        For short texts, of which `against` is rarely sure. Between 0 and 1.
        """
        names = self.name_of(tag), self.name_of(other)
        if names[0] is None or names[1] is None or are_kin(names[0], names[1]):
            return 0.0
        ranking = dict(self._identifier.rank(text[:LOOK]))
        expected, unexpected = (float(ranking.get(name, 0.0)) for name in names)
        return unexpected / (expected + unexpected) if expected + unexpected else 0.0


def _enough(text: str) -> bool:
    start = text[:LOOK]
    return sum(map(str.isalpha, start)) >= LETTERS or not start.isascii()


def are_kin(left: str, right: str) -> bool:
    """Whether the identifier, or the world, does not keep two languages apart."""
    return left == right or any(left in names and right in names for names in _KIN)
