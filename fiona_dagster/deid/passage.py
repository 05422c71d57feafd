"""One pass over the bytes of a header, for one person (``rewriting`` says which, and why).

Belongs here: walking elements by their rows, what is remembered. Stays out: rows (``rows``), files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from fiona_dagster.deid import rows
from fiona_dagster.deid.defined import is_defined
from fiona_dagster.deid.elements import IMPLICIT, UNDEFINED, Element, Reader, text
from fiona_dagster.deid.encoding import written
from fiona_dagster.deid.engine import MEDIA_DIRECTORY, SERIES, SOP_INSTANCE, STUDY, Engine, Now, Tally, is_uid
from fiona_dagster.deid.leftovers import (
    SYMBOLS,
    WORDS,
    kept_values,
    source_values,
    stray_uids,
    uids_in,
    what_tells,
)
from fiona_dagster.deid.person import Header, Hint, Outcome, Person, Suspect
from fiona_dagster.deid.rows import Counted, Cut, Row, Rows, Unsure
from fiona_dagster.dicom.walker import MAX_DEPTH
from fiona_dagster.errors import RefusedDicom, UnreadableDicom

_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_RESERVED = b"\0\0"
_SMALL = 4096
"""Longer elements and values are not remembered."""
_MAY_BE_UID = re.compile(rb"[0-9]+(?:[._\-][0-9]+){3}")
BEHIND = 1 << 32
"""Greater than any tag."""
_TEXT, _DATA, _DROP, _CONSTANT = rows.TEXT, rows.DATA, rows.DROP, rows.CONSTANT
_UID, _SEQUENCE, _PIXEL, _EXACT = rows.UID, rows.SEQUENCE, rows.PIXEL, rows.EXACT


class _Span(NamedTuple):
    """Where an element begins, its value begins, its length, and where what is around it ends."""

    pos: int
    at: int
    length: int
    end: int


class Run:
    """One pass over one header."""

    def __init__(
        self, engine: Engine, person: Person, data: bytes, syntax: str, *, listen: bool = False
    ) -> None:
        self.engine, self.person, self.data, self.listen = engine, person, data, listen
        self.implicit = syntax == IMPLICIT
        self.width = 4 if self.implicit else 6
        self.reader = Reader(memoryview(data), engine.opaque, implicit=self.implicit)
        self.header = Header(data, self.reader, syntax)
        self.charset, self.pixels = b"", -1
        self.counted: list[Counted] = []
        self.told: list[Hint] = []
        self.suspects: list[Suspect] = []
        self.originals: set[str] = set()
        self.written: dict[int, str] = {}
        self._inserted = iter(person.inserted)
        self._upcoming = next(self._inserted)

    def top(self, start: int, whole: bool) -> list[bytes]:
        """The new bytes of everything before the pixel data, with what is assigned."""
        out: list[bytes] = []
        self._elements(start, len(self.data), self.person.plan, out, self._upcoming[0])
        if self.pixels < 0:
            if not whole:
                raise Cut
            self._insert(out, BEHIND)
        return out

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
            if tag not in self.written and row.kind != _DATA:
                raise Unsure
        if self.suspects:
            known = self.originals | self.engine.identities.source_uids
            originals = {uid.encode("utf-8", "surrogateescape") for uid in known}
            for is_text, value in self.suspects:
                if uids_in(value, originals) or (is_text and stray_uids(value, originals)):
                    raise Unsure

    def _elements(  # noqa: C901, PLR0912, PLR0915 - one loop: a call an element costs more than all in it
        self, pos: int, end: int, plan: Rows, out: list[bytes], upcoming: int = BEHIND
    ) -> int:
        """Treats elements up to ``end``, the delimiter of the item, or the pixel data; where it stopped.

        Args:
            pos: where the first element begins.
            end: of the data set or item; an item of undefined length ends before.
            plan: rows of this place.
            out: gets the new bytes.
            upcoming: tag of the next assigned element, behind all tags inside of sequences.
        """
        data, found, width, implicit = self.data, plan.found, self.width, self.implicit
        harmless, places = self.person.harmless, None if plan.within else self.header.places
        begin, last = pos, -1
        while pos < end:
            row = found.get(data[pos : pos + width])
            if row is None:
                if places is None and data[pos : pos + 4] == _ITEM_END:
                    break
                if end - pos < 8:
                    raise self._cut(end)
                row = plan.make(data[pos : pos + width])
            tag, kind, long, needs, counted, told, vr, _ = row
            if tag <= last:
                raise Unsure
            last = tag
            if places is not None:
                places[tag] = pos
                if tag >= upcoming or kind == _PIXEL:
                    if begin < pos:
                        out.append(data[begin:pos])
                    begin = pos = self._assign(pos, end, row, plan, out)
                    upcoming = self._upcoming[0]
                    if self.pixels >= 0:
                        return pos
                    if pos > places[tag]:
                        continue
            if implicit:
                at = pos + 8
                length = int.from_bytes(data[pos + 4 : at], "little")
            elif long:
                if data[pos + 6 : pos + 8] != _RESERVED:
                    raise self._cut(end) if pos + 8 > end else Unsure
                at = pos + 12
                length = int.from_bytes(data[pos + 8 : at], "little")
            else:
                at = pos + 8
                length = data[pos + 6] | data[pos + 7] << 8 if at <= end else UNDEFINED
            stop = at + length
            if stop > end:
                if length != UNDEFINED or at > end:
                    raise self._cut(end)
                if kind != _SEQUENCE:
                    kind = _EXACT
            if length & 1 and kind <= _DATA:
                raise Unsure  # it gets padding
            if told and kind != _EXACT and length <= 0x10000:
                self._tell(tag, told, data[at:stop])
            if kind == _TEXT:
                value = data[at:stop]
                if (tag, value) not in harmless:
                    self._judge(tag, vr, value)
                pos = stop
                continue
            if kind == _DATA:
                if length >= needs:  # type: ignore[operator]
                    value = data[at:stop]
                    if (tag, value) not in harmless:
                        self._judge(tag, vr, value)
                pos = stop
                continue
            if begin < pos:
                out.append(data[begin:pos])
            if kind == _DROP:
                pos = stop
            elif kind == _CONSTANT:
                out.append(needs)  # type: ignore[arg-type]
                pos = stop
            elif kind == _UID:
                self._uid(pos, data[at:stop], row, plan, out)
                pos = stop
            else:
                pos = self._structured(_Span(pos, at, length, end), row, kind, plan, out)
                counted = None
            if counted:
                self.counted.append(counted)
            begin = pos
        if begin < pos:
            out.append(data[begin:pos])
        return pos

    def _cut(self, end: int) -> Unsure:
        """An element reaches beyond its end: of the bytes at hand, or of what is around it."""
        return Cut() if end == len(self.data) else Unsure()

    def _insert(self, out: list[bytes], before: int) -> None:
        while self._upcoming[0] < before:
            out.append(self._upcoming[1])
            self._upcoming = next(self._inserted)

    def _assign(self, pos: int, end: int, row: Row, plan: Rows, out: list[bytes]) -> int:
        """Writes what is assigned up to this element, in its place too; where to go on."""
        self._insert(out, row.tag)
        if row.kind == _PIXEL:
            self.pixels = pos
            return pos
        tag, written, unless = self._upcoming
        if tag != row.tag:
            return pos
        head = 12 if row.long and not self.implicit else 8
        size = 2 if head == 8 and not self.implicit else 4
        length = int.from_bytes(self.data[pos + head - size : pos + head], "little")
        if length == UNDEFINED or (unless and row.kind == _EXACT):  # its own header may change
            raise Unsure
        stop = pos + head + length
        if stop > end:
            raise self._cut(end)
        there: list[bytes] = []
        self._elements(pos, stop, plan, there)
        size = sum(map(len, there))  # of what became of the element that is there
        stays = (unless == "there" and size) or (unless == "value" and size > head)
        out += there if stays else [written]
        self._upcoming = next(self._inserted)
        return stop

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
        elif own and len(value) <= _SMALL:
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

    def _structured(self, span: _Span, row: Row, kind: int, plan: Rows, out: list[bytes]) -> int:
        """Elements whose outcome is remembered by their bytes; where they stop."""
        pos, at, length, end = span
        if kind == rows.CHARSET:
            return self._charset(span, row, plan, out)
        if kind == rows.PRIVATE:
            elements, stop = self._group(pos, end, plan)
        else:
            elements, stop = [], at + length
        key = None
        if stop <= end and stop - pos <= _SMALL and not self.listen:
            key = (id(plan), self.data[pos:stop])
            known = self.person.outcomes.get(key)
            if known is not None:
                return self._again(known, out, stop)
        marks, originals = self._marks(), self.originals
        made: list[bytes] = []
        self.originals = set()
        if kind == _SEQUENCE:
            stop = self._sequence(span, row, plan, made)
        elif elements:
            self._exact(self.person.task.data_set, elements, plan, made)
        else:
            stop = self._alone(span, row, plan, made)
        outcome = self._outcome(b"".join(made), marks)
        originals |= outcome.originals
        self.originals = originals
        if key is not None:
            self.person.remembers(len(key[1]) + len(outcome.written) + 100 * len(outcome.counted))
            self.person.outcomes[key] = outcome
        if outcome.written:
            out.append(outcome.written)
        return stop

    def _charset(self, span: _Span, row: Row, plan: Rows, out: list[bytes]) -> int:
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

    def _sequence(self, span: _Span, row: Row, plan: Rows, out: list[bytes]) -> int:
        """A sequence that stays, item by item; all lengths are written out."""
        data, (pos, at, length, end) = self.data, span
        if len(plan.within) + 2 > MAX_DEPTH or not isinstance(row.needs, Rows):
            raise Unsure
        stop = end if length == UNDEFINED else at + length
        pieces: list[bytes] = []
        while length == UNDEFINED or at < stop:
            if stop - at < 8:
                raise self._cut(stop)
            head, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
            at += 8
            if head == _SEQUENCE_END and length == UNDEFINED:
                break
            if head != _ITEM:
                raise Unsure
            item: list[bytes] = []
            begin, at = at, self._item(at, size, stop, row.needs, item)
            made = sum(map(len, item))
            if made or not size or data[begin : begin + 4] == _ITEM_END:
                pieces.append(_ITEM + made.to_bytes(4, "little"))
                pieces += item
        total = sum(map(len, pieces))
        out.append(data[pos : pos + 4] + (b"" if self.implicit else b"SQ\0\0") + total.to_bytes(4, "little"))
        out += pieces
        return at

    def _item(self, at: int, size: int, stop: int, plan: Rows, out: list[bytes]) -> int:
        if size == UNDEFINED:
            end = self._elements(at, stop, plan, out)
            if end + 8 > stop or self.data[end : end + 4] != _ITEM_END:
                raise self._cut(stop)
            return end + 8
        if at + size > stop:
            raise self._cut(stop)
        if self._elements(at, at + size, plan, out) != at + size:
            raise Unsure
        return at + size

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

    def _alone(self, span: _Span, row: Row, plan: Rows, out: list[bytes]) -> int:
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

    def _exact(
        self, work: Callable[..., list[Element]], elements: list[Element], plan: Rows, out: list[bytes]
    ) -> None:
        task, charset = self.person.task, self.person.charset
        task.tally, task.originals = Tally(), self.originals
        try:
            made = work(elements, plan.within, charset)
        except (UnreadableDicom, RefusedDicom):
            raise Unsure from None  # the exact way says it with the right words
        for tag, vr, value, own in source_values(elements, plan.keeps, charset, plan.within):
            if own != charset and not self.listen:
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
