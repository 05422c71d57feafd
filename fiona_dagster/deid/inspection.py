"""One copy under examination: layout of the file, the action table, the residual search."""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset

from fiona_dagster.deid.assignment import BIRTH_DATE, method
from fiona_dagster.deid.binary_numbers import WIDE_NUMBERS
from fiona_dagster.deid.copies import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from fiona_dagster.deid.defined import is_defined
from fiona_dagster.deid.deidentify import Deidentifier
from fiona_dagster.deid.elements import DEFLATED, PIXEL_DATA, name_of, text
from fiona_dagster.deid.engine import SOP_CLASS, SOP_INSTANCE
from fiona_dagster.deid.files import inflate
from fiona_dagster.deid.folding import decode, fold, other_text, printed, raw_view
from fiona_dagster.deid.ge import flags_only, is_flags_only
from fiona_dagster.deid.identities import Told, dummy, is_well_known
from fiona_dagster.deid.leftovers import MOMENTS, SYMBOLS, WORDS, is_creator, is_moment, stray_uids, uids_in
from fiona_dagster.deid.pixel_inspection import Tail
from fiona_dagster.deid.plan import REMOVED, Place, Step
from fiona_dagster.deid.profile import iod_of
from fiona_dagster.deid.reading import UNREADABLE, Found, elements, quiet, raw_value, read_header
from fiona_dagster.deid.remembering import RememberedTerms
from fiona_dagster.deid.searchable import DOCUMENT, hides_file, is_searchable
from fiona_dagster.deid.searchable import RULE as UNSEARCHABLE
from fiona_dagster.deid.spread import Hit, Term
from fiona_dagster.deid.terms import BINARY, NUMBERS, Terms
from fiona_dagster.dicom.dictionary import dictionary_vr

_UID_LIKE = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_OWN_NAME = re.compile(r"([0-9]+(?:\.[0-9]+)*)(_[0-9]+)?\.dcm")
_META = frozenset((0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013))
METHOD_TAGS = frozenset((0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00080050))
_SHORT = 6
"""In binary values (tables of colours, say) shorter words are found by chance."""
_EXPLICIT = b"1.2.840.10008.1.2.1"
_AS_IT_IS = ("keep", "clean", "rewrite")
_NUMBER_TEXT = ("DS", "IS")
METHOD_CODES = 0x00120064
ACCESSION = 0x00080050
_OF_MAKERS = ("date", "device")
"""What makers put into UIDs; a project that keeps them wants them as they are."""
_CONTENT_DATES = frozenset((0x0040A120, 0x0040A121))
"""DateTime and Date of a content item (PS3.3 C.17.3)."""


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
        accessions: accession numbers that copies of the study may have.
    """

    terms: Terms
    uids: set[bytes] = field(default_factory=set)
    overlays: set[str] = field(default_factory=set)
    accessions: set[str] = field(default_factory=set)
    _told: set[Told] = field(default_factory=set, repr=False)

    def learn(self, told: Iterable[Told]) -> None:
        """Takes the terms from one original; what others told before is known."""
        new = [each for each in told if each not in self._told]
        self._told.update(new)
        self.terms.learn(new)

    @cached_property
    def remembered(self) -> RememberedTerms:
        """The terms, when all originals have told theirs."""
        return RememberedTerms(self.terms)


class Inspection:
    """Examines one output file.

    Args:
        path: the file.
        name: how findings call it.
        deidentifier: rules and identities that were used.
    """

    def __init__(self, path: Path, name: str, deidentifier: Deidentifier) -> None:
        self.path, self.name = path, name
        self.profile, self.engine = deidentifier.profile, deidentifier.engine
        self.identities = deidentifier.identities
        self.method_words = {"DCM", *(word for code in self.profile.codes for word in code)}
        self.iod: int | None = None
        self._terms: Terms | None = None
        self.assigned = deidentifier.assigned_tags() | METHOD_TAGS
        values = deidentifier.assignment.values().items()
        self.wanted = {tag: {v} for tag, (_, v) in values if tag in self.assigned and tag != BIRTH_DATE}
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
        with self.path.open("rb") as handle:
            raw = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        with raw:
            try:
                with quiet():
                    self._look(raw, by_study)
            except UNREADABLE:
                self._find("file", "can't be read again")
                self._file_name("")
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
        self._file_name(raw_value(data_set, SOP_INSTANCE))
        end = plain.tell()
        found = elements(data_set)
        self.iod = iod_of(raw_value(data_set, SOP_CLASS))
        search = by_study.get(raw_value(data_set, 0x0020000D))
        if search is None:
            self._find(0x0020000D, "belongs to none of the originals")
            search = Search(Terms())
            for other in by_study.values():
                search.terms.update(other.terms)
                search.uids |= other.uids
        self._terms = search.terms
        self._table(found)
        self._method(data_set)
        self._as_assigned(found, search)
        with plain.getbuffer() if isinstance(plain, io.BytesIO) else memoryview(plain) as view:
            self._tail(view, end, syntax, data_set, search)
        plain.seek(0)
        self._search(plain.read(end), found, search)

    def _file_name(self, instance: str) -> None:
        """The file is named by the new UID that it holds (numbered if there are two of them)."""
        own = _OWN_NAME.fullmatch(self.path.name)
        if own is None or own[1] != instance:
            self._find("file name", "is not made from a new UID")

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

    def _step(self, e: Found) -> Step:
        return self.engine.step(Place(e.tag, e.vr, e.path, self.iod, e.creator))

    def _table(self, found: list[Found]) -> None:
        """Nothing is there that should be gone, and what stands in place of something is a stand-in."""
        used = {(e.data_set, e.tag >> 8) for e in found if e.creator and self._step(e).action not in REMOVED}
        for e in found:
            if not e.path and e.tag == BIRTH_DATE and not self.profile.may_be_birth_date(text(e.value)):
                self._find(_place(e), "date of birth that the project does not write")
            if not e.path and e.tag in self.assigned:
                continue
            if e.tag >> 16 & 1 and 0x10 <= e.tag & 0xFFFF <= 0xFF:  # a private creator follows its block
                problem = "" if (e.data_set, e.tag >> 16 << 8 | e.tag & 0xFF) in used else "private attribute"
            else:
                problem = self._broken_rule(e, self._step(e))
            if problem:
                self._find(_place(e), problem)

    def _broken_rule(self, e: Found, step: Step) -> str:
        """Why an element can't be the outcome of its step; "" if it can."""
        action, value = step.action, e.value.rstrip(b" \0")
        if action in REMOVED or (e.tag == 0x00080001 or e.tag >> 16 < 8):
            return _rule(step)
        if e.vr in MOMENTS and not is_moment(e.vr, e.value):
            return f"{e.vr} that is none"
        if e.items >= 0 or not value or action in ("keep", "sequence", "pixels"):
            return ""
        if action == "C":
            if self.identities.shifted(e.vr, e.value.decode("latin-1")) is not None:
                return ""
            action = step.otherwise
        if action in ("U", "uid") or (action == "D" and e.vr == "UI"):
            return _rule(step) if any(map(self._is_foreign, _uids(value, action))) else ""
        if step.work is flags_only:
            return "" if is_flags_only(e.value) else _rule(step)
        if action in ("Z", "D", "X"):
            return "" if self._is_stand_in(e, value) else _rule(step)
        return ""

    def _is_foreign(self, uid: str) -> bool:
        """Whether a UID is neither one of ours nor one of the standard's."""
        return bool(uid) and not uid.startswith(self.identities.prefixes) and not is_well_known(uid)

    @staticmethod
    def _is_stand_in(e: Found, value: bytes) -> bool:
        if e.tag == 0x00420011 and value.startswith(b"%PDF-1.4\n1 0 obj<<"):  # an empty document
            return True
        return value in (dummy(dictionary_vr(e.tag)).rstrip(b" \0"), dummy(e.vr).rstrip(b" \0"))

    def _method(self, data_set: Dataset) -> None:
        """The copy says how it was de-identified (PS3.15 E.1.1), and no other way."""
        for wanted in method(self.profile):
            if wanted.items is None and raw_value(data_set, wanted.tag) != text(wanted.value):
                self._find(wanted.tag, "does not say how it was de-identified")
        items = data_set[METHOD_CODES].value if METHOD_CODES in data_set else ()
        codes = [str(item.get("CodeValue", "")) for item in items]
        if codes != [code for code, _ in self.profile.codes]:
            self._find(METHOD_CODES, "does not say how it was de-identified")

    def _as_assigned(self, found: list[Found], search: Search) -> None:
        """What the request assigns, which nothing else looks at, is what stands there."""
        wanted = {**self.wanted, ACCESSION: search.accessions}
        there = {e.tag: decode(e.value, e.charset, e.vr) for e in found if not e.path and e.tag in wanted}
        for tag, values in wanted.items():
            if tag not in there or there[tag].strip(" \0") not in values:
                self._find(tag, "is not what the request assigns")

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
        hidden = other_text(data, raw_view(data))
        for uid in uids_in(data, search.uids):
            self._find(self._place_of(uid, found), "residual search: uid")
        if hidden and uids_in(hidden.encode("utf-8", "replace"), search.uids):
            self._find("header", "residual search: uid")
        anywhere = search.terms.hits(data, hidden)
        texts = [(e, fold(decode(e.value, e.charset, e.vr))) for e in found if self._is_text(e)]
        readable = search.terms.find("\n".join(folded for _, folded in texts), True)
        readable += search.terms.find("\n\n".join(printed(e.value) for e in found if e.vr in BINARY), True)
        if anywhere or readable:
            self._judge(anywhere, found, search.remembered)
        ours = tuple(prefix.encode() for prefix in self.identities.prefixes)
        for e, folded in texts:
            if search.terms.is_value(folded):
                self._find(_place(e), "residual search: id")
            if b"." in e.value and any(not uid.startswith(ours) for uid in stray_uids(e.value, search.uids)):
                self._find(_place(e), "residual search: uid")
        for e in found:
            if not self._excused(e) and _is_telling_number(e, search.terms):
                self._find(_place(e), "residual search: id")
        self._unsearchable(found)
        kept = any(not e.path and e.tag == SOP_INSTANCE and self._step(e).action == "keep" for e in found)
        named = search.terms.hits(self.name.encode())
        if any(not kept or hit.term.kind not in _OF_MAKERS for hit in named):
            self._find("file name", "residual search: word in the file's name")

    def _unsearchable(self, found: list[Found]) -> None:
        """Warns of values that stay and that a search of bytes can't read."""
        for e in found:
            if e.items >= 0 or self._step(e).action not in _AS_IT_IS or self._excused(e):
                continue
            # An encapsulated document is one whatever VR the file gives it.
            if e.tag == DOCUMENT or e.vr in BINARY:
                searchable = is_searchable(e.tag, e.value)
            else:
                searchable = not hides_file(e.value)
            if not searchable:
                self._find(_place(e), UNSEARCHABLE, weak=True)

    def _excused(self, e: Found) -> bool:
        """Whether the value is there by right: assigned, a term of the standard, or a shifted date."""
        if not e.path and e.tag in self.assigned:
            return True
        if e.path == (METHOD_CODES,) and text(e.value) in self.method_words:
            return True
        # a shifted date may equal another's original date; a kept one may be the day of birth
        dated = e.vr in ("DA", "DT", "TM") and self._step(e).action in ("C", "keep")
        if dated and is_moment(e.vr, e.value):
            return not self._is_told_birth_date(e)
        return is_defined(e.tag, e.value) or is_creator(e.tag, e.value, self.engine.creators)

    def _is_told_birth_date(self, e: Found) -> bool:
        """Whether a content item tells the day of birth as it is, under whatever concept."""
        if e.tag not in _CONTENT_DATES or self._step(e).action != "keep" or self._terms is None:
            return False
        return any(hit.term.kind == "birth_date" for hit in self._terms.hits(e.value))

    def _is_text(self, e: Found) -> bool:
        return e.items < 0 and (e.vr in WORDS or e.vr in SYMBOLS or e.vr == "PN") and not self._excused(e)

    def _judge(self, anywhere: list[Hit], found: list[Found], terms: RememberedTerms) -> None:
        """Findings and warnings for the elements that hold the terms."""
        seen: set[Term] = set()
        for e in found:
            hits = terms.hits(e.value)
            if self._is_text(e):
                hits += terms.find(fold(decode(e.value, e.charset, e.vr)), True)
            elif e.vr in BINARY:
                hits += terms.find(printed(e.value), True)
            seen.update(hit.term for hit in hits)
            if self._excused(e):
                continue
            kept_uid = e.vr == "UI" and self._step(e).action == "keep"
            for hit in hits:
                if kept_uid and hit.term.kind in _OF_MAKERS:
                    continue
                short = e.vr in BINARY and 0 < hit.end - hit.start < _SHORT
                number = e.vr in NUMBERS and e.value[hit.start : hit.end].isdigit()
                weak = not hit.term.strong or short or number
                self._find(_place(e), f"residual search: {hit.term.kind}", weak=weak)
        for hit in anywhere:
            if hit.term not in seen:  # between the elements that pydicom sees
                self._find("header", f"residual search: {hit.term.kind}", weak=not hit.term.strong)

    @staticmethod
    def _place_of(uid: bytes, found: list[Found]) -> str:
        return next((_place(e) for e in found if uids_in(e.value, {uid})), "header")


def _is_telling_number(e: Found, terms: Terms) -> bool:
    if e.vr in _NUMBER_TEXT:
        return terms.is_number(e.value.decode("latin-1"))
    return e.vr in WIDE_NUMBERS and terms.are_numbers(e.numbers())


def _rule(step: Step) -> str:
    unlisted = "not in table E.1-1"
    return f"{unlisted}: {step.action}" if step.reason.startswith(unlisted) else step.reason


def _uids(value: bytes, action: str) -> Iterator[str]:
    for uid in value.decode("latin-1").split("\\"):
        plain = uid.strip(" \0")
        if action != "uid" or not plain.startswith("1.2.840.10008."):  # newer than the list
            yield plain


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
