"""Siemens CSA headers, rewritten element by element from a list: physics stays, everything else goes.

Belongs here: reading SV10 and the older layout, writing SV10, the entries of a Phoenix protocol. Stays out:
whether a project keeps them (``profile``). Sources: layout as nibabel documents it
(``nicom/siemens_csa``); names as in ``data/siemens_csa.txt``.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import accumulate

from fiona_dagster.deid.descriptors import cleaned
from fiona_dagster.deid.elements import Element
from fiona_dagster.deid.folding import fold, fold_with_places
from fiona_dagster.deid.plan import Context, Work
from fiona_dagster.deid.terms import Terms

HEADERS = {
    (0x00290010, "SIEMENS CSA HEADER"): "image",
    (0x00290020, "SIEMENS CSA HEADER"): "series",
    (0x00290010, "SIEMENS CSA NON-IMAGE"): "image",
    (0x00290020, "SIEMENS CSA NON-IMAGE"): "series",
    (0x00210019, "SIEMENS MR SDS 01"): "protocol",
}
"""Group and element within the block, creator -> what it holds."""
KINDS = {(0x00290008, "SIEMENS CSA HEADER"), (0x00290018, "SIEMENS CSA HEADER")}
"""CSA Image and Series Header Type: words of the maker."""

_TAG = struct.Struct("<64s i 4s 3i")
_ITEM = struct.Struct("<4i")
_END, _PROTOCOLS = 77, frozenset(("MrProtocol", "MrPhoenixProtocol"))
_MOST_TAGS, _MOST_ITEMS, _LONGEST = 1000, 1000, 1 << 20
_REMEMBERED = 64
"""Headers whose outcome is remembered before all are forgotten."""
_NUMBER = re.compile(r"-?(?:0x[0-9a-fA-F]{1,8}|\d{1,12}(?:\.\d{0,20})?(?:[eE][+-]?\d{1,3})?)")
_PLAIN = re.compile(rb"[\x20-\x7e]*")
_NUMERIC = frozenset((b"DS", b"IS", b"FD", b"FL", b"US", b"SS", b"UL", b"SL"))
_VRS = _NUMERIC | {b"SH", b"LO", b"CS", b"ST", b"LT", b"UT", b"UN", b"UI"}
"""Those of the elements that the list names."""
_MOST_TYPE, _MOST_VALUES = 32, 64
"""Greatest number of a data type, and of values said to be there where fewer are."""
_UID = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+){4,}(?![0-9]|\.[0-9])")
_PERSONAL = re.compile(
    r"patient|weight|birth|sex\b|age\b|serial|uid|date|institution|operator", re.IGNORECASE
)
_LINE = re.compile(r"\s*([A-Za-z0-9_.\[\]]{1,200})\s*=\s*(.*?)\s*")
_WORDS = re.compile(r'"{1,2}([\x20-\x21\x23-\x7e]*)"{1,2}')


@lru_cache(maxsize=1)
def lists() -> dict[str, tuple[str, ...]]:
    """The names that stay, by section."""
    content = (files(__package__) / "data" / "siemens_csa.txt").read_text("utf-8")
    found: dict[str, tuple[str, ...]] = {}
    section = ""
    for line in content.splitlines():
        if line.startswith("["):
            section = line.strip("[] ")
        elif not line.startswith("#"):
            found[section] = (*found.get(section, ()), *line.split())
    return found


@dataclass(frozen=True)
class _Entry:
    """One element of a CSA header; values as they stand, with their terminating zeros."""

    name: str
    multiplicity: int
    vr: bytes
    type: int
    values: tuple[bytes, ...]


def _entries(data: bytes) -> Iterator[_Entry]:
    """The elements of a CSA header.

    Raises:
        ValueError: it is none, or is damaged.
    """
    new = data.startswith(b"SV10")
    at = 8 if new else 0
    if len(data) < at + 8:
        raise ValueError("too short")
    count, delimiter = struct.unpack_from("<2I", data, at)
    if count > _MOST_TAGS or delimiter != _END:
        raise ValueError("no CSA header")
    at += 8
    first = None
    for _ in range(count):
        if at + _TAG.size > len(data):
            raise ValueError("cut off")
        name, multiplicity, vr, kind, items, _end = _TAG.unpack_from(data, at)
        at += _TAG.size
        first = items if first is None else first
        if not 0 <= items <= _MOST_ITEMS:
            raise ValueError("no number of items")
        values = []
        for _ in range(items):
            if at + _ITEM.size > len(data):
                raise ValueError("cut off")
            numbers = _ITEM.unpack_from(data, at)
            at += _ITEM.size
            length = numbers[1] if new else numbers[0] - first
            if length < 0 or at + length > len(data):
                if not new:
                    break  # the older layout ends its items so
                raise ValueError("an item is cut off")
            values.append(data[at : at + length])
            at += (length + 3) & ~3
        yield _Entry(name.partition(b"\0")[0].decode("latin-1"), multiplicity, vr, kind, tuple(values))


def _is_understood(entry: _Entry) -> bool:
    """Whether nothing but what belongs there stands beside the values of an element."""
    return (
        entry.vr[:2] in _VRS
        and entry.vr[2:] == b"\0\0"
        and 0 <= entry.type <= _MOST_TYPE
        and 0 <= entry.multiplicity <= max(_MOST_VALUES, len(entry.values))
    )


def _written(entries: list[_Entry]) -> bytes:
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(entries), _END)]
    for entry in entries:
        name = entry.name.encode("latin-1").ljust(64, b"\0")
        parts.append(_TAG.pack(name, entry.multiplicity, entry.vr, entry.type, len(entry.values), _END))
        for value in entry.values:
            size = len(value)
            parts += [_ITEM.pack(size, size, _END, size), value, bytes(-size % 4)]
    made = b"".join(parts)
    return made + bytes(len(made) & 1)


def rewritten(data: bytes, section: str, context: Context) -> bytes | None:
    """A CSA header with what the list names; ``None``: it is none or damaged.

    Args:
        data: the value of the element.
        section: ``image`` or ``series``.
        context: gives new UIDs, and what identified the person.
    """
    allowed = frozenset(lists()[section])
    try:
        entries = [entry for entry in _entries(data) if entry.name in allowed and _is_understood(entry)]
    except ValueError:
        return None
    plain = [value for entry in entries if entry.name not in _PROTOCOLS for value in entry.values]
    lines = [value.replace(b"\0", b" ").replace(b"\n", b" ").decode("latin-1") for value in plain]
    told = iter(_told(context.terms, lines))
    kept = []
    for entry in entries:
        if entry.name in _PROTOCOLS:
            values = tuple(_protocol_value(value, context) for value in entry.values)
        else:
            numeric = entry.vr[:2] in _NUMERIC
            values = tuple(
                b"" if next(told) else _value(value, context, numeric=numeric) for value in entry.values
            )
        kept.append(_Entry(entry.name, entry.multiplicity, entry.vr, entry.type, values))
    return _written(kept)


def _told(terms: Terms, lines: Sequence[str]) -> list[bool]:
    """For each line whether it says who the person is; searched in one go, since there are thousands."""
    text = "\n".join(lines)
    folded, places = fold_with_places(text)
    found = [terms.is_value(fold(line.strip())) for line in lines]
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    for hit in terms.find(folded, True):
        if hit.term.strong:
            first, last = (
                bisect_right(starts, places[at]) - 1 for at in (hit.start, max(hit.start, hit.end - 1))
            )
            found[first : last + 1] = [True] * (min(last, len(lines) - 1) + 1 - first)
    return found


def _value(value: bytes, context: Context, *, numeric: bool) -> bytes:
    """A value of a few plain characters without identity, or a number; empty if it is anything else."""
    plain = value.partition(b"\0")[0]
    if not plain:
        return value[:1]
    if len(plain) > 256 or not _PLAIN.fullmatch(plain):
        return b""
    text = plain.decode("ascii")
    if numeric:
        number = text.strip()
        if not _NUMBER.fullmatch(number) or context.terms.is_number(number):
            return b""
    text = _UID.sub(lambda found: context.map_uid(found[0]), text)
    return text.encode() + value[len(plain) : len(plain) + 1]


def _protocol_value(value: bytes, context: Context) -> bytes:
    if len(value) > _LONGEST:
        return b""
    return protocol(value.decode("latin-1"), context).encode("ascii", "replace") + b"\0"


def protocol(text: str, context: Context) -> str:
    """A Phoenix protocol with the entries that the list names; the XML-like part before it goes."""
    begin = text.find("### ASCCONV BEGIN")
    end = text.find("### ASCCONV END", begin)
    if begin < 0 or end < 0:
        return ""
    written = text[begin:end].split("\n")[1:]
    lines = ["### ASCCONV BEGIN ###"]
    entries = [found for line in written if (found := _LINE.fullmatch(line))]
    named = _told(context.terms, [found[1] for found in entries])
    told = _told(context.terms, [found[0] for found in entries])
    for found, name_tells, tells in zip(entries, named, told, strict=True):
        new = None if name_tells else _protocol_entry(found[1], found[2], context, told=tells)
        if new is not None:
            lines.append(f"{found[1]}\t = \t{new}")
    return "\n".join([*lines, "### ASCCONV END ###", ""])


def _protocol_entry(name: str, value: str, context: Context, *, told: bool) -> str | None:
    if _PERSONAL.search(name):
        return None
    last = re.sub(r"\[\d+\]", "", name.rpartition(".")[2])
    number = value.partition("#")[0].strip()
    if _NUMBER.fullmatch(number):
        if not name.startswith(lists()["numbers"]) or told or context.terms.is_number(number):
            return None
        return number
    words = _WORDS.fullmatch(value)
    if words is None:
        return None
    if last in lists()["references"]:
        return f'"{context.map_uid(words[1])}"' if _UID.fullmatch(words[1]) else None
    if last in lists()["words"]:
        return f'"{cleaned(words[1], context.terms, keep_dates=True)}"'
    return None


def _signature(terms: Terms) -> tuple[frozenset[object], ...]:
    """What a search depends on."""
    tables = (frozenset(table.items()) for table in terms.tables())
    return (*tables, frozenset(terms.days.items()), frozenset(terms.values), terms.exempt)


def rewriter(section: str, *, keep_uids: bool = False) -> Work:
    """The work of action ``rewrite`` on a CSA header or protocol."""
    done: dict[tuple[object, ...], tuple[bytes | None, list[str]]] = {}

    def header(data: bytes, context: Context) -> bytes | None:
        """Remembered: the header of a series is the same in all its slices."""
        key = (data, *_signature(context.terms))
        if key not in done:
            used: list[str] = []

            def mapped(uid: str) -> str:
                used.append(uid)
                return context.map_uid(uid)

            if len(done) >= _REMEMBERED:
                done.clear()
            done[key] = rewritten(data, section, replace(context, map_uid=mapped)), used
        made, used = done[key]
        for uid in used:
            context.map_uid(uid)  # tells the engine that the original must not stay anywhere
        return made

    def work(element: Element, context: Context) -> Element | None:
        if keep_uids:
            context = replace(context, map_uid=str)
        if element.items is not None:
            return None
        data = bytes(element.value)
        if section == "protocol":
            text = protocol(data.decode("latin-1"), context) if len(data) <= _LONGEST else ""
            return Element(element.tag, element.vr, text.encode("ascii", "replace")) if text else None
        made = header(data, context)
        return None if made is None else Element(element.tag, "OB", made)

    return work
