"""Names of NIfTI files after the Brain Imaging Data Structure: folder, entities, suffix.

Belongs here: what a file is called, from assigned names, classified types and the acquisition. Stays out: its
bytes (``transfers.nifti``). The names are BIDS-like: which task was done or whether a map belongs to which
run is not in the headers, so a data set still needs a person before a BIDS validator is content.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fiona_dagster.errors import RequestRefused
from fiona_dagster.ledger import Transfer
from fiona_dagster.transfers.layout import safe_component

_LONGEST = 40
_FIELD_MAP = re.compile(r"ABCD-.*-FM(-(AP|PA))?")
_FUNCTIONAL = re.compile(r"ABCD-.*fMRI")
_QUALITY = re.compile(r"ABCD-.*-QA")
_CONTRASTS = (("FLAIR", "FLAIR"), ("T1", "T1w"), ("T2", "T2w"), ("ABCD-T1", "T1w"), ("ABCD-T2", "T2w"))


@dataclass(frozen=True)
class Session:
    """Where the files of a study stand, and how their names begin.

    Attributes:
        folder: ``<participant>/<event>``.
        stem: ``sub-…_ses-…``.
    """

    folder: str
    stem: str


@dataclass(frozen=True)
class Kind:
    """What an image is: the folder of its modality, and the suffix of its name.

    Attributes:
        folder: ``anat``, ``func``, ``dwi``, ``fmap``, ``perf`` or ``other``.
        suffix: as in ``…_T1w.nii.gz``.
    """

    folder: str
    suffix: str


def label(text: str) -> str:
    """What BIDS takes as the value of an entity: ASCII letters and digits."""
    return re.sub(r"[^A-Za-z0-9]+", "", text)[:_LONGEST]


def session_of(
    transfer: Transfer, others: Sequence[Transfer], derived: Collection[str] = frozenset()
) -> Session:
    """The session of a study. Studies of one project that would share one get the end of their UID.

    Args:
        transfer: of the study.
        others: every transfer of the project that counts; may hold ``transfer`` itself.
        derived: studies that were made of copies, and so share the session of another.

    Raises:
        RequestRefused: another participant has the same label, so that images of two would be mixed.
    """
    subject, folder = label(transfer.participant), safe_component(transfer.participant)
    alike = [
        each
        for each in others
        if each.id != transfer.id
        and (
            label(each.participant).lower() == subject.lower()
            or safe_component(each.participant).lower() == folder.lower()
        )
    ]
    if not subject or any(each.participant != transfer.participant for each in alike):
        raise RequestRefused(
            f"study {transfer.study}: in letters and digits alone, as BIDS has it, its participant has no "
            "name, or the name of another participant of the project; use the formats zip or tgz"
        )
    session, event = label(transfer.event), safe_component(transfer.event)
    sharing = any(
        label(each.event).lower() == session.lower() and each.study not in derived for each in alike
    )
    if sharing or transfer.study in derived:
        session += f"x{transfer.mapped_uid[-12:].replace('.', '')}"
    stem = f"sub-{subject}" + (f"_ses-{session}" if session else "")
    return Session("/".join(part for part in (folder, event) if part), stem)


def kind_of(types: Sequence[str], modality: str, sidecar: Mapping[str, Any], *, directions: bool) -> Kind:
    """Folder and suffix of an image.

    Args:
        types: that the site's rules gave its series.
        modality: Modality of the series.
        sidecar: the cleaned one.
        directions: whether dcm2niix wrote diffusion directions for it.
    """
    known = set(types)
    if modality != "MR" or "localizer" in known or any(map(_QUALITY.fullmatch, known)):
        return Kind("other", "localizer" if "localizer" in known else label(modality).lower() or "image")
    if "field map" in known or any(map(_FIELD_MAP.fullmatch, known)):
        return Kind("fmap", _field_map(sidecar))
    if directions or known & {"diffusion", "ABCD-DTI"}:  # maps made of it (ADC, FA) have no directions
        return Kind("dwi" if directions else "other", "dwi")
    if "perfusion" in known:
        return Kind("perf", "asl" if "ArterialSpinLabelingType" in sidecar else "perf")
    if "functional" in known or any(map(_FUNCTIONAL.fullmatch, known)):
        return Kind("func", "bold")
    if "angiography" in known:
        return Kind("anat", "angio")
    for type_, suffix in _CONTRASTS:
        if type_ in known:
            return Kind("anat", suffix)
    return Kind("other", "mr")


def _field_map(sidecar: Mapping[str, Any]) -> str:
    if "EP" in str(sidecar.get("ScanningSequence", "")).split("_"):
        return "epi"
    if part_of(sidecar) == "phase":
        return "phasediff"
    return f"magnitude{2 if sidecar.get('EchoNumber') == 2 else 1}"


def part_of(sidecar: Mapping[str, Any]) -> str:
    """``phase``, ``real`` or ``imag``, or ``""`` for magnitude and whatever else."""
    words = set(sidecar.get("ImageType", ()))
    for part, said in (("phase", {"P", "PHASE"}), ("real", {"R", "REAL"}), ("imag", {"I", "IMAGINARY"})):
        if words & said:
            return part
    return ""


def entities(kind: Kind, sidecar: Mapping[str, Any], *, echoes: bool, resampled: str) -> tuple[str, str]:
    """What stands before and behind ``run-`` in a name, each with ``_`` in front.

    Args:
        kind: of the image.
        sidecar: the cleaned one.
        echoes: whether its series has several echoes.
        resampled: what dcm2niix did with the image beyond converting (``eq``, ``tilteq``), or ``""``.
    """
    said = label(str(sidecar.get("SeriesDescription", "")))
    before, behind = "", ""
    if kind.folder == "func":
        before += f"_task-{said or 'unnamed'}"
    elif said:
        before += f"_acq-{said}"
    if resampled:
        before += f"_rec-{resampled}"
    direction = str(sidecar.get("PhaseEncodingDirection", ""))
    if kind.suffix == "epi" and direction:
        before += f"_dir-{direction.replace('-', 'neg')}"
    if echoes and "EchoNumber" in sidecar and kind.folder != "fmap":
        behind += f"_echo-{int(sidecar['EchoNumber'])}"
    if (part := part_of(sidecar)) and kind.folder != "fmap":
        behind += f"_part-{part}"
    return before, behind


class Runs:
    """Numbers what would have one name: series of a study by ``run-``, images of a series by ``chunk-``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._taken: Counter[str] = Counter()

    def names(self, images: Sequence[tuple[Kind, str, str]]) -> list[str]:
        """Names without ending, for the images of the next series.

        Args:
            images: kind, and what stands before and behind ``run-``, of each image.
        """
        keys = [
            "/".join((kind.folder, before, behind, kind.suffix)).lower() for kind, before, behind in images
        ]
        run = 1 + max((self._taken[key] for key in keys), default=0)
        several, seen, found = Counter(keys), Counter[str](), []
        for key, (kind, before, behind) in zip(keys, images, strict=True):
            self._taken[key] = run
            seen[key] += 1
            chunk = f"_chunk-{seen[key]}" if several[key] > 1 else ""
            name = f"{self._session.stem}{before}_run-{run:02d}{behind}{chunk}_{kind.suffix}"
            found.append(f"{self._session.folder}/{kind.folder}/{name}")
        return found
