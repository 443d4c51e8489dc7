"""What a text shows by itself: its characters, damage, letters, and boilerplate.

Each check takes N texts and gives for each what is wrong with it in words, or None. Characters are
looked at in arrays of code points, of many texts at once. Knows nothing of rows or files.
"""

import re
import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Wrong = str | None
Codes = npt.NDArray[np.uint32]
Positions = npt.NDArray[np.int64]

# Characters

LETTER = 1  # letters and the marks on them: Unicode categories L and M
DIGIT = 2  # N
SPACE = 4
BROKEN = 8  # control characters, U+FFFD, halves of surrogate pairs, noncharacters
DENSE = 16  # of a script that sets no spaces between words
HIDDEN = 32  # apostrophes and what is not seen: inside words, and often left out
SYMBOL = 64  # of mathematics, money and names, as in C++ and C#: they say something
DENSE_LETTERS = 3  # letters that a dense character stands for, about

# Thai to Myanmar, Khmer, Tai and Javanese scripts, then CJK with kana; hangul has spaces
_DENSE_RANGES = (
    (0x0E00, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19FF),
    (0x1A20, 0x1AAF),
    (0x2E80, 0x312F),
    (0x31A0, 0x9FFF),
    (0xA980, 0xAADF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)


@lru_cache(maxsize=1)
def character_classes() -> npt.NDArray[np.uint8]:
    """(0x110000,) the bits above of each code point."""
    table = np.zeros(0x110000, dtype=np.uint8)
    by_group = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE}
    for code in range(len(table)):
        character = chr(code)
        group = unicodedata.category(character)
        if group in ("Cc", "Cs"):
            table[code] = SPACE if character.isspace() else BROKEN
        elif group in ("Sm", "Sc", "So") or character in "#%&@":
            table[code] = SYMBOL
        else:
            table[code] = by_group.get(group[0], 0)
    for character in "'\u2019\u02bc\u0307\u00ad\u200b\u200c\u200d\ufeff":
        table[ord(character)] = HIDDEN
    table[0xFFFD] = BROKEN
    table[0xFDD0:0xFDF0] = BROKEN
    table[0xFFFE::0x10000] = table[0xFFFF::0x10000] = BROKEN
    for first, last in _DENSE_RANGES:
        known = table[first : last + 1]
        known[(known & (LETTER | DIGIT)) > 0] |= DENSE
    return table


def code_points(text: str) -> Codes:
    """(C,) the characters of a text as numbers."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def as_text(codes: Codes) -> str:
    """The text of an array of code points."""
    return codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def count_characters(texts: Sequence[str], *kinds: int) -> list[Positions]:
    """Of each kind (N,) how many characters of each text are of it."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    ends = np.cumsum(lengths)
    classes = character_classes()[code_points("".join(texts))]
    totals = [np.append(0, np.cumsum((classes & kind) > 0, dtype=np.int64)) for kind in kinds]
    return [total[ends] - total[ends - lengths] for total in totals]


@dataclass(frozen=True)
class Normalized:
    """Texts without case and punctuation, words parted by one space, all in one array.

    Apostrophes and what is not seen part no words. Between characters of scripts without spaces
    there is none. Text n is codes[starts[n]:ends[n]]; a 0 stands before and behind each.
    """

    codes: Codes  # (C,)
    starts: Positions  # (N,)
    ends: Positions  # (N,)

    @staticmethod
    def of(texts: Sequence[str], *, symbols: bool = False) -> "Normalized":
        """Normalizes N texts; with symbols, these stay."""
        solid = LETTER | DIGIT | (SYMBOL if symbols else 0)
        joined = "\0" + "".join(text.replace("\0", " ") + "\0" for text in texts)
        if not joined.isascii():
            joined = unicodedata.normalize("NFKC", joined)
        # Turkish and Azerbaijani have two letters i, whose capitals are mixed up everywhere
        codes = code_points(joined.casefold().replace("ı", "i"))
        codes = codes[(character_classes()[codes] & HIDDEN) == 0]
        classes = character_classes()[codes]
        kept = np.flatnonzero(((classes & solid) > 0) | (codes == 0))
        codes, classes = codes[kept], classes[kept]
        # a space stands where something was left out between two words, unless both are dense
        word, dense = (classes & solid) > 0, (classes & DENSE) > 0
        gap = np.zeros(len(codes), dtype=np.bool_)  # before this character
        gap[1:] = (np.diff(kept) > 1) & word[1:] & word[:-1] & ~(dense[1:] & dense[:-1])
        out = np.full(len(codes) + int(gap.sum()), ord(" "), dtype=np.uint32)
        out[np.arange(len(codes)) + np.cumsum(gap)] = codes
        bounds = np.flatnonzero(out == 0)
        return Normalized(out, bounds[:-1] + 1, bounds[1:])

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, number: int) -> Codes:
        return self.codes[self.starts[number] : self.ends[number]]


def normalize(text: str, *, symbols: bool = False) -> str:
    """One text as in `Normalized`."""
    return as_text(Normalized.of([text], symbols=symbols).text(0))


def count_letters(codes: Codes) -> int:
    """The length of a normalized text; a dense character counts for as much as it says."""
    dense = int(((character_classes()[codes] & DENSE) > 0).sum())
    return len(codes) + (DENSE_LETTERS - 1) * dense


# Damage and letters

BROKEN_SHARE = 1  # damaged characters in a thousand; a text about encodings may show one
TWICE = 3  # places that read as UTF-8 decoded twice; fewer happen by chance in Czech and Turkish


def check_encoding(texts: Sequence[str]) -> list[Wrong]:
    """Control characters, characters that stand for lost ones, and UTF-8 that was read as Latin."""
    (broken,) = count_characters(texts, BROKEN)
    return [
        f"control characters or U+FFFD ({count})"
        if count * 1000 > BROKEN_SHARE * len(text)
        else _mojibake(text)
        for text, count in zip(texts, broken.tolist(), strict=True)
    ]


def check_letters(texts: Sequence[str], least: float) -> list[Wrong]:
    """Less than this part of the characters, white space left out, are letters."""
    letters, spaces = count_characters(texts, LETTER, SPACE)
    shares = letters / np.maximum([len(text) for text in texts] - spaces, 1)
    return [f"{share:.0%} letters" if share < least else None for share in shares.tolist()]


def _latin_bytes() -> dict[str, int]:
    """The byte that each character above ASCII was, had it been read as Windows-1252 or Latin-1."""
    table = {chr(byte): byte for byte in range(0x80, 0x100)}
    for byte in range(0x80, 0xA0):  # five of these have no character in Windows-1252
        if character := bytes([byte]).decode("cp1252", "ignore"):
            table[character] = byte
    return table


_BYTES = _latin_bytes()
_REST = "[" + re.escape("".join(c for c, byte in _BYTES.items() if 0x80 <= byte < 0xC0)) + "]"
_TWICE = re.compile(
    f"[\u00c2-\u00df]{_REST}|[\u00e0-\u00ef]{_REST}{{2}}|[\u00f0-\u00f4]{_REST}{{3}}"
)
# What no language writes: a quotation mark or dash, or a Latin letter, decoded twice.
_CERTAIN = re.compile(
    "\u00e2\u20ac[\u0153\u0161\u02dc\u2122\u201c\u201d\u00a2\u00a6\u009d]"
    "|\u00c3[\u00a1-\u00aa\u00ac-\u00ba\u00bc-\u00bf]"
)


def _mojibake(text: str) -> Wrong:
    if text.isascii():
        return None
    if certain := _CERTAIN.search(text):
        return f"UTF-8 read as Latin: {certain[0]!r}"
    matches = [match[0] for match in _TWICE.finditer(text) if _is_utf8(match[0])]
    many = len(matches) >= TWICE and len(matches) * 1000 > BROKEN_SHARE * len(text)
    return f"UTF-8 read as Latin: {matches[0]!r}" if many else None


def _is_utf8(characters: str) -> bool:
    try:
        bytes(_BYTES[character] for character in characters).decode()
    except UnicodeDecodeError:
        return False
    return True


# Boilerplate: what a page carries beside its content. The phrases are what a site says of itself
# ("we use cookies"), so that a text about cookies or errors is left alone; they are ours, and in
# the languages that most pages are in.

NOTICE = 1000  # characters; a longer text has more than a notice in it
MENU = 4  # entries at least
MENU_SHARE = 0.8  # of the entries are short
MENU_NAMES = 0.3  # of the entries are names that menus have
ENTRY = 30  # characters of a short entry at most
LINES = 4
REPEATED = 0.5  # of the characters are in lines that came before
PACKED = 0.1  # of the bytes are left by zlib; prose keeps 0.35 or more, a refrain song 0.13
PACKED_BYTES = 300, 2000  # the least that is judged, and how much is looked at


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{phrase})" for phrase in phrases), re.IGNORECASE)


_COOKIE_WORD = _any("cookie", "クッキー", "куки", "çerez", "쿠키", "eväste")
_COOKIES = _any(
    r"\bwe (?:also |may )?use (?:[\w-]+,? ){0,4}cookies\b",
    r"\bwe and our (?:\w+ )?partners (?:use|store)\b",
    r"\b(?:this|our) (?:web ?)?(?:site|page|store|shop) uses (?:[\w-]+,? ){0,4}cookies\b",
    r"\b(?:accept|reject|allow|decline) (?:all|optional|necessary) cookies\b",
    r"\b(?:manage|change|your) (?:my |your )?cookie (?:settings|preferences)\b",
    r"\b(?:agree|consent) to (?:the|our) use of cookies\b",
    r"\bwir (?:verwenden|nutzen|setzen) (?:[\w-]+ ){0,6}cookies\b",
    r"\bdiese (?:web)?seite (?:verwendet|nutzt) (?:[\w-]+ ){0,2}cookies\b",
    r"\balle cookies (?:akzeptieren|ablehnen)\b",
    r"\bnous utilisons des cookies\b",
    r"\bce site utilise des cookies\b",
    r"\baccepter (?:tous )?les cookies\b",
    r"\b(?:utilizamos|usamos) (?:[ao]s |l[ao]s )?cookies\b",
    r"\best[ea] (?:sitio|site|página|web)(?: web)? (?:utiliza|usa) cookies\b",
    r"\bace(?:ptar (?:todas )?las|itar (?:todos )?os) cookies\b",
    r"\b(?:utilizziamo|usiamo|accetta) (?:tutti )?(?:i )?cookie\b",
    r"\bquesto sito (?:web )?(?:utilizza|usa) (?:i )?cookie\b",
    r"\b(?:wij?|deze (?:web)?site) (?:maakt gebruik van|gebruik(?:en|t)) (?:[\w-]+ )?cookies\b",
    r"\b(?:ta|nasza) strona (?:używa|wykorzystuje|korzysta z) (?:plik\w+ )?cookies?\b",
    r"\bużywamy (?:plik\w+ )?cookies?\b",
    r"\bvi (?:bruker|använder|anvender) cookies\b",
    r"\bkäytämme evästeitä\b",
    r"(?:мы используем|(?:этот|наш) сайт использует) (?:файлы )?(?:cookie|куки)",
    r"\bçerez(?:ler|leri)? kullan(?:ıyoruz|maktayız)",
    r"(?:当|本|この)サイトで?は.{0,20}(?:クッキー|cookie)",
    r"(?:我们|我們|本网站|本網站|本站)(?:会|會)?使用.{0,6}cookie",
    r"(?:당사|저희|이 사이트|본 사이트|웹사이트)[는은].{0,20}쿠키를 사용",
)
_ERROR = _any(  # what the page says first
    r"404\b\W{0,5}(?:not found|error|page|file|$)",
    r"403\W{0,3}forbidden",
    r"50[0234]\W{0,3}(?:bad gateway|service unavail|internal server|gateway time)",
    r"(?:the |this )?(?:requested )?(?:page|url) (?:was |is |could |can)?not (?:be )?"
    r"(?:found|available)",
    r"(?:the )?page (?:that )?you(?:'re| are| were|) (?:looking for|requested) ",
    r"we (?:can't|couldn't|could not|cannot) find (?:the|that) page",
    r"access denied\b(?:\W|$)",
    r"(?:please )?(?:enable|turn on) (?:javascript|cookies) (?:to|in|and)",
    r"javascript (?:is (?:disabled|required)|must be enabled)",
    r"checking your browser before",
    r"(?:please )?verify (?:that )?you are (?:a )?human",
    r"lorem ipsum dolor",
    r"(?:die )?seite (?:wurde |konnte )?nicht gefunden",
    r"page (?:introuvable|non trouvée)",
    r"página n(?:o|ão) (?:encontrada|existe)",
    r"pagina (?:non trovata|niet gevonden)",
    r"strona nie (?:została )?znalezion",
    r"(?:страница не найдена|сторінку не знайдено)",
    r"sayfa bulunamadı",
    r"(?:お探しの)?ページ(?:が|は)見つかりません",
    r"(?:页面|頁面|网页|網頁)(?:不存在|未找到|没有找到|找不到)",
    r"(?:抱歉\W*)?(?:找不到|無法找到)[您该該此请求的]*(?:页面|頁面|网页|網頁)",
    r"페이지를 찾을 수 없습니다",
    r"الصفحة غير موجودة",
)
_ERROR_PAGE = re.compile(
    r"\W*(?:(?:oops|sorry|whoops|error|http|fehler|erreur|erro)\W+){0,2}" + f"(?:{_ERROR.pattern})",
    re.IGNORECASE,
)
_PARTS = re.compile(r"[\n|»›·•→]+|\s[/>-]\s")
_NAMES = frozenset(
    name.strip()
    for name in """
    home|about|about us|contact|contact us|login|log in|sign in|sign up|register|search|menu
    sitemap|site map|faq|help|news|blog|products|services|privacy|privacy policy|terms
    terms of use|terms of service|imprint|next|previous|back|share|tweet|subscribe|newsletter
    my account|cart|checkout|shop|careers|jobs|press|support|downloads|skip to content
    skip to main content|read more|back to top
    startseite|über uns|kontakt|impressum|datenschutz|anmelden|registrieren|suche|agb|warenkorb
    mein konto|weiter|zurück|accueil|à propos|connexion|recherche|mentions légales|plan du site
    panier|inicio|nosotros|quiénes somos|contacto|buscar|iniciar sesión|aviso legal|carrito
    início|quem somos|contato|entrar|home page|chi siamo|contatti|cerca|accedi|over ons|zoeken
    inloggen|strona główna|o nas|szukaj|zaloguj|hakkımızda|iletişim|ana sayfa|giriş|hem|om oss
    hjem|om os|etusivu|yhteystiedot|kirjaudu|domů|kontakty|hledat|kezdőlap|kapcsolat|acasă
    главная|о нас|о компании|контакты|поиск|войти|новости|головна|про нас|пошук|увійти
    ホーム|トップ|お問い合わせ|会社概要|ログイン|サイトマップ|検索|首页|首頁|关于我们|關於我們
    联系我们|聯絡我們|登录|登錄|注册|註冊|搜索|搜尋|홈|회사소개|문의|로그인|회원가입|검색
    الرئيسية|من نحن|اتصل بنا|تسجيل الدخول|דף הבית|צור קשר|หน้าแรก|ติดต่อเรา|เข้าสู่ระบบ
    trang chủ|liên hệ|giới thiệu|beranda|tentang kami|kontak|masuk
    """.replace("\n", "|").split("|")
    if name.strip()
)


def check_boilerplate(texts: Sequence[str]) -> list[Wrong]:
    """Error pages, notices about cookies, menus, the same lines or words again and again."""
    return [_notice(text) or _menu(text) or _repeats(text) for text in texts]


def _notice(text: str) -> Wrong:
    if len(text) > NOTICE:
        return None
    if match := _ERROR_PAGE.match(text):
        return f"an error page: {match[0].strip()!r}"
    if _COOKIE_WORD.search(text) and (match := _COOKIES.search(text)):
        return f"a notice about cookies: {match[0]!r}"
    return None


def _menu(text: str) -> Wrong:
    if len(text) > NOTICE:
        return None
    entries = [entry.strip(" \t*-–—:[]()") for entry in _PARTS.split(text)]
    if len(entries) < MENU:
        return None
    entries = list(filter(None, entries))
    short = sum(len(entry) <= ENTRY for entry in entries)
    names = sum(entry.casefold() in _NAMES for entry in entries)
    if short < MENU_SHARE * len(entries) or names <= MENU_NAMES * len(entries):
        return None
    return f"a menu of {len(entries)} entries"


def _repeats(text: str) -> Wrong:
    lines = [line for line in text.split("\n") if line.strip()]
    worded = [line for line in lines if any(map(str.isalpha, line))]  # no rules of tables
    if _mostly_repeated(lines) and _mostly_repeated(worded):
        return "the same lines again and again"
    least, most = PACKED_BYTES
    raw = text[:most].encode("utf-8", "surrogatepass")[:most]
    if len(raw) >= least and len(zlib.compress(raw, 1)) < PACKED * len(raw):
        return "the same words again and again"
    return None


def _mostly_repeated(lines: list[str]) -> bool:
    distinct = sum(map(len, set(lines)))
    return len(lines) >= LINES and distinct < (1 - REPEATED) * sum(map(len, lines))
