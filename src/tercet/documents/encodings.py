"""Which encoding bytes are in: by label, by byte order mark, by NULs, by a library.

Knows nothing of files.
"""

import codecs
import re
import unicodedata
from contextlib import suppress

# https://encoding.spec.whatwg.org/#names-and-labels: Python's codec, then the labels of the web. A
# label of a smaller set stands for the larger one that pages under it are really in.
_LABELS = """
utf-8: unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8
cp866: 866 cp866 csibm866 ibm866
iso8859-2: csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2
iso8859-3: csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3
iso8859-4: csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4
iso8859-5: csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5
iso8859-5: iso_8859-5:1988
iso8859-6: arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6
iso8859-6: iso-8859-6-e iso-8859-6-i iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987
iso8859-7: csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597
iso8859-7: iso_8859-7 iso_8859-7:1987 sun_eu_greek
iso8859-8: csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598
iso8859-8: iso_8859-8 iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical
iso8859-10: csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6
iso8859-13: iso-8859-13 iso8859-13 iso885913
iso8859-14: iso-8859-14 iso8859-14 iso885914
iso8859-15: csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9
iso8859-16: iso-8859-16
koi8-r: cskoi8r koi koi8 koi8-r koi8_r
koi8-u: koi8-ru koi8-u
mac-roman: csmacintosh mac macintosh x-mac-roman
cp874: dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874
cp1250: cp1250 windows-1250 x-cp1250
cp1251: cp1251 windows-1251 x-cp1251
cp1252: ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1
cp1252: iso88591 iso_8859-1 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252 x-user-defined
cp1253: cp1253 windows-1253 x-cp1253
cp1254: cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5
cp1254: latin5 windows-1254 x-cp1254
cp1255: cp1255 windows-1255 x-cp1255
cp1256: cp1256 windows-1256 x-cp1256
cp1257: cp1257 windows-1257 x-cp1257
cp1258: cp1258 windows-1258 x-cp1258
mac-cyrillic: x-mac-cyrillic x-mac-ukrainian
gb18030: chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030
big5hkscs: big5 big5-hkscs cn-big5 csbig5 x-x-big5
euc_jp: cseucpkdfmtjapanese euc-jp x-euc-jp
iso2022_jp: csiso2022jp iso-2022-jp
cp932: csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis
cp949: cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601
cp949: ksc_5601 windows-949
iso2022_kr: csiso2022kr iso-2022-kr
hz: hz-gb-2312
utf-16-be: unicodefffe utf-16be
utf-16-le: csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le
"""
_CODECS = {
    label: codec
    for codec, _, labels in (line.partition(": ") for line in _LABELS.strip().splitlines())
    for label in labels.split()
}
# Python's encodings that are no text of files.
_OTHER = frozenset("idna punycode undefined unicode_escape raw_unicode_escape utf_7".split())
_DETECTED = """
cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp874 koi8_r koi8_u cp866 iso8859_2
gb18030 big5 euc_jp cp932 cp949
""".split()
_SAMPLE = 1 << 16  # bytes that are looked at
_SURE = 0.1  # coherence: how much the letters are spread as in a language


def encoding_of(name: str, *, web: bool = False) -> str | None:
    """Python's name of a text encoding, None where there is none; web: only the labels of pages."""
    label = name.strip().lower()
    if label in _CODECS or web:
        return _CODECS.get(label)
    try:
        bytes(4).decode(label)  # raises for codecs that give no text
        codec = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    return None if codec.replace("-", "_") in _OTHER else codec


_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"<meta[\s/]([^>]*)", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"""([^\s"'>/=]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_CONTENT = re.compile(rb"""charset\s*=\s*["']?([^\s"';]+)""", re.IGNORECASE)
_XML = re.compile(rb"""<\?xml[^>]*?\sencoding\s*=\s*["']([^"']*)["']""")


def html_encoding(raw: bytes) -> str | None:
    """The encoding that a page names in its beginning, as browsers take it."""
    head = _COMMENT.sub(b"", raw[:4096])
    label = None
    for match in _META.finditer(head):
        found = {name.lower(): b"".join(values) for name, *values in _ATTRIBUTE.findall(match[1])}
        label = found.get(b"charset")
        if label is None and found.get(b"http-equiv", b"").lower() == b"content-type":
            inner = _CONTENT.search(found.get(b"content", b""))
            label = inner and inner[1]
        if label is not None:
            break
    else:
        declared = _XML.match(head)
        label = declared and declared[1]
    codec = encoding_of(label.decode("latin-1"), web=True) if label else None
    return "utf-8" if codec and codec.startswith("utf-16") else codec  # it was read as ASCII


def unmarked(raw: bytes) -> str | None:
    """UTF-8, 16 or 32 as a byte order mark or the NULs of the text say; None without them."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if raw.startswith(mark):
            return encoding
    if re.match(rb"[^\x80-\xff\0]*?\x1b\$[@B]", raw[:_SAMPLE]):
        return "iso2022_jp"  # which is ASCII without its marks
    sample = raw[: _SAMPLE // 4]
    if b"\0" not in sample:
        return None
    with suppress(UnicodeDecodeError):  # UTF-8 with a NUL or two: of UTF-16 half the bytes are odd
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        if 3 * sum(byte < 32 for byte in sample) <= len(sample):
            return None
    scores = {}
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        unit = int(encoding[4:6]) // 8
        try:
            text = sample[: len(sample) // unit * unit].decode(encoding)
        except UnicodeDecodeError as error:
            if error.start < len(sample) - 2 * unit:  # but a pair that the sample cuts
                continue
            text = sample[: error.start].decode(encoding)
        odd = sum(unicodedata.category(char) in ("Cc", "Cn", "Co") for char in text)
        odd -= sum(map(text.count, "\t\n\r\f"))
        if text and odd <= len(text) // 50 and "\0" not in text:
            scores[encoding] = sum(char < "\x7f" or char in "、。，,،" for char in text)
    return max(scores, key=scores.__getitem__, default=None)


def detect(raw: bytes, start: int = 0) -> str | None:
    """The encoding that charset-normalizer is sure of, for bytes that are not UTF-8 at `start`.

    None where it is not installed or not sure, and for UTF-8 in which only some bytes are wrong.
    """
    sample = raw[max(0, start - _SAMPLE // 2) :][:_SAMPLE]
    wrong = sample.decode("utf-8", "replace").count("\ufffd")
    if len(re.findall(rb"[\xc2-\xf4][\x80-\xbf]+", sample)) > wrong:
        return None
    try:
        from charset_normalizer import from_bytes
    except ModuleNotFoundError:
        return None
    matches = [match for match in from_bytes(sample, cp_isolation=_DETECTED) if match.chaos < 0.1]
    best = max(matches, key=lambda match: match.coherence, default=None)
    if best is None or (best.coherence < _SURE and len(matches) > 1):
        return None
    if best.language == "Turkish" and any(match.encoding == "cp1254" for match in matches):
        return "cp1254"  # else its letters become those of Iceland
    names = (best.encoding, *best.could_be_from_charset)
    return "cp1252" if "cp1252" in names else str(best.encoding)  # the same text


def _as_browsers(error: UnicodeError) -> tuple[str, int]:
    """Bytes that code pages of Windows leave out are control characters."""
    if isinstance(error, UnicodeDecodeError) and error.encoding in ("charmap", "cp874"):
        byte = error.object[error.start]
        if 0x80 <= byte < 0xA0:
            return chr(byte), error.start + 1
    raise error


codecs.register_error("tercet", _as_browsers)
