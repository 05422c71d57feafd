"""The independent look at what would leave: reads every copy again (pydicom, not our own reader) and searches it.

Belongs here: the residual search and the check of the action table on outputs. Stays out: whether to send (the gate in
transfers asks the ledger for a passed verification with the digests of the bytes in hand).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydicom
from pydicom import config as pydicom_config
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import UID_dictionary

from fiona_dagster.deid.assignment import METHOD
from fiona_dagster.deid.deidentify import IMPLEMENTATION_CLASS_UID, Deidentifier
from fiona_dagster.deid.elements import DEFLATED, dictionary_vr, inflate, name_of
from fiona_dagster.deid.identities import dummy
from fiona_dagster.deid.terms import BINARY, Found, Terms, walk
from fiona_dagster.errors import FionaError, UnreadableDicom

_UID_LIKE = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_OWN_NAME = re.compile(r"2\.25\.[0-9]{1,39}(_[0-9]+)?\.dcm")
_META = frozenset((0x00020000, 0x00020001, 0x00020002, 0x00020003, 0x00020010, 0x00020012, 0x00020013))
_METHOD_TAGS = frozenset((0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00080050, 0x00120060))
_SHORT_BINARY = 6
"""In binary values (tables of colours, say) shorter words are found by chance."""
_READ_ERRORS = (InvalidDicomError, ValueError, OSError, EOFError, KeyError, NotImplementedError, RecursionError)


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
class Verification:
    """The outcome over all copies of a study (or of several).

    Attributes:
        findings: what blocks.
        warnings: weak hits, for a person to look at.
        files: relative name -> SHA-256 of the bytes that were looked at.
        searched: number of terms by kind.
    """

    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    searched: dict[str, int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Nothing blocks, and something was looked at."""
        return bool(self.files) and not self.findings

    def to_json(self) -> dict[str, Any]:
        """As plain data; nothing identifying."""
        return {
            "passed": self.passed,
            "findings": [finding.to_json() for finding in self.findings],
            "warnings": [finding.to_json() for finding in self.warnings],
            "searched": dict(sorted(self.searched.items())),
            "files": dict(sorted(self.files.items())),
        }


def verify_outputs(sources: Sequence[Path], out_dir: Path, deidentifier: Deidentifier) -> Verification:
    """Reads every file below ``out_dir`` again and looks for what identified the person of its study.

    Args:
        sources: the originals of these copies. Files that can't be read are skipped: they have no copy.
        out_dir: the folder of copies; everything in it is looked at.
        deidentifier: the rules and identities that were used.

    Returns:
        Findings, warnings and the digests of the very bytes that were searched.
    """
    exempt = {value for _, value in deidentifier.assignment.values().values()}
    by_study = _terms(sources, deidentifier, frozenset(v.lower().encode() for v in exempt if v))
    result = Verification()
    for terms in by_study.values():
        for term in terms.words.values():
            result.searched[term.kind] = result.searched.get(term.kind, 0) + 1
        result.searched["uid"] = result.searched.get("uid", 0) + len(terms.uids)
    everything = _merged(by_study)
    for path in sorted(p for p in out_dir.rglob("*") if not p.is_dir()):
        name = str(path.relative_to(out_dir))
        _Copy(path, name, deidentifier, result).check(by_study, everything)
    return result


def _merged(by_study: dict[str, _Search]) -> _Search:
    terms = Terms()
    for search in by_study.values():
        terms.words.update(search.terms.words)
        terms.uids |= search.terms.uids
    return _Search(terms)


class _Search:
    """Terms of a study with their compiled expression."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.words = terms.words
        self.uids = terms.uids
        self.pattern = terms.pattern()


def _terms(sources: Sequence[Path], deidentifier: Deidentifier, exempt: frozenset[bytes]) -> dict[str, _Search]:
    """Terms by *new* Study Instance UID."""
    made: dict[str, Terms] = {}
    for source in sources:
        try:
            data_set = _read(source.open("rb"))
        except _READ_ERRORS:
            continue  # no copy exists of what can't be read
        study = _uid(data_set, 0x0020000D)
        terms = made.setdefault(deidentifier.map_uid(study), Terms(exempt=exempt))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            terms.learn(data_set, not deidentifier.profile.modified_dates)
            for found in walk(data_set):
                if found.vr == "UI" and deidentifier.profile.basic(found.tag) in ("U", "D"):
                    terms.uids.update(_instance_uids(found.value))
    return {study: _Search(terms) for study, terms in made.items()}


def _instance_uids(value: bytes) -> list[bytes]:
    uids = (uid.strip(b" \0") for uid in value.split(b"\\"))
    return [uid for uid in uids if len(uid) > 5 and uid.decode("latin-1") not in UID_dictionary]


def _uid(data_set: FileDataset, tag: int) -> str:
    item = data_set.get_item(tag) if tag in data_set else None
    value = item.value if item is not None else b""
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")


def _read(handle: Any) -> FileDataset:
    """Header of a file, by pydicom, silent: its warnings quote values."""
    with handle, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(handle, stop_before_pixels=True, force=True)


class _Copy:
    """One output file under examination."""

    def __init__(self, path: Path, name: str, deidentifier: Deidentifier, result: Verification) -> None:
        self.path, self.name, self.result = path, name, result
        self.deidentifier, self.profile = deidentifier, deidentifier.profile
        self.assigned = frozenset(deidentifier.assignment.values())

    def find(self, tag: int | str, rule: str, weak: bool = False) -> None:
        """Notes a finding."""
        shown = tag if isinstance(tag, str) else name_of(tag)
        finding = Finding(self.name, shown, rule)
        bucket = self.result.warnings if weak else self.result.findings
        if finding not in bucket:
            bucket.append(finding)

    def check(self, by_study: dict[str, _Search], everything: _Search) -> None:
        if self.path.is_symlink() or not self.path.is_file():
            self.find("file", "is no regular file")
            return
        raw = self.path.read_bytes()
        self.result.files[self.name] = sha256(raw).hexdigest()
        if not _OWN_NAME.fullmatch(self.path.name):
            self.find("file name", "is not made from a new UID")
        if any(raw[:128]) or raw[128:132] != b"DICM":
            self.find("preamble", "is not 128 zeros and DICM")
            return
        try:
            meta = self._meta(raw)
            plain = self._plain(raw, meta)
            handle = io.BytesIO(plain)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data_set = pydicom.dcmread(handle, stop_before_pixels=True)
                end = handle.tell()
                found = list(walk(data_set))
        except (*_READ_ERRORS, FionaError):
            self.find("file", "can't be read again")
            return
        search = by_study.get(_uid(data_set, 0x0020000D))
        if search is None:
            self.find(0x0020000D, "belongs to none of the originals")
            search = everything
        self._table(found)
        self._method(data_set)
        self._tail(plain, end, meta)
        self._search(plain[:end], found, search)

    def _meta(self, raw: bytes) -> pydicom.Dataset:
        handle = io.BytesIO(raw[132:4096])
        meta = read_dataset(handle, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        for element in meta:
            if int(element.tag) not in _META:
                self.find(int(element.tag), "file meta: not ours")
        if meta.get("ImplementationClassUID") != IMPLEMENTATION_CLASS_UID:
            self.find(0x00020012, "file meta: not ours")
        return meta

    @staticmethod
    def _plain(raw: bytes, meta: pydicom.Dataset) -> bytes:
        """The file as if it were not deflated."""
        syntax = str(meta.get("TransferSyntaxUID", ""))
        if syntax not in DEFLATED:
            return raw
        start = 144 + int(meta["FileMetaInformationGroupLength"].value)
        header = raw[:start].replace(syntax.encode() + b"\0" * (len(syntax) & 1), b"1.2.840.10008.1.2.1".ljust(len(syntax) + (len(syntax) & 1), b"\0"))  # noqa: E501
        return header + inflate(raw[start:])

    def _table(self, found: list[Found]) -> None:
        """The action table itself: nothing is there that should be gone."""
        for e in found:
            if not e.path and e.tag in self.assigned | _METHOD_TAGS:
                continue
            problem = self._wrong(e)
            if problem:
                self.find(e.tag, problem)

    def _wrong(self, e: Found) -> str:
        group, basic = e.tag >> 16, self.profile.basic(e.tag)
        if group & 1:
            return "table E.1-1: private attribute"
        if group < 8 or not e.tag & 0xFFFF or group & 0xFF00 == 0x5000:
            return "table E.1-1: X"
        if group & 0xFF00 == 0x6000 and e.tag & 0xFFFF in (0x3000, 0x4000):
            return "table E.1-1: X"
        if not basic:
            return "" if dictionary_vr(e.tag) else "in no dictionary"
        value = e.value.rstrip(b" \0")
        if self.profile.action(e.tag) == "C" or e.items >= 0 or not value:
            return "table E.1-1: X" if basic == "X" and self.profile.action(e.tag) != "C" else ""
        if basic == "X":
            return "table E.1-1: X"
        if basic == "U":
            return self._foreign_uid(value)
        vr = dictionary_vr(e.tag) or e.vr
        if vr == "UI":
            return self._foreign_uid(value)
        is_dummy = value == dummy(vr).rstrip(b" \0") or (e.tag == 0x00420011 and value.startswith(b"%PDF-1.4\n1 0 obj<<"))
        return "" if is_dummy else f"table E.1-1: {basic}"

    @staticmethod
    def _foreign_uid(value: bytes) -> str:
        for uid in value.decode("latin-1").split("\\"):
            if uid and not uid.startswith("2.25.") and uid.strip(" \0") not in UID_dictionary:
                return "table E.1-1: U"
        return ""

    def _method(self, data_set: FileDataset) -> None:
        wanted = {0x00120062: b"YES", 0x00120063: METHOD.encode()}
        for tag, value in wanted.items():
            if _uid(data_set, tag) != value.decode():
                self.find(tag, "does not say how it was de-identified")

    def _tail(self, plain: bytes, end: int, meta: pydicom.Dataset) -> None:
        """Nothing but pixel data stands after the header, and the file ends with them."""
        rest = len(plain) - end
        if not rest or (rest == 1 and not plain[-1]):
            return
        syntax = str(meta.get("TransferSyntaxUID", ""))
        order = "big" if syntax == "1.2.840.10008.1.2.2" else "little"
        group = int.from_bytes(plain[end : end + 2], order)  # type: ignore[arg-type]
        at = 4 if syntax == "1.2.840.10008.1.2" else 8
        length = int.from_bytes(plain[end + at : end + at + 4], order)  # type: ignore[arg-type]
        if group != 0x7FE0:
            self.find("end of file", "bytes after the data set")
        elif length == 0xFFFFFFFF:
            self._fragments(plain, end + 12)
        elif end + at + 4 + length not in (len(plain), len(plain) - 1):
            self.find("end of file", "bytes after the pixel data")

    def _fragments(self, plain: bytes, pos: int) -> None:
        while plain[pos : pos + 4] == b"\xfe\xff\x00\xe0":
            pos += 8 + int.from_bytes(plain[pos + 4 : pos + 8], "little")
        if plain[pos:] != b"\xfe\xff\xdd\xe0\0\0\0\0":
            self.find("end of file", "bytes after the pixel data")

    def _search(self, header: bytes, found: list[Found], search: _Search) -> None:
        """The residual search over all bytes of the header but those that the request assigns."""
        masked = bytearray(header)
        for e in found:
            if not e.path and e.where >= 0 and (e.tag in self.assigned or e.tag in _METHOD_TAGS):
                masked[e.where : e.where + len(e.value)] = bytes(len(e.value))
            elif self.profile.modified_dates and e.where >= 0 and e.vr in ("DA", "DT"):
                masked[e.where : e.where + len(e.value)] = bytes(len(e.value))  # may equal another's original
        for uid in _UID_LIKE.findall(masked):
            if bytes(uid) in search.uids:
                self.find(self._place(bytes(uid), found), "residual search: uid")
        for hit in search.pattern.finditer(masked) if search.pattern else ():
            self._judge(bytes(hit[0]), found, search)
        if search.pattern and search.pattern.search(self.name.encode()):
            self.find("file name", "residual search: name of the file")

    def _judge(self, value: bytes, found: list[Found], search: _Search) -> None:
        term = search.words.get(value.lower())
        if term is None:
            return
        text_place = self._place(value, found, text_only=True)
        weak = not term.strong or (text_place == "header" and len(value) < _SHORT_BINARY)
        place = text_place if text_place != "header" else self._place(value, found)
        self.find(place, f"residual search: {term.kind}", weak)

    def _place(self, value: bytes, found: list[Found], text_only: bool = False) -> str:
        """Where a value stands, as a path of tags; "header" when it is in no element."""
        lowered = value.lower()
        for e in found:
            if (not e.path and e.tag in self.assigned) or (text_only and e.vr in BINARY):
                continue
            if lowered in e.value.lower():
                return ".".join(name_of(tag) for tag in (*e.path, e.tag))
        return "header"


pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
