"""One pass over the bytes of a header, for one person (``rewriting`` says which, and why).

Belongs here: walking elements by their rows. Stays out: rows (``rows``), what is found out on the way
(``notes``), files.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fiona_dagster.deid import rows
from fiona_dagster.deid.elements import UNDEFINED
from fiona_dagster.deid.engine import Engine
from fiona_dagster.deid.notes import SMALL, Notes, Span
from fiona_dagster.deid.person import Person
from fiona_dagster.deid.rows import Cut, Row, Rows, Unsure
from fiona_dagster.deid.stretches import Passed, Stretch
from fiona_dagster.dicom.walker import MAX_DEPTH

_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_RESERVED = b"\0\0"
BEHIND = 1 << 32
"""Greater than any tag."""
_TEXT, _DATA, _DROP, _CONSTANT = rows.TEXT, rows.DATA, rows.DROP, rows.CONSTANT
_UID, _SEQUENCE, _PIXEL, _EXACT = rows.UID, rows.SEQUENCE, rows.PIXEL, rows.EXACT
_NONE: Mapping[int, tuple[Stretch, ...]] = MappingProxyType({})
_UNLIKE = 200
"""After so many sequences in a row that were not there before, those of their place are not remembered."""


class Run(Notes):
    """One pass over one header."""

    def __init__(
        self, engine: Engine, person: Person, data: bytes, syntax: str, *, listen: bool = False
    ) -> None:
        super().__init__(engine, person, data, syntax, listen=listen)
        self.pixels = -1
        self.end = self._together = 0
        self._index, self._upcoming = 0, person.inserted[0]

    def top(self, start: int, whole: bool) -> list[bytes]:
        """The new bytes of everything before the pixel data, with what is assigned."""
        out: list[bytes] = []
        known = _NONE if self.listen else self.person.stretches.found
        self.end = self._elements(
            start, len(self.data), self.person.plan, out, self._upcoming[0], stretches=known
        )
        if self.pixels < 0:
            if not whole:
                raise Cut
            self._insert(out, BEHIND)
        return out

    def learn(self) -> None:
        """Remembers stretches of this header; for one whose copy is fit to be made."""
        person, places = self.person, self.header.places
        passed = Passed(self.data, places, self.end)
        person.stretches.learn(passed, len(places) - self._together, self._whole_groups, self._stretch)

    @property
    def _whole_groups(self) -> bool:
        return not self.engine.profile.drops_private

    def _stretch(self, begin: int, stop: int, before: int) -> Stretch:
        """What becomes of consecutive elements of the top level, by a pass over nothing else.

        Args:
            begin: where the first begins.
            stop: where the last ends.
            before: tag of the element before them.
        """
        person, made = self.person, list[bytes]()
        run = Run(self.engine, person, self.data, self.header.transfer_syntax)
        run.move(sum(tag <= before for tag, _, _ in person.inserted))
        index = run._index
        if run._elements(begin, stop, person.plan, made, run._upcoming[0]) != stop or run.pixels >= 0:
            raise AssertionError("a pass over known elements ends with them")
        places = run.header.places
        last = max(places)
        group = self.data[places[last] : places[last] + 2] if last >> 16 & 1 and self._whole_groups else b""
        return Stretch(
            self.data[begin:stop],
            index,
            run._index,
            last,
            group,
            tuple(places),
            tuple(place - begin for place in places.values()),
            run.charset,
            b"".join(made),
            run.counted,
            run.told,
            run.suspects,
            run.originals,
            run.written,
        )

    def _known(self, several: tuple[Stretch, ...], pos: int, out: list[bytes]) -> Stretch | None:
        """Whether a known stretch begins here; its outcome is taken over."""
        data = self.data
        for known in several:
            if data.startswith(known.data, pos) and known.before == self._index:
                stop = pos + len(known.data)
                if known.group and data[stop : stop + 2] == known.group:
                    continue
                break
        else:
            return None
        self.header.places.update(zip(known.tags, map(pos.__add__, known.offsets), strict=True))
        self._together += len(known.tags)
        self.move(known.after)
        self.charset = known.charset or self.charset
        self.counted += known.counted
        self.told += known.told
        self.suspects += known.suspects
        self.originals |= known.originals
        self.written.update(known.uids)
        if known.written:
            out.append(known.written)
        return known

    def move(self, index: int) -> None:
        """So many of the assigned elements are written."""
        self._index, self._upcoming = index, self.person.inserted[index]

    def _elements(  # noqa: C901, PLR0912, PLR0915 - one loop: a call an element costs more than all in it
        self,
        pos: int,
        end: int,
        plan: Rows,
        out: list[bytes],
        upcoming: int = BEHIND,
        *,
        stretches: Mapping[int, tuple[Stretch, ...]] = _NONE,
    ) -> int:
        """Treats elements up to ``end``, the delimiter of the item, or the pixel data; where it stopped.

        Args:
            pos: where the first element begins.
            end: of the data set or item; an item of undefined length ends before.
            plan: rows of this place.
            out: gets the new bytes.
            upcoming: tag of the next assigned element, behind all tags inside of sequences.
            stretches: known ones by first tag; at the top level, where nothing ends before ``data`` does.
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
                several = stretches.get(tag)
                if several is not None:
                    if begin < pos:
                        out.append(data[begin:pos])
                        begin = pos
                    known = self._known(several, pos, out)
                    if known is not None:
                        pos = begin = pos + len(known.data)
                        last, upcoming = known.last, self._upcoming[0]
                        continue
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
                pos = self._structured(Span(pos, at, length, end), row, kind, plan, out)
                counted = None
            if counted:
                self.counted.append(counted)
            begin = pos
        if begin < pos:
            out.append(data[begin:pos])
        return pos

    def _insert(self, out: list[bytes], before: int) -> None:
        while self._upcoming[0] < before:
            out.append(self._upcoming[1])
            self.move(self._index + 1)

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
        self.move(self._index + 1)
        return stop

    def _structured(self, span: Span, row: Row, kind: int, plan: Rows, out: list[bytes]) -> int:
        """Elements whose outcome is remembered by their bytes; where they stop."""
        pos, at, length, end = span
        if kind == rows.CHARSET:
            return self._charset(span, row, plan, out)
        if kind == rows.PRIVATE:
            elements, stop = self._group(pos, end, plan)
        elif self.listen or plan.unlike.get(row.tag, 0) > _UNLIKE:
            return self._treated(span, row, kind, plan, out)
        else:
            elements, stop = [], at + length
        key = None
        if stop <= end and stop - pos <= SMALL and not self.listen:
            key = (id(plan), self.data[pos:stop])
            known = self.person.outcomes.get(key)
            if known is not None:
                plan.unlike[row.tag] = 0
                return self._again(known, out, stop)
            plan.unlike[row.tag] = plan.unlike.get(row.tag, 0) + 1
        marks, originals = self._marks(), self.originals
        made: list[bytes] = []
        self.originals = set()
        if elements:
            self._exact(self.person.task.data_set, elements, plan, made)
        else:
            stop = self._treated(span, row, kind, plan, made)
        outcome = self._outcome(b"".join(made), marks)
        originals |= outcome.originals
        self.originals = originals
        if key is not None:
            self.person.remembers(len(key[1]) + len(outcome.written) + 100 * len(outcome.counted))
            self.person.outcomes[key] = outcome
        if outcome.written:
            out.append(outcome.written)
        return stop

    def _treated(self, span: Span, row: Row, kind: int, plan: Rows, out: list[bytes]) -> int:
        """An element of which nothing is remembered; where it stops."""
        if kind == _SEQUENCE:
            return self._sequence(span, row, plan, out)
        if row.needs is rows.REFERENCES and span.length != UNDEFINED:
            stop = self._references(span, row, out)
            if stop >= 0:
                return stop
        return self._alone(span, row, plan, out)

    def _sequence(self, span: Span, row: Row, plan: Rows, out: list[bytes]) -> int:
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
