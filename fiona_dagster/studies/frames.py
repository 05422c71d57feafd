"""Enhanced multi-frame objects: what their functional groups say, under the tags of classic objects.

Belongs here: which element counts as which. Stays out: collecting them frame by frame
(:mod:`~fiona_dagster.studies.multiframe`).

Sources: PS3.3 sections C.7.6.16, C.8.13 (MR), C.8.15 (CT), C.8.3.1 (the classic MR attributes).
"""

from __future__ import annotations

import struct

Stored = tuple[str, bytes]
"""VR and value of an element."""
SHARED, PER_FRAME = 0x52009229, 0x52009230

GROUPS: dict[tuple[int, int], int] = {
    (0x00189112, 0x00180080): 0x00180080,  # MR Timing: RepetitionTime
    (0x00189112, 0x00180091): 0x00180091,  # EchoTrainLength
    (0x00189112, 0x00181314): 0x00181314,  # FlipAngle
    (0x00189114, 0x00189082): 0x00180081,  # MR Echo: EffectiveEchoTime counts as EchoTime
    (0x00189115, 0x00189009): 0x00189009,  # MR Modifier: InversionRecovery
    (0x00189115, 0x00189010): 0x00189010,  # FlowCompensation
    (0x00189115, 0x00189016): 0x00189016,  # Spoiling
    (0x00189115, 0x00189021): 0x00189021,  # T2Preparation
    (0x00189115, 0x00189027): 0x00189027,  # SpatialPresaturation
    (0x00189115, 0x00189036): 0x00189036,  # PartialFourierDirection
    (0x00189115, 0x00189081): 0x00189081,  # PartialFourier
    (0x00189115, 0x00180082): 0x00180082,  # InversionTime
    (0x00189115, 0x00189079): 0x00180082,  # InversionTimes count as InversionTime
    (0x00189006, 0x00180095): 0x00180095,  # MR Imaging Modifier: PixelBandwidth
    (0x00189006, 0x00189020): 0x00189020,  # MagnetizationTransfer
    (0x00189226, 0x00089007): 0x00089007,  # MR Image Frame Type: FrameType
    (0x00189329, 0x00089007): 0x00089007,  # CT Image Frame Type
    (0x00189751, 0x00089007): 0x00089007,  # PET Frame Type
    (0x00209111, 0x00209128): 0x00209128,  # Frame Content: TemporalPositionIndex
    (0x00189117, 0x00189087): 0x00189087,  # MR Diffusion: DiffusionBValue
    (0x00189117, 0x00189075): 0x00189075,  # DiffusionDirectionality
    (0x00189076, 0x00189089): 0x00189089,  # DiffusionGradientOrientation
    (0x00189119, 0x00180083): 0x00180083,  # MR Averages: NumberOfAverages
    (0x00189125, 0x00181312): 0x00181312,  # MR FOV/Geometry: InPlanePhaseEncodingDirection
    (0x00189125, 0x00189058): 0x00189058,  # MRAcquisitionFrequencyEncodingSteps
    (0x00189125, 0x00189231): 0x00189231,  # MRAcquisitionPhaseEncodingStepsInPlane
    (0x00189042, 0x00181250): 0x00181250,  # ReceiveCoilName
    (0x00189049, 0x00181251): 0x00181251,  # TransmitCoilName
    (0x00289110, 0x00180050): 0x00180050,  # Pixel Measures: SliceThickness
    (0x00289110, 0x00180088): 0x00180088,  # SpacingBetweenSlices
    (0x00289110, 0x00280030): 0x00280030,  # PixelSpacing
    (0x00209113, 0x00200032): 0x00200032,  # Plane Position: ImagePositionPatient
    (0x00209116, 0x00200037): 0x00200037,  # Plane Orientation: ImageOrientationPatient
    (0x00289132, 0x00281050): 0x00281050,  # Frame VOI LUT: WindowCenter
    (0x00289132, 0x00281051): 0x00281051,  # WindowWidth
    (0x00289145, 0x00281052): 0x00281052,  # Pixel Value Transformation: RescaleIntercept
    (0x00289145, 0x00281053): 0x00281053,  # RescaleSlope
    (0x00289145, 0x00281054): 0x00281054,  # RescaleType
    (0x00189325, 0x00180060): 0x00180060,  # CT X-Ray Details: KVP
    (0x00189321, 0x00189328): 0x00181150,  # CT Exposure: ExposureTimeInms counts as ExposureTime
    (0x00189321, 0x00189330): 0x00181151,  # XRayTubeCurrentInmA counts as XRayTubeCurrent
    (0x00189314, 0x00181210): 0x00181210,  # CT Reconstruction: ConvolutionKernel
    (0x00189314, 0x00181100): 0x00181100,  # ReconstructionDiameter
    (0x00189304, 0x00181120): 0x00181120,  # CT Acquisition Details: GantryDetectorTilt
}
"""Sequence of the functional group and tag in it -> tag of classic objects."""
CONVERTED = (0x00209170, 0x00209171)
"""Unassigned converted attributes: classic elements as they are (PS3.3 section C.7.6.16.2.25)."""
_CLASSIC = frozenset(
    (
        *(0x00080008, 0x0008103E, 0x00180010, 0x00180020, 0x00180021, 0x00180022, 0x00180023, 0x00180024),
        *(0x00180025, 0x00180050, 0x00180060, 0x00180080, 0x00180081, 0x00180082, 0x00180087, 0x00180088),
        *(0x00180089, 0x00180091, 0x00180095, 0x00181030, 0x00181210, 0x00181310, 0x00181312, 0x00181314),
        *(0x00200012, 0x00200013, 0x00200032, 0x00200037, 0x00200105, 0x00201002, 0x00201041, 0x00280030),
    )
)
GROUPS.update({(sequence, tag): tag for sequence in CONVERTED for tag in _CLASSIC})


INNER = frozenset({0x00189076})
"""Sequences of this table that stand inside another functional group's sequence."""
SIEMENS: dict[str, dict[int, int]] = {
    "SIEMENS MR SDS 01": {0x5A: 0x00180020, 0x5B: 0x00180021, 0x5C: 0x00180022},
    "SIEMENS MR SDI 02": {0x4F: 0x0051100F},
}
"""Creator in an item of group 0021 -> last byte of the element -> classic tag, as XA software says it."""
_DECIMAL = frozenset((0x00180081, 0x00180082, 0x00181150, 0x00181151))
"""Tags that are decimal strings in classic objects and binary numbers in functional groups."""
TEMPORAL, FRAME_TYPE, IMAGE_TYPE = 0x00209128, 0x00089007, 0x00080008
SOURCES = frozenset(
    (
        *(0x00189005, 0x00189008, 0x00189017, 0x00189018, 0x00189025, 0x00189029, 0x00189033, 0x00189037),
        0x00189170,
    )
)
"""Top-level elements that :func:`derive` looks at."""
GROUP_SOURCES = frozenset(
    (
        *(0x00189009, 0x00189010, 0x00189016, 0x00189020, 0x00189021, 0x00189027, 0x00189036, 0x00189081),
        *(0x00189058, 0x00189231, 0x00181312, FRAME_TYPE),
    )
)
"""Elements of functional groups that :func:`derive` looks at."""
DERIVED = frozenset((IMAGE_TYPE, 0x00180020, 0x00180021, 0x00180022, 0x00181310))
"""Tags that :func:`derive` gives and that may differ from frame to frame."""


def classic(tag: int, vr: str, data: bytes, *, big: bool) -> Stored:
    """The value of a functional group in the form that classic objects have."""
    vr = vr or ("FD" if tag in _DECIMAL else "")  # implicit: binary where classic objects have text
    if tag not in _DECIMAL or vr in ("DS", "IS") or not data or len(data) % 8:
        return vr, data
    numbers = struct.unpack(f"{'>' if big else '<'}{len(data) // 8}d", data)
    return "DS", "\\".join(f"{number:.10g}" for number in numbers).encode("ascii")


_SAYS = {
    0x00180020: (  # ScanningSequence (PS3.3 section C.8.3.1.1.2)
        (0x00189008, (b"SPIN", b"BOTH"), b"SE"),
        (0x00189008, (b"GRADIENT", b"BOTH"), b"GR"),
        (0x00189018, (b"YES",), b"EP"),
        (0x00189009, (b"YES",), b"IR"),
    ),
    0x00180021: (  # SequenceVariant (C.8.3.1.1.3)
        (0x00189033, (b"PARTIAL", b"FULL"), b"SK"),
        (0x00189020, (b"ON_RESONANCE", b"OFF_RESONANCE"), b"MTC"),
        (0x00189017, (b"FREE_PRECESSION", b"TRANSVERSE", b"LONGITUDINAL"), b"SS"),
        (0x00189017, (b"TIME_REVERSED",), b"TRSS"),
        (0x00189016, (b"RF", b"GRADIENT", b"RF_AND_GRADIENT"), b"SP"),
        (0x00189009, (b"YES",), b"MP"),
        (0x00189029, (b"2D", b"3D", b"2D_3D"), b"OSP"),
    ),
    0x00180022: (  # ScanOptions (C.8.3.1)
        (0x00189170, (b"BREATH_HOLD", b"REALTIME", b"GATING", b"TRACKING", b"PHASE_ORDERING"), b"RG"),
        (0x00189037, (b"REALTIME", b"PROSPECTIVE", b"RETROSPECTIVE", b"PACED"), b"CG"),
        (0x00189010, (b"ACCELERATION", b"VELOCITY", b"OTHER"), b"FC"),
        (0x00189027, (b"SLAB", b"MULTI_SLAB"), b"SP"),
        (0x00189025, (b"FAT", b"FAT_AND_WATER", b"SILICON_GEL"), b"FS"),
    ),
}
"""Classic tag -> (tag of enhanced objects, its values, what classic objects say then)."""


def derive(elements: dict[int, Stored]) -> None:
    """Adds what classic objects say in one element and enhanced ones in several; nothing is overwritten.

    SequenceName is PulseSequenceName; ScanningSequence, SequenceVariant and ScanOptions are put together from
    what enhanced objects say one by one; AcquisitionMatrix from the encoding steps. Where ImageType is MIXED,
    the frame's own type counts.
    """
    if 0x00189005 in elements:
        elements.setdefault(0x00180024, elements[0x00189005])

    def said(tag: int) -> bytes:
        return elements.get(tag, ("", b""))[1].strip(b" \0")

    for tag, sources in _SAYS.items():
        parts = [name for source, values, name in sources if said(source) in values]
        if tag == 0x00180022 and said(0x00189081) == b"YES":
            frequency = said(0x00189036) == b"FREQUENCY"
            parts.append(b"PFF" if frequency else b"PFP")
        if tag == 0x00180021 and not parts and said(0x00189033):
            parts = [b"NONE"]
        if parts:
            elements.setdefault(tag, ("CS", b"\\".join(parts)))
    columns, rows = (elements.get(tag, ("", b""))[1] for tag in (0x00189058, 0x00189231))
    direction = said(0x00181312)
    if len(columns) == len(rows) == 2 and direction in (b"ROW", b"COLUMN"):
        none = b"\0\0"
        matrix = (columns, none, none, rows) if direction == b"COLUMN" else (none, columns, rows, none)
        elements.setdefault(0x00181310, ("US", b"".join(matrix)))
    if said(IMAGE_TYPE).startswith(b"MIXED") and said(FRAME_TYPE):
        elements[IMAGE_TYPE] = elements[FRAME_TYPE]
