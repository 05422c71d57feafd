"""Between rules and engine: what is to be done with an element, and why.

A profile answers :meth:`Rules.step` for a :class:`Place` with a :class:`Step`. The answer depends on the
place alone, so the engine asks once and remembers it for all objects of the same IOD. What depends on the
value, on the object or on the person is :attr:`Step.work`: it gets the element and a :class:`Context`, and
gives the element that is written, or ``None`` to remove it. What a step keeps is still searched for what
identified the person (``leftovers``).

Actions that the engine knows without ``work`` (the report counts elements by action):

=============  ==================================================================================
``X``          removed; also ``private`` and ``unknown``, which the report tells apart
``Z``          zero length; a sequence without items
``D``          dummy value of the VR; a sequence by ``stand_ins``, Content Sequence by ``content``
``U``          every UID replaced that is not the standard's own
``uid``        likewise, but UIDs of the standard's root stay (attributes that the table does not list)
``U*``         a sequence of references: UIDs replaced, nothing else kept
``C``          a date or time moved; what can't be moved is treated by ``Step.otherwise``
``keep``       kept if its VR is the dictionary's
``sequence``   kept, its items treated one by one
``pixels``     pixel data: the picture alone
=============  ==================================================================================

Any other action (``clean``, ``replace``, ``hash``, ...) needs ``work``. Private creators (gggg,00xx) follow
their blocks: they stay where an element of the block stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fiona_dagster.deid.elements import Element
from fiona_dagster.deid.identities import Identities
from fiona_dagster.deid.terms import Terms

REMOVED = frozenset(("X", "private", "unknown"))
"""Actions that need no look at the value."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element stands.

    Attributes:
        tag: group and element.
        vr: the VR that counts: the dictionary's where the file says none or UN.
        within: tags of the sequences around it, outermost first.
        iod: number of the IOD (``profile.iod_of``), ``None`` if it is not known.
        creator: private creator of the block of a private element, "" where none reserved it.
    """

    tag: int
    vr: str
    within: tuple[int, ...] = ()
    iod: int | None = None
    creator: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """What a :attr:`Step.work` may need besides the element.

    Attributes:
        place: where it stands.
        charset: Specific Character Set in force, as it stands in the file.
        little: byte order of the values is little endian.
        identities: new UIDs, shifted dates.
        map_uid: the UID in place of another; also tells the engine that the other one must not stay anywhere.
        terms: what identified the person of this object.
    """

    place: Place
    charset: bytes
    little: bool
    identities: Identities
    map_uid: Callable[[str], str]
    terms: Terms


Work = Callable[[Element, Context], Element | None]


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done with an element.

    Attributes:
        action: see the module.
        reason: for people: the row of a table, an option, a rule of the project.
        otherwise: of ``C``: what is done with a value that can't be moved (X, Z or D).
        vr: of a private element, what its list says: written where the file says none or UN.
        work: does it.
    """

    action: str
    reason: str
    otherwise: str = "X"
    vr: str = ""
    work: Work | None = None


class Rules(Protocol):
    """What the engine asks of a profile."""

    def step(self, place: Place) -> Step:
        """What is to be done with an element at this place. Gives the same answer whenever it is asked."""

    def opaque(self, tag: int) -> bool:
        """Whether elements of this tag are removed wherever they stand, so that nobody looks into them."""
