"""One copy under examination: layout of the file, the action table, the residual search."""

from __future__ import annotations

import io
import mmap
import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from fiona_dagster.deid.assignment import METHOD
from fiona_dagster.deid.defined import is_defined
from fiona_dagster.deid.deidentify import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION, Deidentifier
from fiona_dagster.deid.elements import (
    DEFLATED,
    PIXEL_DATA,
    inflate,
    name_of,
)
from fiona_dagster.deid.folding import decode, fold
from fiona_dagster.deid.identities import dummy, is_well_known
from fiona_dagster.deid.leftovers import SYMBOLS, WORDS, stray_uids
from fiona_dagster.deid.pixel_inspection import Tail
from fiona_dagster.deid.reading import UNREADABLE, Found, elements, quiet, raw_value, read_header
from fiona_dagster.deid.terms import BINARY, NUMBERS, Hit, Term, Terms
from fiona_dagster.dicom.dictionary import dictionary_vr

_UID_LIKE = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_OWN_NAME = re.compile(r"2\.25\.[0-9]{1,39}(_[0-9]+)?\.dcm")
_META = frozenset((0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013))
METHOD_TAGS = frozenset((0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00080050))
_SHORT = 6
"""In binary values (tables of colours, say) shorter words are found by chance."""
_EXPLICIT = b"1.2.840.10008.1.2.1"


@dataclass(frozen=True)
class Finding:
    """Something that must not leave, or a warning: names file, tag and rule, never the value."""

    file: str
    tag: str
    rule: str

    def to_json(self) -> dict[str, str]:
        """As plain data."""
        return {"file": self.file, "tag": self.tag, "rule": self.rule}


@dataclass
class Search:
    """What identified the person of one study.

    Attributes:
        terms: words, numbers and dates.
        uids: UIDs of the originals, compared as a whole.
        overlays: new SOP Instance UIDs of objects whose original had overlays in unused bits.
    """

    terms: Terms
    uids: set[bytes] = field(default_factory=set)
    overlays: set[str] = field(default_factory=set)


class Inspection:
    """Examines one output file.

    Args:
        path: the file.
        name: how findings call it.
        deidentifier: rules and identities that were used.
    """

    def __init__(self, path: Path, name: str, deidentifier: Deidentifier) -> None:
        self.path, self.name = path, name
        self.profile = deidentifier.profile
        self.assigned = deidentifier.assigned_tags() | METHOD_TAGS
        self.findings: list[Finding] = []
        self.warnings: list[Finding] = []

    def _find(self, tag: int | str, rule: str, weak: bool = False) -> None:
        finding = Finding(self.name, tag if isinstance(tag, str) else name_of(tag), rule)
        bucket = self.warnings if weak else self.findings
        if finding not in bucket:
            bucket.append(finding)

    def run(self, by_study: dict[str, Search]) -> str:
        """Looks at everything; the SHA-256 of the bytes, "" when there are none to look at."""
        if self.path.is_symlink() or not self.path.is_file() or not self.path.stat().st_size:
            self._find("file", "is no regular file")
            return ""
        if not _OWN_NAME.fullmatch(self.path.name):
            self._find("file name", "is not made from a new UID")
        with self.path.open("rb") as handle:
            raw = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        with raw:
            try:
                with quiet():
                    self._look(raw, by_study)
            except UNREADABLE:
                self._find("file", "can't be read again")
            with memoryview(raw) as view:
                return sha256(view).hexdigest()

    def _look(self, raw: mmap.mmap, by_study: dict[str, Search]) -> None:
        if any(raw[:128]) or raw[128:132] != b"DICM":
            self._find("preamble", "is not 128 zeros and DICM")
            return
        syntax = self._meta(raw)
        plain = _plain(raw, syntax)
        plain.seek(0)
        data_set = read_header(cast(IO[bytes], plain))
        end = plain.tell()
        found = elements(data_set)
        search = by_study.get(raw_value(data_set, 0x0020000D))
        if search is None:
            self._find(0x0020000D, "belongs to none of the originals")
            search = Search(Terms())
            for other in by_study.values():
                search.terms.update(other.terms)
                search.uids |= other.uids
        self._table(found)
        self._method(data_set)
        with plain.getbuffer() if isinstance(plain, io.BytesIO) else memoryview(plain) as view:
            self._tail(view, end, syntax, data_set, search)
        plain.seek(0)
        self._search(plain.read(end), found, search)

    def _meta(self, raw: mmap.mmap) -> str:
        """Checks the file meta information; the transfer syntax."""
        meta: Dataset = read_dataset(
            io.BytesIO(raw[132:4096]), False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
        )
        for e in elements(meta):
            if e.tag not in _META:
                self._find(e.tag, "file meta: not ours")
        wanted = {0x00020012: IMPLEMENTATION_CLASS_UID, 0x00020013: IMPLEMENTATION_VERSION}
        for tag, value in wanted.items():
            if raw_value(meta, tag) != value:
                self._find(tag, "file meta: not ours")
        return raw_value(meta, 0x00020010)

    def _table(self, found: list[Found]) -> None:
        """Nothing is there that the action table says should be gone."""
        for e in found:
            if e.path or e.tag not in self.assigned:
                problem = self._forbidden(e) or self._left_over(e)
                if problem:
                    self._find(e.tag, problem)

    def _forbidden(self, e: Found) -> str:
        group, number = e.tag >> 16, e.tag & 0xFFFF
        if group & 1:
            return "table E.1-1: private attribute"
        if group < 8 or not number or group & 0xFF00 in (0x5000, 0x6000):
            return "table E.1-1: X"
        action = self.profile.action(e.tag)
        if action == "unknown":
            return "in no dictionary"
        if action != "X":
            return ""
        return "table E.1-1: X" if self.profile.basic(e.tag) else "not in table E.1-1: X"

    def _left_over(self, e: Found) -> str:
        """A value where the table asks for none, a dummy, or another UID."""
        action, value = self.profile.action(e.tag), e.value.rstrip(b" \0")
        basic = self.profile.basic(e.tag) or (action if action in ("Z", "D") else "")
        if not basic or e.items >= 0 or not value or self.profile.action(e.tag) == "C":
            return ""
        vr = dictionary_vr(e.tag) or e.vr
        if vr == "UI" or basic == "U":
            uids = (uid.strip(" \0") for uid in value.decode("latin-1").split("\\"))
            foreign = any(uid and not uid.startswith("2.25.") and not is_well_known(uid) for uid in uids)
            return "table E.1-1: U" if foreign else ""
        stand_in = e.tag == 0x00420011 and value.startswith(b"%PDF-1.4\n1 0 obj<<")  # an empty document
        return (
            ""
            if stand_in or value in (dummy(vr).rstrip(b" \0"), dummy(e.vr).rstrip(b" \0"))
            else f"{'' if self.profile.basic(e.tag) else 'not in '}table E.1-1: {basic}"
        )

    def _method(self, data_set: Dataset) -> None:
        dates = "MODIFIED" if self.profile.modified_dates else "REMOVED"
        for tag, value in ((0x00120062, "YES"), (0x00120063, METHOD), (0x00280303, dates)):
            if raw_value(data_set, tag) != value:
                self._find(tag, "does not say how it was de-identified")

    def _tail(self, view: memoryview, end: int, syntax: str, data_set: Dataset, search: Search) -> None:
        """Nothing but the picture stands after the header."""
        tail = Tail(view, end, syntax, data_set)
        for data in tail.pieces():
            for hit in search.terms.hits(data):
                weak = not hit.term.strong or 0 < hit.end - hit.start < _SHORT
                self._find(PIXEL_DATA, f"residual search: {hit.term.kind}", weak=weak)
        if search.overlays and raw_value(data_set, 0x00080018) in search.overlays and tail.unused_bits():
            self._find(PIXEL_DATA, "an overlay in bits that the pixels don't use")
        for problem in tail.problems:
            self._find("end of file" if "after" in problem else PIXEL_DATA, problem)

    def _search(self, header: bytes, found: list[Found], search: Search) -> None:
        """The residual search over all bytes of the header but those that the request assigns."""
        masked = bytearray(header)
        for e in found:
            if e.where >= 0 and not e.path and self._excused(e):
                masked[e.where : e.where + len(e.value)] = bytes(len(e.value))
        data = bytes(masked)
        for uid in {uid for uid in _UID_LIKE.findall(data) if uid in search.uids}:
            self._find(self._place_of(uid, found), "residual search: uid")
        anywhere = search.terms.hits(data)
        texts = [(e, fold(decode(e.value, e.charset, e.vr))) for e in found if self._is_text(e)]
        readable = search.terms.find("\n".join(text for _, text in texts), True)
        if anywhere or readable:
            self._judge(anywhere, found, search.terms)
        for e, text in texts:
            if search.terms.is_value(text):
                self._find(_place(e), "residual search: id")
            if b"." in e.value and stray_uids(e.value, search.uids):
                self._find(_place(e), "residual search: uid")
        for e in found:
            if (
                e.vr in ("DS", "IS")
                and not self._excused(e)
                and search.terms.is_number(e.value.decode("latin-1"))
            ):
                self._find(_place(e), "residual search: id")
        if search.terms.hits(self.name.encode()):
            self._find("file name", "residual search: word in the file's name")

    def _excused(self, e: Found) -> bool:
        """Whether the value is there by right: assigned, a term of the standard, or a shifted date."""
        # a shifted date may equal another's original date
        shifted = self.profile.modified_dates and e.vr in ("DA", "DT")
        return (not e.path and e.tag in self.assigned) or shifted or is_defined(e.tag, e.value)

    def _is_text(self, e: Found) -> bool:
        return e.items < 0 and (e.vr in WORDS or e.vr in SYMBOLS or e.vr == "PN") and not self._excused(e)

    def _judge(self, anywhere: list[Hit], found: list[Found], terms: Terms) -> None:
        """Findings and warnings for the elements that hold the terms."""
        seen: set[Term] = set()
        for e in found:
            hits = terms.hits(e.value)
            if self._is_text(e):
                hits += terms.find(fold(decode(e.value, e.charset, e.vr)), True)
            seen.update(hit.term for hit in hits)
            if self._excused(e):
                continue
            for hit in hits:
                short = e.vr in BINARY and 0 < hit.end - hit.start < _SHORT
                number = e.vr in NUMBERS and e.value[hit.start : hit.end].isdigit()
                weak = not hit.term.strong or short or number
                self._find(_place(e), f"residual search: {hit.term.kind}", weak=weak)
        for hit in anywhere:
            if hit.term not in seen:  # between the elements that pydicom sees
                self._find("header", f"residual search: {hit.term.kind}", weak=not hit.term.strong)

    @staticmethod
    def _place_of(uid: bytes, found: list[Found]) -> str:
        return next((_place(e) for e in found if uid in e.value), "header")


def _place(e: Found) -> str:
    return ".".join(name_of(tag) for tag in (*e.path, e.tag))


def _plain(raw: mmap.mmap, syntax: str) -> mmap.mmap | io.BytesIO:
    """The file as if it were not deflated."""
    if syntax not in DEFLATED:
        return raw
    start = 144 + int.from_bytes(raw[140:144], "little")
    room = len(syntax) + (len(syntax) & 1)
    header = raw[:start].replace(syntax.encode().ljust(room, b"\0"), _EXPLICIT.ljust(room, b"\0"))
    return io.BytesIO(header + inflate(raw[start:]))
