"""Whether the residual search can read a value at all.

What is compressed, drawn or in a format of its own (PDF above all: its letters are numbers of glyphs in
deflated streams) says nothing to a search of bytes. Only a person can pass such a value on.
"""

from __future__ import annotations

import base64
import re

DOCUMENT = 0x00420011
RULE = "can't be searched: a person has to look at it"
"""What a warning about such a value says."""

_FORMATS = (
    *(
        b"%PDF",
        b"%!PS",
        b"{\\rtf",
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b"BZh",
        b"\xfd7zXZ\x00",
        b"7z\xbc\xaf",
        b"Rar!",
    ),
    *(
        b"\x28\xb5\x2f\xfd",
        b"\x89PNG",
        b"\xff\xd8\xff",
        b"GIF8",
        b"II*\x00",
        b"MM\x00*",
        b"BM",
        b"\x00\x00\x00\x0cjP",
    ),
    *(
        b"\xff\x4f\xff\x51",
        b"RIFF",
        b"OggS",
        b"\xd0\xcf\x11\xe0",
        b"\x1aE\xdf\xa3",
        b"SQLite format",
        b"DICM",
    ),
)
"""How files begin that are compressed, pictures, or pages."""
_SURE = 3
"""Bytes from which on a beginning is no chance."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")
_CONTROLS_OF_LATIN = re.compile(r"[\x80-\x9f]")
_LETTERS = rb"[A-Za-z0-9+/_-]"
_BASE64 = re.compile(
    _LETTERS + rb"{20,}(?:[ \t]*\r?\n[ \t]*" + _LETTERS + rb"{20,}){5,}|" + _LETTERS + rb"{160,}"
)


def is_searchable(tag: int, value: bytes) -> bool:
    """Whether a value that is kept can be searched for words.

    Args:
        tag: of an encapsulated document everything must be text; of other binary values it is enough that
            they don't begin like a file that hides its words.
        value: the bytes.
    """
    value = value.rstrip(b"\0 ")
    begin = value[:1024].lstrip(b"\0 \r\n\t\xef\xbb\xbf")
    if any(begin.startswith(each) for each in _FORMATS if len(each) >= _SURE or tag == DOCUMENT):
        return False
    if tag != DOCUMENT:
        return b"%PDF-" not in value[:1024] and value[128:132] != b"DICM"
    return _is_text(value) and not any(map(_hides, _BASE64.findall(value)))


def hides_file(value: bytes) -> bool:
    """Whether a text holds, as base64, what begins like a file that hides its words."""
    return any(not is_searchable(0, _decoded(run)[:4096]) for run in _BASE64.findall(value))


def _is_text(value: bytes) -> bool:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("latin-1")
        if _CONTROLS_OF_LATIN.search(text):
            return False
    return not _CONTROLS.search(text)


def _hides(run: bytes) -> bool:
    """Whether a long run of the letters of base64 stands for anything but text."""
    inside = _decoded(run)
    return not _is_text(inside) or not is_searchable(DOCUMENT, inside[:4096])


def _decoded(run: bytes) -> bytes:
    letters = re.sub(rb"[\s=]", b"", run).translate(bytes.maketrans(b"-_", b"+/"))
    return base64.b64decode(letters[: len(letters) // 4 * 4])
