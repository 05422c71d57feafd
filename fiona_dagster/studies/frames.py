"""Enhanced multi-frame objects: what their functional groups say, under the tags of classic objects.

Sources: PS3.3 sections C.7.6.16, C.8.13 (MR), C.8.15 (CT).
"""

from __future__ import annotations

import struct

SHARED, PER_FRAME = 0x52009229, 0x52009230

GROUPS: dict[tuple[int, int], int] = {
    (0x00189112, 0x00180080): 0x00180080,  # MR Timing: RepetitionTime
    (0x00189112, 0x00180091): 0x00180091,  # EchoTrainLength
    (0x00189112, 0x00181314): 0x00181314,  # FlipAngle
    (0x00189114, 0x00189082): 0x00180081,  # MR Echo: EffectiveEchoTime counts as EchoTime
    (0x00189115, 0x00189009): 0x00189009,  # MR Modifier: InversionRecovery
    (0x00189115, 0x00180082): 0x00180082,  # InversionTime
    (0x00189115, 0x00189079): 0x00180082,  # InversionTimes count as InversionTime
    (0x00189006, 0x00180095): 0x00180095,  # MR Imaging Modifier: PixelBandwidth
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

INNER = frozenset({0x00189076})
"""Sequences of this table that stand inside another functional group's sequence."""
_DECIMAL = frozenset((0x00180081, 0x00180082, 0x00181150, 0x00181151))
"""Tags that are decimal strings in classic objects and binary numbers in functional groups."""


def classic(tag: int, vr: str, data: bytes, *, big: bool) -> tuple[str, bytes]:
    """The value of a functional group in the form that classic objects have."""
    if tag not in _DECIMAL or vr in ("DS", "IS") or not data or len(data) % 8:
        return vr, data
    numbers = struct.unpack(f"{'>' if big else '<'}{len(data) // 8}d", data)
    return "DS", "\\".join(f"{number:.10g}" for number in numbers).encode("ascii")


def derive(elements: dict[int, tuple[str, bytes]]) -> None:
    """Adds what classic objects say in one element and enhanced ones in several; nothing is overwritten.

    SequenceName is PulseSequenceName; ScanningSequence comes from EchoPulseSequence,
    EchoPlanarPulseSequence and InversionRecovery; AcquisitionMatrix from the encoding steps.
    """
    if 0x00189005 in elements:
        elements.setdefault(0x00180024, elements[0x00189005])
    parts = [
        name
        for tag, said, name in (
            (0x00189008, (b"SPIN", b"BOTH"), b"SE"),
            (0x00189008, (b"GRADIENT", b"BOTH"), b"GR"),
            (0x00189018, (b"YES",), b"EP"),
            (0x00189009, (b"YES",), b"IR"),
        )
        if elements.get(tag, ("", b""))[1].strip(b" \0") in said
    ]
    if parts:
        elements.setdefault(0x00180020, ("CS", b"\\".join(parts)))
    frequency, phase = (elements.get(tag, ("", b""))[1] for tag in (0x00189058, 0x00189231))
    direction = elements.get(0x00181312, ("", b""))[1].strip(b" \0")
    if len(frequency) == len(phase) == 2 and direction in (b"ROW", b"COLUMN"):
        none = b"\0\0"
        matrix = (frequency, none, none, phase) if direction == b"COLUMN" else (none, frequency, phase, none)
        elements.setdefault(0x00181310, ("US", b"".join(matrix)))


SOURCES = frozenset((0x00189005, 0x00189008, 0x00189018))
"""Top-level elements that :func:`derive` looks at."""


def vr_of_group(tag: int) -> str:
    """VR of an implicit element that counts as ``tag``: binary where classic objects have text."""
    return "FD" if tag in _DECIMAL else ""
