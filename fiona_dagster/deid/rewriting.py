"""The fast way through the engine: the bytes of a header in, bytes out, nothing made for what stays.

For every tag and VR the profile is asked once (``rows``). Runs of elements that stay are copied at once.
What needs a look at its structure (references, dates, what a project's own rule works on) goes through the
exact engine by itself, and the outcome is remembered by its bytes, since most of a header repeats in every
slice. Kept values are searched for the person's terms as in ``leftovers``, each distinct value once.

The outcome is the very bytes that the exact way (``elements``, ``engine``, ``encoding``) gives; tests hold
that. At the first doubt (:class:`Unsure`: order, lengths, unknown VRs, a value that identifies) the object
goes the exact way as a whole. Explicit and implicit VR little endian only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from fiona_dagster.deid.assignment import Insertion
from fiona_dagster.deid.elements import IMPLICIT, PIXELS, DicomFile
from fiona_dagster.deid.encoding import written
from fiona_dagster.deid.engine import SOP_CLASS, STUDY, Engine, Task
from fiona_dagster.deid.identities import Told
from fiona_dagster.deid.leftovers import Leftovers
from fiona_dagster.deid.passage import BEHIND, Run
from fiona_dagster.deid.person import Header, Person
from fiona_dagster.deid.profile import iod_of
from fiona_dagster.deid.rows import Counted, Cut, Rows, Unsure
from fiona_dagster.deid.tally import Tally

_PEOPLE, _TALLIES = 8, 64
"""Of so many something is remembered before all are forgotten."""
_REPORTED = 1000
"""Changed elements of objects whose counts are remembered."""


@dataclass
class Rewritten:
    """A header after its treatment.

    Attributes:
        pieces: the new bytes up to the pixel data, assigned elements included.
        header: the original.
        written: new UIDs at the top level, by tag.
        counted: attribute and action of every element that was changed.
        pixels: where the element of the pixel data begins; -1 without any.
        told: what the object told of its person.
    """

    pieces: list[bytes]
    header: Header
    written: dict[int, str]
    counted: list[Counted]
    pixels: int
    told: frozenset[Told]


class _Source(NamedTuple):
    """Arguments of :meth:`Rewriter.rewrite`."""

    data: bytes
    start: int
    whole: bool
    syntax: str
    sop_class: str


class Rewriter:
    """Rewrites headers for one engine; remembers rows, people and outcomes.

    Args:
        engine: profile and identities.
        insertions: what is assigned to objects of a study (``None``: the exact way must write it).
    """

    def __init__(self, engine: Engine, insertions: Callable[[str], list[Insertion] | None]) -> None:
        self.engine, self._insertions = engine, insertions
        self._plans: dict[tuple[int | None, bool], Rows] = {}
        self._people: dict[tuple[object, ...], Person] = {}
        self._tallies: dict[tuple[Counted, ...], tuple[Counter[str], Counter[Counted]]] = {}
        self._last: Person | None = None

    def rewrite(self, data: bytes, start: int, whole: bool, syntax: str, sop_class: str) -> Rewritten:
        """Treats the data set that begins at ``start``.

        Args:
            data: the file's first bytes.
            start: where its data set begins.
            whole: these are all bytes of the file.
            syntax: transfer syntax, explicit or implicit VR little endian.
            sop_class: of the file meta information, for objects that do not say it themselves.

        Raises:
            Unsure: the exact way has to decide, or the header ends after these bytes.
        """
        source = _Source(data, start, whole, syntax, sop_class)
        person = self._last
        known = person is not None and person.task.implicit == (syntax == IMPLICIT)
        if person is None or not known:
            person = self._person((syntax == IMPLICIT, "", "", b""))
        try:
            run, pieces, key = self._pass(source, person, listen=not known)
        except Cut:
            raise
        except Unsure:  # as far as this person is concerned
            _, _, key = self._pass(source, person, listen=True)
            if key == person.key:
                raise
        if key != person.key or not known:
            self._last = person = self._person(key)
            run, pieces, key = self._pass(source, person)
            if key != person.key:
                raise Unsure
        run.check()
        run.learn()
        return Rewritten(pieces, run.header, run.written, run.counted, run.pixels, person.told)

    def tally(self, made: Rewritten) -> Tally:
        """What was done, counted; its ``tags`` are shared by all objects of which that is the same."""
        if len(made.counted) > _REPORTED:
            return Tally(*_counted(made.counted))
        key = tuple(made.counted)
        known = self._tallies.get(key)
        if known is None:
            if len(self._tallies) >= _TALLIES:
                self._tallies.clear()
            known = self._tallies[key] = _counted(made.counted)
        actions, tags = known
        return Tally(actions.copy(), tags)

    def forget(self) -> None:
        """Forgets what was learned of people: there is more to be known of them now, or less."""
        self._people.clear()
        self._last = None

    def _pass(
        self, source: _Source, person: Person, *, listen: bool = False
    ) -> tuple[Run, list[bytes], tuple[object, ...]]:
        """One pass for a person; the key of the person that it should have been for comes last."""
        self.engine.identities.begin(str(person.key[2]))
        run = Run(self.engine, person, source.data, source.syntax, listen=listen)
        pieces = run.top(source.start, source.whole)
        header = run.header
        header.sop_class = header.text(SOP_CLASS) or source.sop_class
        return (
            run,
            pieces,
            (header.implicit, header.sop_class, header.text(STUDY), run.charset, *run.told),
        )

    def _person(self, key: tuple[object, ...]) -> Person:
        found = self._people.get(key)
        if found is None:
            if len(self._people) >= _PEOPLE:
                self._people.clear()
            found = self._people[key] = self._new_person(key)
        return found

    def _new_person(self, key: tuple[object, ...]) -> Person:
        implicit, sop_class, study, charset, *told = key
        assert isinstance(sop_class, str) and isinstance(study, str) and isinstance(charset, bytes)  # noqa: S101, PT018
        values = [(*each, charset) for each in told]  # type: ignore[misc]
        terms = self.engine.terms(values, study)
        assigned = self._insertions(study)
        if assigned is None or any(each.element.tag >= min(PIXELS) for each in assigned):
            raise Unsure
        inserted = [
            (each.element.tag, written([each.element], bool(implicit), True), each.unless)
            for each in assigned
        ]
        iod = iod_of(sop_class)
        plan = self._plans.setdefault((iod, bool(implicit)), Rows(self.engine, iod, bool(implicit)))
        nothing = DicomFile(IMPLICIT if implicit else "", [], sop_class)
        task = Task(self.engine, nothing, iod, terms)
        leftovers = Leftovers(terms, set(), self.engine.identities.uid, creators=self.engine.creators)
        all_inserted = [*inserted, (BEHIND, b"", "")]
        return Person(key, charset, leftovers, task, all_inserted, plan, frozenset(values))


def _counted(counted: list[Counted]) -> tuple[Counter[str], Counter[Counted]]:
    """Actions, and attributes with actions, of which those without a name are left out."""
    actions: dict[str, int] = {}  # a Counter is slow where a key is new
    tags = Counter(counted)
    for (_, action), number in tags.items():
        actions[action] = actions.get(action, 0) + number
    for without_name in [key for key in tags if not key[0]]:
        del tags[without_name]
    return Counter(actions), tags
