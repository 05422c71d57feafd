"""The distinct headers of a series, as far as rules can look at them.

The ledger keeps them, so that other rules can be tried on everything that arrived without reading a file.

Nothing that may identify a person, a visit or a place is kept, and nothing that differs from image to image
unless the rules in force look at it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pydicom.datadict import tag_for_keyword

from fiona_dagster.studies.attributes import CSA_KEYS, RECORD_TAGS, tag_of_name
from fiona_dagster.studies.explain import is_identifying
from fiona_dagster.studies.header import PIXEL_REPRESENTATION, SPECIFIC_CHARACTER_SET, InstanceHeader
from fiona_dagster.studies.model import RuleSet, named_values
from fiona_dagster.studies.predicates import Reference

USEFUL = (
    *("Modality", "SOPClassUID", "ImageType", "Manufacturer", "ManufacturerModelName", "SoftwareVersions"),
    *("SeriesDescription", "ProtocolName", "BodyPartExamined", "PatientPosition", "ScanningSequence"),
    *("SequenceVariant", "ScanOptions", "MRAcquisitionType", "SequenceName", "AngioFlag", "SliceThickness"),
    *("RepetitionTime", "EchoTime", "InversionTime", "NumberOfAverages", "EchoTrainLength", "FlipAngle"),
    *("MagneticFieldStrength", "SpacingBetweenSlices", "NumberOfPhaseEncodingSteps", "AcquisitionMatrix"),
    *("InPlanePhaseEncodingDirection", "ReceiveCoilName", "DiffusionBValue", "ImageOrientationPatient"),
    *(
        "NumberOfTemporalPositions",
        "ImagesInAcquisition",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "PixelSpacing",
    ),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BurnedInAnnotation", "KVP"),
    *("ContrastBolusAgent", "ConvolutionKernel", "CorrectedImage", "ReconstructionMethod", "Units"),
    *("SeriesType", "ViewPosition", "Laterality", "PresentationIntentType", "ConversionType"),
)
"""What rules are written about; kept whatever the rules in force look at."""
PRIVATE = (
    "AcquisitionLength",
    "Slices",
    "SequenceType",
    "PulseSequenceName",
    "ActiveCoils",
    "Private0019_105a",
)
VENDOR_NAMES = ("NumSlices", "PhaseEncodingDirectionPositive", "OSLevel")
_NOT_KEPT = ("siemensUUID", "siemensDiffusionInformation")
SERIES_NAMES = ("ClassifyType", "NumFiles", "IncomingConnection")
FRAMES = "frames"
"""Part of a cover: every kind of frame is kept, which was not always so."""
MOST = 256
"""A series with more distinct headers is read from its files when other rules are tried."""


def useful_tags() -> frozenset[int]:
    """Tags that are kept for rules of the future."""
    named = [tag_for_keyword(keyword) for keyword in USEFUL]
    return frozenset([*(tag for tag in named if tag is not None), *(RECORD_TAGS[name] for name in PRIVATE)])


def cover_of(rules: RuleSet) -> tuple[str, ...]:
    """What the variants of a series hold that is stored under these rules: tags in hexadecimal, and names."""
    tags = {
        tag
        for tag in useful_tags() | rules.tags
        if not is_identifying(Reference("", tag))
        and tag not in (SPECIFIC_CHARACTER_SET, PIXEL_REPRESENTATION)
    }
    names = {
        *VENDOR_NAMES,
        *(name for name in named_values(rules) if name in CSA_KEYS and name not in _NOT_KEPT),
    }
    return (*(f"{tag:08x}" for tag in sorted(tags)), *sorted(names), FRAMES)


def is_covered(rules: RuleSet, cover: Collection[str]) -> bool:
    """Whether variants that were stored so are all that these rules look at."""
    tags = all(f"{tag:08x}" in cover for tag in rules.tags)
    names = set(named_values(rules)) - set(SERIES_NAMES)
    return (
        FRAMES in cover
        and tags
        and all(name in cover for name in names if name in CSA_KEYS or name == "OSLevel")
    )


def variants_of(instances: Iterable[InstanceHeader], cover: Sequence[str]) -> bytes | None:
    """The distinct headers (and frames) of a series, compressed; ``None`` if there are too many.

    Args:
        instances: of one series.
        cover: see :func:`cover_of`.
    """
    tags = [
        int(each, 16)
        for each in cover
        if len(each) == 8 and tag_of_name(each) is None and each not in CSA_KEYS
    ]
    names = [each for each in cover if each in CSA_KEYS or each == "OSLevel"]
    found: dict[str, None] = {}
    for instance in instances:
        for _, header in instance.frames():
            found.setdefault(_packed(header, tags, names))
            if len(found) > MOST:
                return None
    return zlib.compress(("[" + ",".join(sorted(found)) + "]").encode("ascii"), 9)


def _packed(header: InstanceHeader, tags: Iterable[int], names: Iterable[str]) -> str:
    elements = {}
    for tag in (SPECIFIC_CHARACTER_SET, *tags):
        if tag in header.elements:
            elements[f"{tag:x}"] = [header.vr(tag), header.elements[tag][1].decode("latin-1")]
    vendor = header.vendor
    said = {name: vendor[name] for name in names if name in vendor}
    return json.dumps([elements, said, int(header.big)], sort_keys=True, separators=(",", ":"))


def headers_of(variants: bytes) -> list[InstanceHeader]:
    """The headers again, without files."""
    found = []
    for elements, vendor, big in json.loads(zlib.decompress(variants)):
        header = InstanceHeader(Path(), big=bool(big))
        header.elements = {int(tag, 16): (vr, data.encode("latin-1")) for tag, (vr, data) in elements.items()}
        header.say({name: tuple(each) if isinstance(each, list) else each for name, each in vendor.items()})
        found.append(header)
    return found
