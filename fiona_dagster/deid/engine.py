"""Carries out the profile on one object: bytes in, bytes out.

Belongs here: actions at every depth, UN values. Stays out: which action (``profile`` answers; ``plan`` says
how), what stands in for a sequence (``stand_ins``, ``content``), what the request assigns (``assignment``),
files (``deidentify``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from fiona_dagster.deid import conditions, pixels
from fiona_dagster.deid.content import ContentCleaner
from fiona_dagster.deid.elements import (
    TEXT,
    DicomFile,
    Element,
    Value,
    may_be,
    name_of,
    parse_implicit_items,
    text,
)
from fiona_dagster.deid.identities import Identities, Told, dummy, is_well_known
from fiona_dagster.deid.leftovers import Leftovers, charset_of, source_values
from fiona_dagster.deid.plan import REMOVED, Context, Place, Step
from fiona_dagster.deid.profile import CONTENT_SEQUENCE, Profile, iod_of
from fiona_dagster.deid.stand_ins import (
    DOCUMENT,
    dummy_document,
    dummy_items,
    fit_document_length,
    reference_items,
)
from fiona_dagster.deid.tally import UNCOUNTED, Tally
from fiona_dagster.deid.terms import Terms
from fiona_dagster.dicom.dictionary import dictionary_vr
from fiona_dagster.dicom.walker import MAX_DEPTH
from fiona_dagster.errors import RefusedDicom

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
REMEMBERED = 20_000
"""Answers of the profile that are kept; hostile files hold any number of tags."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(value: str) -> bool:
    """PS3.5 9.1, as far as names of files depend on it."""
    return bool(_UID.fullmatch(value)) and len(value) <= 64


class Engine:
    """The profile with the identities of one participant; knows nothing of files.

    Args:
        profile: what to do.
        identities: new UIDs and shifted dates.
        exempt: words that the request assigns, folded.

    Attributes:
        studies: what all objects of a study tell, and the terms that follow, by original Study Instance UID.
    """

    def __init__(
        self, profile: Profile, identities: Identities, exempt: frozenset[str] = frozenset()
    ) -> None:
        self.profile = profile
        self.identities = identities
        self.exempt = exempt
        self.creators = profile.creators
        self.studies: dict[str, tuple[frozenset[Told], Terms]] = {}
        self._steps: dict[Place, Step] = {}
        self._opaque: dict[int, bool] = {}

    def step(self, place: Place) -> Step:
        """What the profile says for a place (remembered)."""
        found = self._steps.get(place)
        if found is None:
            if len(self._steps) >= REMEMBERED:
                self._steps.clear()
            found = self._steps[place] = self.profile.step(place)
        return found

    def keeps(self, tag: int, vr: str, within: tuple[int, ...], iod: int | None) -> bool:
        """Whether the rules keep an attribute as it is, so that its value need not go elsewhere either."""
        return self.step(Place(tag, vr, within, iod)).action == "keep"

    def known_terms(self) -> Terms:
        """Terms of the person as far as they are known before an object is looked at."""
        terms = Terms(exempt=self.exempt)
        terms.learn(self.identities.told)
        return terms

    def opaque(self, tag: int) -> bool:
        """Whether a sequence goes as a whole, so that nobody needs to look into it."""
        found = self._opaque.get(tag)
        if found is None:
            if len(self._opaque) >= REMEMBERED:
                self._opaque.clear()
            found = self._opaque[tag] = self.profile.opaque(tag)
        return found

    def clean(self, source: DicomFile) -> tuple[list[Element], Tally]:
        """The elements of an object that may stay, and what was done.

        Raises:
            RefusedDicom: no SOP class, or no usable UIDs, so that it can't be given new ones.
        """
        self.require_uids(source)
        terms = self.terms(self.told(source), text(source.find(STUDY).value))  # type: ignore[union-attr]
        task = Task(self, source, iod_of(source.sop_class), terms)
        elements = task.data_set(source.elements, (), b"")
        unmet = conditions.unmet(source.elements, elements)
        elements = [e for e in elements if e.tag not in unmet]
        for tag in unmet:
            task.tally.add("condition not met", tag)
        fit_document_length(elements, source.little)
        elements = pixels.fit_offset_tables(elements, task.images)
        originals = task.originals | self.identities.source_uids
        leftovers = Leftovers(terms, originals, self.identities.uid, source.little, self.creators)
        elements = leftovers.clean(elements)
        if leftovers.cleaned:
            task.tally.actions["identity in other attributes"] += leftovers.cleaned
        return elements, task.tally

    def require_uids(self, source: DicomFile) -> None:
        """An object needs a SOP class and UIDs, or it can't be given new ones.

        Raises:
            RefusedDicom: one of them is missing or none.
        """
        if source.sop_class == MEDIA_DIRECTORY:
            raise RefusedDicom("this is a DICOMDIR, the list of a medium; pass on the images that it names")
        if not is_uid(source.sop_class):
            raise RefusedDicom("SOP Class UID (0008,0016) is missing or is no UID; it is not passed on")
        for tag, name in ((SOP_INSTANCE, "SOP"), (STUDY, "Study"), (SERIES, "Series")):
            self._required(source, tag, f"{name} Instance UID")

    def told(self, source: DicomFile) -> list[Told]:
        """What an object tells of its person."""
        iod = iod_of(source.sop_class)
        values = source_values(source.elements, lambda tag, vr, within: self.keeps(tag, vr, within, iod))
        return [each for each in values if each[2]]

    def terms(self, told: Collection[Told], study: str) -> Terms:
        """Search terms for an object of a study that tells this."""
        known, of_all = self.studies.get(study, (frozenset(), None))
        if of_all is not None and known.issuperset(told):
            return of_all
        made = self.known_terms()
        made.learn((*told, *sorted(known)))
        return made

    def know(self, told: Mapping[str, Iterable[Told]]) -> None:
        """From now on objects are treated as if each told this, by original Study Instance UID."""
        self.studies = {}
        for study, values in told.items():
            terms = self.known_terms()
            terms.learn(sorted(values))
            self.studies[study] = frozenset(values), terms

    @staticmethod
    def _required(source: DicomFile, tag: int, name: str) -> None:
        element = source.find(tag)
        if not is_uid(text(element.value) if element else ""):
            raise RefusedDicom(f"{name} {name_of(tag)} is missing or is no UID; it is not passed on")


class Now(NamedTuple):
    """The element that is being treated: where it stands and what is to be done."""

    place: Place
    step: Step
    charset: bytes


def _creators(elements: list[Element]) -> dict[int, bytes]:
    """Private creators of a data set by the tag of their element, (gggg,0010) to (gggg,00FF)."""
    return {
        e.tag: bytes(e.value)
        for e in elements
        if e.tag >> 16 & 1 and 0x10 <= e.tag & 0xFFFF <= 0xFF and e.items is None
    }


def _vr_of_ours(element: Element) -> str:
    """The VR of a value that is put in place of another: the dictionary's, whatever the file says."""
    return dictionary_vr(element.tag) or ("SQ" if element.items is not None else element.vr)


class Task:
    """One object on its way through the engine."""

    def __init__(self, engine: Engine, source: DicomFile, iod: int | None, terms: Terms) -> None:
        self.engine, self.profile, self.identities = engine, engine.profile, engine.identities
        self.source, self.iod, self.terms = source, iod, terms
        self.implicit, self.little = source.implicit, source.little
        self.tally = Tally()
        self.originals: set[str] = set()
        self.images: list[tuple[int, int]] = []
        self._handlers: dict[str, Callable[[Element, Now], Element | None]] = {
            "U": self._uid,
            "uid": self._uid,
            "Z": self._empty,
            "D": self._dummy,
            "C": self._shift,
            "U*": self._references,
            "sequence": self._sequence,
            "keep": self._keep,
            "pixels": self._pixels,
        }

    def data_set(self, elements: list[Element], within: tuple[int, ...], charset: bytes) -> list[Element]:
        """The elements of a data set, or of a private group, that stay."""
        charset = charset_of(elements) or charset
        creators = _creators(elements)
        kept: list[Element] = []
        for element in elements:
            tag = element.tag
            if tag in creators:
                kept.append(Element(tag, "LO", element.value))  # until it is known whether its block stays
                continue
            creator = creators.get(tag >> 8 & 0xFF | tag & 0xFFFF0000, b"") if tag >> 16 & 1 else b""
            place = Place(tag, self._vr(element), within, self.iod, text(creator))
            new = self.done(element, Now(place, self.engine.step(place), charset))
            if new is not None:
                kept.append(new)
        return self._with_creators(kept, creators) if creators else kept

    def _with_creators(self, kept: list[Element], creators: dict[int, bytes]) -> list[Element]:
        """Private creators go with the last element of their block."""
        used = {e.tag >> 8 & 0xFF | e.tag & 0xFFFF0000 for e in kept if e.tag >> 16 & 1 and e.tag & 0xFF00}
        for tag in creators.keys() - used:
            self.tally.add("private", tag)
        return [e for e in kept if e.tag not in creators or e.tag in used]

    def done(self, element: Element, now: Now) -> Element | None:
        """The element after its step, counted; ``None``: it goes."""
        action, add = now.step.action, self.tally.add
        if action in REMOVED:
            add(action, element.tag)
            return None
        handler = self._work if now.step.work else self._handlers[action]
        new = handler(element, now)
        if new is None:
            add("not understood" if action in UNCOUNTED else "X", element.tag)
        elif action not in UNCOUNTED:
            add(action, element.tag)
        return new

    def _work(self, element: Element, now: Now) -> Element | None:
        work, vr = now.step.work, now.step.vr or now.place.vr
        if work is None:
            return None
        if vr == "SQ" or element.items is not None:
            items = self._looked_into(element, now.place.within)
            if items is None:
                return None
            element = Element(element.tag, "SQ", b"", items)
        elif element.vr != vr:
            element = Element(element.tag, vr, element.value)
        context = Context(now.place, now.charset, self.little, self.identities, self._map_one, self.terms)
        return work(element, context)

    def _vr(self, element: Element) -> str:
        """The VR to write: the dictionary's where the file says nothing or UN."""
        known = dictionary_vr(element.tag)
        return known if known and (self.implicit or element.vr == "UN") else element.vr

    def _uid(self, element: Element, now: Now) -> Element | None:
        if element.items is not None:
            return None
        return Element(element.tag, "UI", self.mapped(element.value, now.step.action == "uid"))

    def mapped(self, value: Value, unlisted: bool) -> bytes:
        """The UIDs in place of others; ``unlisted``: those below the standard's root stay."""
        uids = bytes(value).decode("utf-8", "surrogateescape").rstrip("\0 ").split("\\")
        return "\\".join(self._map_one(uid.strip(" \0"), unlisted) for uid in uids).encode()

    def reference(self, value: bytes) -> bytes:
        """The UID in place of that of an instance that is referred to."""
        return self._map_one(text(value)).encode()

    def _map_one(self, uid: str, unlisted: bool = False) -> str:
        if not uid or is_well_known(uid):
            return uid
        if unlisted and uid.startswith("1.2.840.10008.") and is_uid(uid):
            return uid  # newer than pydicom's list
        self.originals.add(uid)
        return self.identities.uid(uid)

    def _empty(self, element: Element, now: Now) -> Element:
        vr = _vr_of_ours(element)
        return Element(element.tag, vr, b"", [] if vr == "SQ" else None)

    def _dummy(self, element: Element, now: Now) -> Element:
        tag, vr = element.tag, _vr_of_ours(element)
        if tag == CONTENT_SEQUENCE:
            return self._content(element)
        if vr == "SQ":
            items = self._looked_into(element, now.place.within)
            stand_in = Element(tag, "SQ", b"", items or [])
            return Element(tag, "SQ", b"", dummy_items(stand_in, self._map_one, self.little))
        if vr == "UI":
            return Element(tag, vr, self.mapped(element.value, False) or self.mapped(b"removed", False))
        if tag == DOCUMENT:
            return dummy_document(self.source)
        return Element(tag, vr, dummy(vr))

    def _content(self, element: Element) -> Element:
        cleaner = ContentCleaner(self.profile, self.identities, self._map_one)
        made = Element(element.tag, "SQ", b"", cleaner.items(element))
        self.tally.actions["content item removed"] += cleaner.removed
        self.tally.actions["content item replaced"] += cleaner.replaced
        return made

    def _shift(self, element: Element, now: Now) -> Element | None:
        vr = self._vr(element)
        if element.items is None and vr in ("DA", "TM", "DT", "SH"):
            value = bytes(element.value).decode("ascii", "replace").rstrip("\0 ")
            if not value.strip():
                return Element(element.tag, vr)
            moved = self.identities.shifted(vr, value)
            if moved is not None:
                return Element(element.tag, vr, moved.encode())
        handler = self._handlers.get(now.step.otherwise)
        return handler(element, now) if handler else None

    def _references(self, element: Element, now: Now) -> Element | None:
        items = self._looked_into(element, now.place.within)
        if items is None:
            return None
        references = reference_items(Element(element.tag, "SQ", b"", items), self._map_one)
        return Element(element.tag, "SQ", b"", references)

    def _looked_into(self, element: Element, within: tuple[int, ...]) -> list[list[Element]] | None:
        """The items of a sequence, also of one that was sent as UN; ``None``: not understood."""
        if element.items is not None:
            return element.items if self.little or element.vr != "UN" else None
        if element.vr == "UN" and self.little:
            return parse_implicit_items(element.value, self.engine.opaque, len(within))
        return None

    def _sequence(self, element: Element, now: Now) -> Element | None:
        items = self._looked_into(element, now.place.within)
        if items is None:
            return None
        if len(now.place.within) >= MAX_DEPTH:
            raise RefusedDicom(f"sequences are nested deeper than {MAX_DEPTH}; it is not passed on")
        inner = (*now.place.within, element.tag)
        cleaned = ((self.data_set(item, inner, now.charset), item) for item in items)
        left = [new for new, old in cleaned if new or not old]
        if items and not left and element.tag in conditions.NEVER_EMPTY:
            return None
        return Element(element.tag, "SQ", b"", left)

    def _keep(self, element: Element, now: Now) -> Element | None:
        tag, vr, known = element.tag, element.vr, dictionary_vr(element.tag)
        if element.items is not None:
            return None  # a sequence where none belongs
        if tag >> 16 & 1:
            return self._keep_private(element, now.step.vr)
        if vr == known or self.implicit:
            return element
        if vr == "UN":
            return Element(tag, known, element.value) if may_be(element.value, known, self.little) else None
        if known == "SQ" or vr == "SQ" or (vr in TEXT) != (known in TEXT):
            return None  # the file's VR contradicts the dictionary
        return element

    def _keep_private(self, element: Element, known: str) -> Element | None:
        """A private element that the profile knows, with its VR where the file does not say it."""
        if element.vr != "UN" or not known:
            return element
        if known == "SQ" or not may_be(element.value, known, self.little):
            return None
        return Element(element.tag, known, element.value)

    def _pixels(self, element: Element, now: Now) -> Element | None:
        if now.place.within:
            return None  # pixels of icons and the like
        plain = self.little and self.source.transfer_syntax in pixels.NATIVE
        unusual = element.vr not in pixels.USUAL_VRS
        if element.items is not None or (unusual and not plain):
            raise RefusedDicom("the pixel data are no pixels, or in no order of bytes that is known")
        if unusual:
            element = replace(element, vr=pixels.VRS[element.tag])
        made = pixels.clean(element, self.source)
        self.images = made.images
        self.tally.unchecked = made.unchecked
        self.tally.actions.update(made.done)
        return made.element
