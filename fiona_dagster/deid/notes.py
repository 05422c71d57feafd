"""What a pass over a header (``passage``) finds out besides the new bytes.

Belongs here: judging values, what is counted, told and remembered, elements that the exact engine treats.
Stays out: the walk itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from fiona_dagster.deid import rows
from fiona_dagster.deid.defined import is_defined
from fiona_dagster.deid.elements import IMPLICIT, Element, Reader, text
from fiona_dagster.deid.encoding import written
from fiona_dagster.deid.engine import (
    MEDIA_DIRECTORY,
    SERIES,
    SOP_INSTANCE,
    STUDY,
    Engine,
    Now,
    is_uid,
)
from fiona_dagster.deid.leftovers import (
    SYMBOLS,
    WORDS,
    kept_values,
    source_values,
    stray_uids,
    uids_in,
    what_tells,
)
from fiona_dagster.deid.person import Header, Outcome, Person
from fiona_dagster.deid.rows import Counted, Cut, Row, Rows, Unsure
from fiona_dagster.deid.stretches import Hint, Suspect
from fiona_dagster.deid.tally import Tally, counted_name
from fiona_dagster.errors import RefusedDicom, UnreadableDicom

SMALL = 4096
"""Longer elements and values are not remembered."""
_MAY_BE_UID = re.compile(rb"[0-9]+(?:[._\-][0-9]+){3}")


class Span(NamedTuple):
    """Where an element begins, its value begins, its length, and where what is around it ends."""

    pos: int
    at: int
    length: int
    end: int


class Notes:
    """What is found out in one pass over one header.

    Args:
        engine: the exact one.
        person: whose terms are searched, and what was remembered.
        data: the file's first bytes.
        syntax: transfer syntax.
        listen: only what the object tells counts; nothing is judged or remembered.
    """

    def __init__(
        self, engine: Engine, person: Person, data: bytes, syntax: str, *, listen: bool = False
    ) -> None:
        self.engine, self.person, self.data, self.listen = engine, person, data, listen
        self.implicit = syntax == IMPLICIT
        self.width = 4 if self.implicit else 6
        self.reader = Reader(memoryview(data), engine.opaque, implicit=self.implicit)
        self.header = Header(data, self.reader, syntax)
        self.charset = b""
        self.counted: list[Counted] = []
        self.told: list[Hint] = []
        self.suspects: list[Suspect] = []
        self.originals: set[str] = set()
        self.written: dict[int, str] = {}

    def check(self) -> None:
        """Whether UIDs of the original, or of its neighbours, stand in values that are kept.

        Raises:
            Unsure: they do, or an UID that the object must have is missing.
        """
        header = self.header
        if header.sop_class == MEDIA_DIRECTORY or not all(
            map(is_uid, (header.sop_class, *map(header.text, (SOP_INSTANCE, STUDY, SERIES))))
        ):
            raise Unsure
        for tag in (SOP_INSTANCE, STUDY):  # names of files follow from them
            at = header.places[tag]
            row = self.person.plan.row(self.data[at : at + self.width])
            if tag not in self.written and row.kind not in (rows.DATA, rows.TEXT):
                raise Unsure
        if self.suspects:
            known = self.originals | self.engine.identities.source_uids
            originals = {uid.encode("utf-8", "surrogateescape") for uid in known}
            text = b"\n".join(value for is_text, value in self.suspects if is_text)
            others = b"\n".join(value for is_text, value in self.suspects if not is_text)
            if uids_in(text + b"\n" + others, originals) or stray_uids(text, originals):
                raise Unsure

    def _cut(self, end: int) -> Unsure:
        """An element reaches beyond its end: of the bytes at hand, or of what is around it."""
        return Cut() if end == len(self.data) else Unsure()

    def _tell(self, tag: int, vr: str, value: bytes) -> None:
        value = what_tells(tag, vr, value)
        if value:
            self.told.append((tag, vr, value))

    def _judge(self, tag: int, vr: str, value: bytes, charset: bytes | None = None) -> None:
        """Whether a kept value may stay; what may hold an UID is left to :meth:`check`.

        Raises:
            Unsure: it must not.
        """
        person = self.person
        if self.listen:
            return
        own = charset is None or charset == person.charset
        known = (tag, vr.encode() + value if tag >> 16 & 1 else value)  # of private ones the file says the VR
        if own and known in person.harmless:
            return
        if not person.leftovers.harmless(tag, vr, value, person.charset if charset is None else charset):
            raise Unsure
        if _MAY_BE_UID.search(value):
            self.suspects.append((vr in WORDS or (vr in SYMBOLS and not is_defined(tag, value)), value))
        elif own and len(value) <= SMALL:
            person.remembers(len(value))
            person.harmless.add(known)

    def _uid(self, pos: int, value: bytes, row: Row, plan: Rows, out: list[bytes]) -> None:
        person, unlisted = self.person, bool(row.needs)
        found = person.uids.get((value, unlisted))
        if found is None:
            person.remembers(len(value) * 3)
            person.task.originals = set()
            new = person.task.mapped(value, unlisted)
            if len(new) >= 0xFFFF:
                raise Unsure
            found = person.uids[value, unlisted] = (new + b"\0" * (len(new) & 1), person.task.originals)
        new, originals = found
        self.originals |= originals
        size = len(new)
        length = size.to_bytes(4, "little") if self.implicit else b"UI" + size.to_bytes(2, "little")
        out.append(self.data[pos : pos + 4] + length + new)
        if not plan.within:
            self.written[row.tag] = text(new)

    def _marks(self) -> tuple[int, int, int]:
        return len(self.counted), len(self.told), len(self.suspects)

    def _outcome(self, written: bytes, marks: tuple[int, int, int]) -> Outcome:
        counted, told, suspects = marks
        return Outcome(
            written, self.counted[counted:], self.told[told:], self.suspects[suspects:], self.originals
        )

    def _again(self, known: Outcome, out: list[bytes], stop: int) -> int:
        if known.written:
            out.append(known.written)
        self.counted += known.counted
        self.told += known.told
        self.suspects += known.suspects
        self.originals |= known.originals
        return stop

    def _charset(self, span: Span, row: Row, plan: Rows, out: list[bytes]) -> int:
        stop = span.at + span.length
        value = self.data[span.at : stop]
        if span.length & 1:
            raise Unsure
        if not plan.within:
            self.charset = value
        elif value and value != self.person.charset and not self.listen:
            raise Unsure
        self._judge(row.tag, row.vr, value)
        out.append(self.data[span.pos : stop])
        return stop

    def _group(self, pos: int, end: int, plan: Rows) -> tuple[list[Element], int]:
        """All elements of a private group: their creators stand among them."""
        data, reader, group = self.data, self.reader, self.data[pos : pos + 2]
        elements: list[Element] = []
        while pos < end and data[pos : pos + 2] == group:
            if end - pos < 8:
                raise self._cut(end)
            _, number, length = reader.tag_long(reader.data, pos)
            tag = int.from_bytes(group, "little") << 16 | number
            if elements and tag <= elements[-1].tag:
                raise Unsure
            if not plan.within:
                self.header.places[tag] = pos
            try:
                pos, element = reader.element(pos, end, tag, length, len(plan.within))
            except UnreadableDicom:
                raise self._cut(end) from None
            elements.append(element)
        return elements, pos

    def _alone(self, span: Span, row: Row, plan: Rows, out: list[bytes]) -> int:
        """One element by the exact engine."""
        pos, _, _, end = span
        _, _, length = self.reader.tag_long(self.reader.data, pos)
        try:
            stop, element = self.reader.element(pos, end, row.tag, length, len(plan.within))
        except UnreadableDicom:
            raise self._cut(end) from None
        now = Now(row.place, self.engine.step(row.place), self.person.charset)

        def done(elements: list[Element], *_: object) -> list[Element]:
            return [new for e in elements if (new := self.person.task.done(e, now)) is not None]

        self._exact(done, [element], plan, out)
        return stop

    def _references(self, span: Span, row: Row, out: list[bytes]) -> int:
        """References of the usual form, class and instance each; where they end.

        See ``stand_ins.reference_items``. -1 for all others, with which nothing is done: the exact engine has
        to read them.
        """
        data, (pos, at, length, _) = self.data, span
        task, new, found = self.person.task, list[bytes](), list[bytes]()
        stop = at + length
        while at < stop:
            inner, size = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
            end, value = inner + size, inner + 8 + int.from_bytes(data[inner + 6 : inner + 8], "little")
            begin = value + 8
            if (
                end > stop
                or begin > end
                or value & 1 != inner & 1
                or data[at : at + 4] != b"\xfe\xff\x00\xe0"
                or data[inner : inner + 6] != b"\x08\0\x50\x11UI"
                or data[value : value + 6] != b"\x08\0\x55\x11UI"
                or begin + int.from_bytes(data[value + 6 : begin], "little") != end
            ):
                return -1
            found.append(data[begin:end])
            new.append(data[inner:value])
            at = end
        if self.listen:
            return stop
        task.originals = self.originals
        total, made = 0, list[bytes]()
        for original, first in zip(found, new, strict=True):
            uid = task.reference(original)
            self._judge(0x00081150, "UI", first[8:])
            self._judge(0x00081155, "UI", uid)
            uid += b"\0" * (len(uid) & 1)
            size = len(first) + 8 + len(uid)
            head = b"\xfe\xff\x00\xe0" + size.to_bytes(4, "little")
            made += (head, first, b"\x08\0\x55\x11UI", len(uid).to_bytes(2, "little"), uid)
            total += size + 8
        out.append(data[pos : pos + 8] + total.to_bytes(4, "little"))
        out += made
        self.counted.append((counted_name(row.tag), "U*"))
        return stop

    def _exact(
        self, work: Callable[..., list[Element]], elements: list[Element], plan: Rows, out: list[bytes]
    ) -> None:
        task, charset = self.person.task, self.person.charset
        if self.listen:
            for tag, vr, value, _ in source_values(elements, plan.keeps, charset, plan.within):
                self._tell(tag, vr, value)
            return
        task.tally, task.originals = Tally(), self.originals
        try:
            made = work(elements, plan.within, charset)
        except (UnreadableDicom, RefusedDicom):
            raise Unsure from None  # the exact way says it with the right words
        for tag, vr, value, own in source_values(elements, plan.keeps, charset, plan.within):
            if own != charset:
                raise Unsure
            self._tell(tag, vr, value)
        for tag, vr, value, own in kept_values(made, charset):
            self._judge(tag, vr, value, own)
        actions, named = task.tally.actions, task.tally.tags
        self.counted += named.elements()
        if sum(actions.values()) != sum(named.values()):  # some are counted without an attribute
            more = actions - Counter(action for _, action in named.elements())
            self.counted += [("", action) for action in more.elements()]
        out.append(written(made, self.implicit, True))
