"""Text as it is compared: decoded by its declared character sets, without case and marks.

Belongs here: character sets (PS3.3 C.12.1.1.2), transliterations, text hidden in other encodings. Stays out:
what is looked for (``terms``).
"""

from __future__ import annotations

import base64
import binascii
import html
import quopri
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from urllib.parse import unquote

IDEOGRAPHS = "\u2e80"
"""From here on, two letters make a word, and a letter has no case and no marks."""
_PLAIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "\u0131": "i"}
)
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4\u2032", "'"),
        **dict.fromkeys("\u00b7\u2022\u2024\u2027\u2219\u22c5", "."),
        **dict.fromkeys("\u2044\u2215", "/"),
        "\u03c2": "\u03c3",  # the small sigma at the end of a word
    }
)
"""What looks the same, or is the same, as a sign or letter that is compared."""
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa\uff66-\uff6f\uff71-\uff9f]")
_HIRAGANA = {
    **{katakana: katakana - 0x60 for katakana in range(0x30A1, 0x30F7)},
    **dict.fromkeys((0x20, 0x3099, 0x309A, 0x309B, 0x309C)),
}
"""Japanese syllables are written in either way, in two widths, and their marks may stand apart."""
_BLANKS = re.compile("  +")
_SPELLED = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_LITTLE = re.compile(r"(?:[\x20-\x7e\xa0-\xff]\0){4,}")
_BIG = re.compile(r"(?:\0[\x20-\x7e\xa0-\xff]){4,}")

_ESCAPE = re.compile(r"\x1b[ -/]+[0-~]")
_UNDECLARED = frozenset(("iso8859", "latin_1"))
"""What stands in files of programs that know nothing of character sets, as Python calls it."""
_OF_ESCAPES = ("iso2022_jp_2", "iso2022_kr")
"""What the escapes of ISO 2022 say where no character set is declared for them (PS3.3 table C.12-4)."""
_ESCAPE_BYTES = re.compile(rb"\x1b[ -/]+[0-~]")
_ENTITY = re.compile(r"&#?[0-9a-z]{2,8};")
_UNICODE = re.compile(r"\\u[0-9a-f]{4}")
_PERCENT = re.compile(r"%[0-9a-f]{2}")
_QUOTED = re.compile(r"=(?:[0-9a-f]{2}|\r?\n)")
_REACH = 200
"""How far a word may go on beside a letter that is written in another way."""
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-]{6,}(?:\r?\n[A-Za-z0-9+/_\-]+)*={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_HEX = re.compile(rb"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[ :]?){5,}")
_PRINTED = re.compile(rb"[\t\r\n -~\xa0-\xff]{6,}")
_CONTROLS = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CONTROLS_OF_LATIN = re.compile(rb"[\x80-\x9f]")


@lru_cache(maxsize=64)
def _encodings(charset: bytes) -> tuple[str, ...]:
    from pydicom.charset import convert_encodings  # slow to import, and only for what is not ASCII

    names = [part.decode("ascii", "replace").strip(" \0") for part in charset.split(b"\\")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tuple(convert_encodings(names))
        except (LookupError, ValueError):
            return ("latin_1",)


def decode(value: bytes, charset: bytes, vr: str = "LO") -> str:
    """A value as text; what its character sets can't say becomes a replacement sign.

    Args:
        value: raw bytes.
        charset: Specific Character Set (0008,0005) that is in force, as it stands in the file.
        vr: PN has delimiters of its own.
    """
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    from pydicom.charset import decode_bytes
    from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            text = decode_bytes(value, _encodings(charset), PN_DELIMS if vr == "PN" else TEXT_VR_DELIMS)
            return _ESCAPE.sub("", text)  # pydicom leaves those of ISO 2022 IR 58
        except (LookupError, ValueError):
            return value.decode("latin-1")


def other_readings(value: bytes, charset: bytes) -> set[str]:
    """A name as programs mean it that declare nothing, or write an escape once and not after each delimiter.

    Only readings without a letter of a wrong script can be told from chance: all are of ideographs, kana or
    hangul, and of delimiters.
    """
    bare = _ESCAPE_BYTES.sub(b"", value)
    if bare.isascii():
        return _ideographic(_strict(value, codec) for codec in _OF_ESCAPES) if b"\x1b$" in value else set()
    declared = _encodings(charset)
    readings = [_strict(bare, codec) for codec in declared]
    if _UNDECLARED.issuperset(declared) or not any(readings):
        readings += [_strict(bare, codec) for codec in ("utf-8", "gb18030", "euc_kr", "shift_jis")]
    return _ideographic(readings)


def _ideographic(readings: Iterable[str]) -> set[str]:
    return {part for text in readings for part in text.split("=") if part >= IDEOGRAPHS}


def undeclared_reading(value: bytes, charset: bytes) -> str:
    """A name as programs mean it that write UTF-8 or Latin-1 whatever they declare; "" where it says no more.

    Bytes of UTF-8 come about by chance in no other encoding of names of Latin, Greek or Cyrillic letters.
    """
    if value.isascii() or b"\x1b" in value:
        return ""
    declared = _encodings(charset)
    if (text := _strict(value, "utf-8")) and "utf8" not in declared:
        return text
    unreadable = not any(_strict(value, codec) for codec in declared)
    return value.decode("latin-1") if unreadable or declared == ("iso8859",) else ""


def in_encodings(text: str, codecs: Iterable[str]) -> Iterator[bytes]:
    """A text in each of these encodings that can say it."""
    for codec in codecs:
        with suppress(ValueError):
            yield text.encode(codec)


def _strict(value: bytes, codec: str) -> str:
    try:
        return value.decode(codec)
    except (LookupError, ValueError):
        return ""


def encode(text: str, charset: bytes) -> bytes | None:
    """The bytes of a text in its character sets; ``None``: they can't say it."""
    if text.isascii():
        return text.encode()
    from pydicom.charset import encode_string

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = encode_string(text, _encodings(charset))
        except (LookupError, ValueError):
            return None
    return made if decode(made, charset) == text else None


def fold(text: str) -> str:
    """Lower case, without marks, in plain letters and digits where a script has them, with single blanks."""
    folded = text.lower() if text.isascii() else "".join(map(_folded, text))
    return _BLANKS.sub(" ", folded) if "  " in folded else folded


def fold_with_places(text: str) -> tuple[str, list[int]]:
    """The folded text, and for each of its letters the place in ``text`` (one more for the end)."""
    if text.isascii() and "  " not in text:
        return text.lower(), list(range(len(text) + 1))
    made: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        for letter in _folded(char):
            if letter != " " or made[-1:] != [" "]:
                made.append(letter)
                places.append(place)
    return "".join(made), [*places, len(text)]


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    if char > "\x7f" and char.isdecimal():
        return str(unicodedata.decimal(char))
    char = char.translate(_SIGNS)
    if _KANA.match(char):
        return unicodedata.normalize("NFKD", char).translate(_HIRAGANA)
    if char >= IDEOGRAPHS:
        return "" if char == "\ufeff" else unicodedata.normalize("NFKC", char).lower()
    if char == "\xad" or "\u200b" <= char <= "\u200f" or "\u202a" <= char <= "\u202e" or char == "\u2060":
        return ""  # nobody sees it, and no word ends there
    apart = unicodedata.normalize("NFKD", char.lower().translate(_PLAIN))
    return "".join(c for c in apart if not unicodedata.combining(c)).translate(_SIGNS)


def spellings(text: str) -> set[str]:
    """The folded text, and as it is spelled where letters with marks are missing (``ae`` for ``ä``)."""
    if text.isascii():
        return {text.lower()}
    return {fold(text), fold(unicodedata.normalize("NFC", text).lower().translate(_SPELLED))}


def misread(text: str) -> Iterator[str]:
    """The folded text as it looks where its UTF-8 was taken for Latin-1 or Windows-1252."""
    for codec in ("latin-1", "cp1252"):
        with suppress(ValueError):
            yield fold(text.encode("utf-8").decode(codec))


def printed(value: bytes) -> str:
    """What can be read as text in a value that is none, folded."""
    return fold("\n\n".join(run.decode("latin-1") for run in _PRINTED.findall(value)))


def raw_view(value: bytes) -> str:
    """Bytes as they stand, each a letter, in lower case."""
    return value.decode("latin-1").lower()


def _escaped(text: str) -> str:
    """Text with the escapes of JSON made letters."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)


def _words_around(pattern: re.Pattern[str], raw: str, also: str = "") -> list[str]:
    """Words with something that the pattern finds in them; linear in time whatever the text is."""
    found: list[str] = []
    done = 0
    for match in pattern.finditer(raw):
        if match.start() < done:
            continue
        start, end = match.span()
        while start > max(done, match.start() - _REACH) and _is_of_word(raw[start - 1], also):
            start -= 1
        while end < min(len(raw), match.end() + _REACH) and _is_of_word(raw[end], also):
            end += 1
        found.append(raw[start:end])
        done = end
    return found


def _is_of_word(char: str, also: str) -> bool:
    return "!" <= char <= "~" or char in also


def hidden_text(raw: str) -> str:
    """Text of UTF-16 and of escapes (percent, quoted-printable, HTML, JSON); "" without any.

    Args:
        raw: bytes as :func:`raw_view` shows them.
    """
    found = []
    if "\0" in raw:
        found = [run[::2] for run in _LITTLE.findall(raw)] + [run[1::2] for run in _BIG.findall(raw)]
    if "&" in raw:
        found += [html.unescape(part) for part in _words_around(_ENTITY, raw)]
    if "\\u" in raw:
        found += [_escaped(part) for part in _words_around(_UNICODE, raw)]
    if "%" in raw:
        found += [unquote(part, errors="replace") for part in _words_around(_PERCENT, raw)]
    if "=" in raw:
        quoted = (part.encode("latin-1", "replace") for part in _words_around(_QUOTED, raw, "\r\n"))
        found += [_as_text(quopri.decodestring(part)) for part in quoted]
    return fold("\n".join(found))


def other_text(data: bytes, raw: str) -> str:
    """Text that is written in another way than letter by letter; "" without any.

    Args:
        data: bytes as they stand.
        raw: the same as :func:`raw_view` shows them.
    """
    found = "\n".join(filter(None, (hidden_text(raw), encoded_text(data))))
    return f"{found}\n{hidden_text(found)}" if found else ""  # some programs escape twice


def encoded_text(data: bytes) -> str:
    """Text of base64 and hexadecimal digits in bytes as they stand; "" without any.

    Whatever looks like it is decoded; what comes out as anything but text is dropped.
    """
    found: list[bytes] = []
    for run in _BASE64.findall(data):
        letters = re.sub(rb"[\r\n=]", b"", run).translate(_URL_SAFE)
        for start in range(min(4, len(letters) - 5)):  # it may begin inside of a longer word
            part = letters[start:]
            found.append(base64.b64decode(part[: len(part) // 4 * 4] + _rest(part)))
    for run in _HEX.findall(data):
        digits = re.sub(rb"[ :]", b"", run)
        found.append(binascii.unhexlify(digits))
    return fold("\n".join(filter(None, map(_as_text, found))))


def _as_text(data: bytes) -> str:
    """Bytes as text, if all of them are: words that only look like base64 come out as anything else."""
    if b"\0" in data:
        data = data.replace(b"\0", b"")  # two bytes a letter
    if _CONTROLS.search(data):
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "" if _CONTROLS_OF_LATIN.search(data) else data.decode("latin-1")


def _rest(letters: bytes) -> bytes:
    """The last letters of base64, padded; one alone says nothing."""
    left = letters[len(letters) // 4 * 4 :]
    return left.ljust(4, b"=") if len(left) > 1 else b""
