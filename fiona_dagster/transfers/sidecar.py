"""Which keys of dcm2niix's sidecars leave: an allow-list by key and by the form of the value.

Belongs here: what a JSON sidecar may say. Stays out: where it stands (``transfers.bids``). dcm2niix makes
sidecars from verified copies, but writes values anew (times with colons, UIDs under other names), so that
the residual search of the copies does not answer for them. The list is therefore safe by itself: numbers that
describe the acquisition, and words from a fixed set. Nothing here can hold a name, a place, a date, a time of
day, a serial number or free text, but for the description that the verified header has.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NUMBERS = _set(
    """
    AcquisitionDuration AcquisitionMatrixPE AcquisitionNumber AcquisitionVoxelSize AveragesDouble
    BandwidthPerPixelPhaseEncode BaseResolution BolusDuration CompressedSensingFactor DecayCorrectionFactor
    DecayFactor DelayTime DerivedVendorReportedEchoSpacing DoseCalibrationFactor DwellTime EchoNumber EchoTime
    EchoTime1 EchoTime2 EchoTrainLength EffectiveEchoSpacing EstimatedEffectiveEchoSpacing
    EstimatedTotalReadoutTime ExposureTime FlipAngle FrameDuration FrameReferenceTime FrameTimesStart
    FrequencyEncodingSteps ImageOrientationPatientDICOM ImagingFrequency InitialPostLabelDelay
    InjectedRadioactivity InjectedVolume InversionTime IsotopeHalfLife LabelingDistance LabelingDuration
    LabelingPulseAverageGradient LabelingPulseDuration LabelingPulseFlipAngle LabelingPulseMaximumGradient
    MagneticFieldStrength MolarActivity MultibandAccelerationFactor NumRFBlocks NumberOfArms NumberOfAverages
    NumberOfDiffusionDirectionGE NumberOfDiffusionT2GE NumberOfExcitations NumberOfKSpaceTrajectories
    NumberOfPointsPerArm ParallelReductionFactorInPlane ParallelReductionFactorOutOfPlane PartialFourier
    PercentPhaseFOV PercentSampling PhaseEncodingSteps PhaseEncodingStepsNoPartialFourier
    PhaseEncodingStepsOutOfPlane PhaseOversampling PhaseResolution PhilipsRWVIntercept PhilipsRWVSlope
    PhilipsRescaleIntercept PhilipsRescaleSlope PhilipsScaleSlope PixelBandwidth PostInversionDelay
    PostLabelingDelay RFGap RadionuclideHalfLife RadionuclidePositronFraction ReconMatrixPE RefLinesPE
    RepetitionTime RepetitionTimeExcitation RepetitionTimeInversion RepetitionTimePreparation SAR
    ScatterFraction SeriesNumber SliceThickness SliceTiming SpacingBetweenSlices SpectralWidth
    TotalReadoutTime TriggerDelayTime VendorReportedEchoSpacing WaterFatShift XRayExposure XRayTubeCurrent
    """
)
"""Keys whose value is a number, a truth value, or a list of numbers."""

LARGEST = 10**12
"""Whole numbers of an acquisition are smaller; ids are not always."""

FLAGS = _set(
    """
    Interpolation2D Interpolation3D MTState NonlinearGradientCorrection PartialFourierEnabled RawImage
    SpoilingState UsePhilipsFloatNotDisplayScaling VariableFlipAngleFlag WaterSuppressed
    """
)
"""Keys whose value is true, false, 0, 1, or a code of it."""

_MAKERS = "Siemens|GE|Philips|Toshiba|Canon|UIH|Bruker|Hitachi|Mediso|MRSolutions|Hyperfine|Marconi|PET"
_ONE_OF = {
    "ArterialSpinLabelingType": "PASL|CASL|PCASL|pCASL",
    "ConversionSoftware": "dcm2niix",
    "InPlanePhaseEncodingDirectionDICOM": "ROW|COL",
    "MRAcquisitionType": "1D|2D|3D",
    "Manufacturer": _MAKERS,
    "Modality": "MR|CT|PT|NM|XA|US|CR|DX|MG|OT|SEG|SC|RTDOSE",
    "ParallelAcquisitionTechnique": "SENSE|GRAPPA|mSENSE|ARC|ASSET|PILS|SMASH",
    "PartialFourierDirection": "PHASE|FREQUENCY|SLICE_SELECT|COMBINATION",
    "PatientPosition": "[HF]F(S|P|DR|DL)|[LR]F[SP]|[AP]F(DR|DL)",
    "PhaseEncodingAxis": "[ijk]",
    "PhaseEncodingDirection": "[ijk]-?",
    "SliceEncodingDirection": "[ijk]-?",
    "Units": "BQML|CNTS|CPS|GML|CM2ML|PCNT|NONE|Hz|arbitrary",
}
_CODES = {key: re.compile(pattern) for key, pattern in _ONE_OF.items()}
_FLAG = re.compile(r"YES|NO|true|false|TRUE|FALSE")
_VERSION = re.compile(r"v?\d{1,2}\.\d{1,2}\.20[0-9]{6}(?![0-9])")
_WORDS = {
    "ImageType": _set(
        "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER M P R I MAGNITUDE PHASE REAL IMAGINARY NORM ND"
        " DIS2D DIS3D MOSAIC MFSPLIT FM FFE SE DIFFUSION ADC TRACEW FA NONE OTHER ASL PERFUSION FMRI MPR"
        " PROJECTION T1 T2 WATER FAT IN_PHASE OUT_PHASE VOLUME PHASEMAP"
    ),
    "ScanningSequence": _set("SE IR GR EP RM"),
    "SequenceVariant": _set("SK MTC SS TRSS SP MP OSP TOF NONE"),
}
"""DICOM's defined terms (PS3.3 C.7.6.1.1.2, C.8.3.1) and what makers write; other words are left out."""


def clean_sidecar(text: bytes, description: str = "") -> dict[str, Any]:
    """What of a sidecar may leave, sorted by key.

    Args:
        text: a sidecar (JSON) as dcm2niix wrote it.
        description: SeriesDescription of the verified header, which the project's rules cleaned, or ``""``.

    Raises:
        ValueError: it is no JSON object.
    """
    document = json.loads(text.decode("utf-8", "replace"), strict=False)
    if not isinstance(document, Mapping):
        raise ValueError("a sidecar is a JSON object")  # noqa: TRY004 - as for broken JSON
    cleaned = {key: kept for key, value in document.items() if (kept := _kept(key, value)) is not None}
    if description:
        cleaned["SeriesDescription"] = description
    return dict(sorted(cleaned.items()))


def _kept(key: str, value: Any) -> Any:
    if key in NUMBERS:
        return value if _numeric(value) else None
    if key in FLAGS:
        truth = value in (0, 1) if isinstance(value, int | float) else _matches(_FLAG, value)
        return value if truth else None
    if key in _CODES:
        return value if _matches(_CODES[key], value) else None
    if key in _WORDS:
        return _words(value, _WORDS[key])
    if key == "ConversionSoftwareVersion" and isinstance(value, str) and (found := _VERSION.match(value)):
        return found[0]
    return None


def said(sidecar: Mapping[str, Any]) -> tuple[list[str], list[int | float]]:
    """The texts of a cleaned sidecar, and its numbers."""
    words: list[str] = []
    numbers: list[int | float] = []
    for value in sidecar.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, str):
                words.append(each)
            elif isinstance(each, int | float):
                numbers.append(each)
    return words, numbers


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _numeric(value: Any) -> bool:
    if isinstance(value, list):
        return all(_numeric(each) and not isinstance(each, list) for each in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < LARGEST
    return isinstance(value, int | float) and math.isfinite(value)


def _words(value: Any, known: frozenset[str]) -> Any:
    """The known ones, in the form that they came in: a list, or one text with ``_`` between them."""
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str) and each in known] or None
    if isinstance(value, str):
        return "_".join(each for each in re.split(r"[\\_]", value) if each in known) or None
    return None
