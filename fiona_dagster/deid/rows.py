"""What the fast way (``rewriting``) does with an element, by its first bytes: the profile's answers.

A row says everything that does not depend on the value. It is made when a tag and VR are met for the first
time in a place, and remembered for all objects of the IOD.
"""

from __future__ import annotations

from typing import NamedTuple

from fiona_dagster.deid.binary_numbers import WIDE_NUMBERS
from fiona_dagster.deid.conditions import DEPENDENT, NEVER_EMPTY
from fiona_dagster.deid.elements import LONG, PIXELS, SHORT, Element
from fiona_dagster.deid.encoding import written
from fiona_dagster.deid.engine import Engine
from fiona_dagster.deid.identities import dummy
from fiona_dagster.deid.learned import tells
from fiona_dagster.deid.leftovers import CHARACTER_SET, MOMENTS, NUMBERS, SYMBOLS, WORDS
from fiona_dagster.deid.pixels import USUAL_VRS
from fiona_dagster.deid.plan import REMOVED, Place, Step
from fiona_dagster.deid.tally import UNCOUNTED, counted_name
from fiona_dagster.dicom.dictionary import dictionary_vr

TEXT, DATA, DROP, CONSTANT, UID, SEQUENCE, PIXEL, EXACT, PRIVATE, CHARSET = range(10)
"""Kept and searched as text, kept and searched for UIDs, removed, replaced by fixed bytes or by mapped UIDs,
treated item by item, the pixel data, treated by the exact engine alone or as a group, the character set."""
REFERENCES = "references"
"""What elements need that are references to instances in their usual form."""
REMEMBERED = 20_000
"""Rows, values and outcomes that are remembered before all are forgotten; hostile files hold any number."""
PLACES = 2000
"""Sequences within sequences of an IOD whose rows are made; objects with more go the exact way."""
LEAST_UID = 7
"""Bytes of the shortest UID that is looked for (1.2.3.4)."""
_WHOLE = DEPENDENT | {0x00420011, 0x00420015, 0x7FE00001, 0x7FE00002, 0x7FE00003}
"""Depend on other elements, like a document and its length, or extended offset tables."""

Counted = tuple[str, str]
"""Name of the attribute ("" without one) and action."""


class Unsure(Exception):
    """The exact way has to decide."""


class Cut(Unsure):
    """The bytes at hand end too early."""


class Row(NamedTuple):
    """What is done with an element.

    Attributes:
        tag: group and element.
        kind: one of the numbers above.
        long: its length has four bytes (explicit VR).
        needs: what the kind needs: fixed bytes, a step, ...
        counted: what the report counts, if anything.
        told: VR under which terms are taken from its value; "" if none are.
        vr: VR by which a kept value is searched.
        place: where it stands.
    """

    tag: int
    kind: int
    long: bool
    needs: object
    counted: Counted | None
    told: str
    vr: str
    place: Place


class Rows:
    """The rows of one place: the top level of an IOD, or the items of a sequence.

    Args:
        engine: answers.
        iod: see ``plan.Place``.
        implicit: implicit VR.
        within: tags of the sequences around.
        outer: the rows of the data set around.

    Attributes:
        unlike: by tag, how many sequences in a row came that were not there before.
    """

    def __init__(
        self,
        engine: Engine,
        iod: int | None,
        implicit: bool,
        within: tuple[int, ...] = (),
        outer: Rows | None = None,
    ) -> None:
        self.engine, self.iod, self.implicit, self.within = engine, iod, implicit, within
        self.found: dict[bytes, Row] = {}
        self._places: list[int] = [0] if outer is None else outer._places
        self._inner: dict[int, Rows] = {}
        self.unlike: dict[int, int] = {}

    def keeps(self, tag: int, vr: str, within: tuple[int, ...]) -> bool:
        """See ``leftovers.source_values``."""
        return self.engine.keeps(tag, vr, within, self.iod)

    def inside(self, tag: int) -> Rows:
        """The rows of a sequence's items.

        Raises:
            Unsure: there are more places than any real objects have.
        """
        inner = self._inner.get(tag)
        if inner is None:
            if self._places[0] >= PLACES:
                raise Unsure
            self._places[0] += 1
            inner = self._inner[tag] = Rows(self.engine, self.iod, self.implicit, (*self.within, tag), self)
        return inner

    def row(self, key: bytes) -> Row:
        """The row for the first bytes of an element, see :meth:`make`."""
        return self.found.get(key) or self.make(key)

    def make(self, key: bytes) -> Row:
        """The row for the first bytes of an element: tag and VR, or the tag alone in implicit VR.

        Raises:
            Unsure: no element of a known VR, or a character set or pixel data of an unusual one.
        """
        tag = int.from_bytes(key[:2], "little") << 16 | int.from_bytes(key[2:4], "little")
        known = dictionary_vr(tag)
        code = known.encode() or b"UN" if self.implicit else key[4:6]
        if not tag or tag >> 16 == 0xFFFE or tag in _WHOLE or (code not in LONG and code not in SHORT):
            raise Unsure
        vr = code.decode()
        if len(self.found) >= REMEMBERED:
            self.found.clear()
        row = self.found[key] = self._row(tag, vr, known if known and vr == "UN" else vr, code in LONG)
        return row

    def _row(self, tag: int, vr: str, vr_now: str, long: bool) -> Row:
        engine, place = self.engine, Place(tag, vr_now, self.within, self.iod)
        keeps = engine.keeps(tag, vr, self.within, self.iod)
        told = vr if tells(tag, vr) and not keeps else ""
        if tag >> 16 & 1:
            gone = engine.profile.drops_private
            return Row(
                tag, DROP if gone else PRIVATE, long, None, (counted_name(tag), "private"), told, vr, place
            )
        step = engine.step(place)
        kind, needs = self._kind(tag, vr, place, step)
        counted = None if step.action in UNCOUNTED or kind == EXACT else (counted_name(tag), step.action)
        judged = dictionary_vr(tag) or vr
        if tag == CHARACTER_SET:
            if kind != TEXT:
                raise Unsure
            kind = CHARSET
        usual = kind == PIXEL and (self.implicit or vr in USUAL_VRS)
        if tag in PIXELS and not self.within and not usual:
            raise Unsure
        return Row(tag, kind, long, needs, counted, told, judged, place)

    def _kind(self, tag: int, vr: str, place: Place, step: Step) -> tuple[int, object]:
        action, sequence = step.action, "SQ" in (vr, place.vr, dictionary_vr(tag))
        if step.work is not None:
            return EXACT, None
        if action in REMOVED:
            return (EXACT if sequence and not self.engine.opaque(tag) else DROP), None
        if action == "sequence" and vr == "SQ" and tag not in NEVER_EMPTY:
            return SEQUENCE, self.inside(tag)
        if action == "pixels" and not self.within and tag in PIXELS:
            return PIXEL, None
        if action in ("U", "uid") and vr == "UI":
            return UID, action == "uid"
        ours = dictionary_vr(tag) or vr
        if action in ("Z", "D") and not sequence and not (action == "D" and ours == "UI"):
            made = Element(tag, ours, b"" if action == "Z" else dummy(ours))
            return CONSTANT, written([made], self.implicit, True)
        if action == "keep" and not sequence and (vr == dictionary_vr(tag) or self.implicit):
            judged = dictionary_vr(tag) or vr
            searched = judged in WORDS or judged in SYMBOLS or judged in NUMBERS or judged in MOMENTS
            return (TEXT, None) if searched else (DATA, 0 if judged in WIDE_NUMBERS else LEAST_UID)
        usual = action == "U*" and vr == "SQ" and not self.implicit and not self.engine.opaque(tag)
        return EXACT, REFERENCES if usual else None
