"""Texts that a page carries beside its content: notices, error pages, menus, lines over and over.

The lists of phrases are ours and short, for the languages that most pages are in. They are what a
site says of itself ("we use cookies"), so that a text about cookies or errors is left alone. Knows
nothing of rows or files.
"""

import re
import zlib
from collections.abc import Sequence

Wrong = str | None

SHORT = 1000  # characters; a longer text has more than a notice in it
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
    """What texts are that are no content, in words."""
    return [_notice(text) or _menu(text) or _repeats(text) for text in texts]


def _notice(text: str) -> Wrong:
    if len(text) > SHORT:
        return None
    if found := _ERROR_PAGE.match(text):
        return f"an error page: {found[0].strip()!r}"
    if _COOKIE_WORD.search(text) and (found := _COOKIES.search(text)):
        return f"a notice about cookies: {found[0]!r}"
    return None


def _menu(text: str) -> Wrong:
    if len(text) > SHORT:
        return None
    parts = [part.strip(" \t*-–—:[]()") for part in _PARTS.split(text)]
    if len(parts) < MENU:
        return None
    parts = [part for part in parts if part]
    if sum(len(part) <= ENTRY for part in parts) < MENU_SHARE * len(parts):
        return None
    names = sum(part.casefold() in _NAMES for part in parts)
    return f"a menu of {len(parts)} entries" if names > MENU_NAMES * len(parts) else None


def _repeats(text: str) -> Wrong:
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) >= LINES and _again(lines):
        # the rules of tables and what else has no letter do not count
        lines = [line for line in lines if any(map(str.isalpha, line))]
        if len(lines) >= LINES and _again(lines):
            return "the same lines again and again"
    least, most = PACKED_BYTES
    raw = text[:most].encode("utf-8", "surrogatepass")[:most]
    if len(raw) >= least and len(zlib.compress(raw, 1)) < PACKED * len(raw):
        return "the same words again and again"
    return None


def _again(lines: list[str]) -> bool:
    return sum(map(len, set(lines))) < (1 - REPEATED) * sum(map(len, lines))
