"""Generated studies: MR of a head, CT of a chest, an ultrasound; and screenshots, which are held back.

Recognisable pictures, several series each, headers full of identifying values. The same seed gives the
same bytes on any day.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset

from fiona_dagster.demo import headers
from fiona_dagster.demo.persons import PERSONS, Person
from fiona_dagster.demo.pictures import Plane, chest, colour_flow, fan, head, scout

Kind = Literal["mr", "ct", "us", "sc"]


@dataclass(frozen=True)
class DemoStudy:
    """A study on disk, as a scanner would send it.

    Attributes:
        kind: ``mr``, ``ct``, ``us`` or ``sc``.
        title: what it is; identifies nobody.
        folder: where its files lie.
        files: all instances, in order.
        StudyInstanceUID: original UID.
        series: instances by SeriesDescription.
        planted: identifying strings in its headers; none may be found outside the clinical side.
    """

    kind: Kind
    title: str
    folder: Path
    files: tuple[Path, ...]
    StudyInstanceUID: str
    series: dict[str, int]
    planted: list[str] = field(repr=False)


def make_studies(folder: Path, seed: int = 2026) -> list[DemoStudy]:
    """Writes the three studies.

    Args:
        folder: gets a folder a study; files that are there are replaced.
        seed: decides UIDs and noise.

    Returns:
        The studies: less than 150 files and 40 MB in all.
    """
    return [_Maker(folder, seed, kind).make() for kind in ("mr", "ct", "us")]


def make_held_study(folder: Path, seed: int = 2026) -> DemoStudy:
    """Writes a study of screenshots (secondary captures), which are held back: they may show text."""
    return _Maker(folder, seed, "sc").make()


_TITLES: dict[Kind, tuple[str, str, str]] = {
    "mr": ("MR head", "MR CAPUT", "20260312"),
    "ct": ("CT chest", "CT THORAX", "20260409"),
    "us": ("Ultrasound", "US COR", "20260521"),
    "sc": ("Screenshots", "SC CAPUT", "20260604"),
}


class _Maker:
    """Writes one study."""

    def __init__(self, folder: Path, seed: int, kind: Kind) -> None:
        self.kind = kind
        self.title, self.description, self.day = _TITLES[kind]
        self.folder = folder / kind
        self.seed = seed
        self.rng = np.random.default_rng([seed, len(kind), ord(kind[0])])
        self.person: Person = PERSONS["mr" if kind == "sc" else kind]
        self.study = headers.uid(seed, kind, "study")
        self.frame = headers.uid(seed, kind, "frame of reference")
        self.files: list[Path] = []
        self.series: dict[str, int] = {}

    def make(self) -> DemoStudy:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        images = {"mr": self._mr, "ct": self._ct, "us": self._us, "sc": self._sc}[self.kind]
        with pydicom_config.disable_value_validation():
            for image in images():
                name = f"{image.SeriesNumber:02d}_{image.InstanceNumber:04d}.dcm"
                image.save_as(self.folder / name, enforce_file_format=True)
                self.files.append(self.folder / name)
                self.series[image.SeriesDescription] = self.series.get(image.SeriesDescription, 0) + 1
        return DemoStudy(
            self.kind,
            self.title,
            self.folder,
            tuple(self.files),
            self.study,
            self.series,
            self.person.planted(),
        )

    def _image(self, sop_class: str, series: int, description: str, number: int, transfer_syntax: str) -> Any:
        modality = "OT" if self.kind == "sc" else self.kind.upper()
        base = headers.study_header(self.person, self.study, self.day, modality, self.description)
        sop_instance = headers.uid(self.seed, self.kind, series, number)
        image = headers.image_file(base, sop_class, sop_instance, transfer_syntax)
        image.SeriesInstanceUID = headers.uid(self.seed, self.kind, series)
        image.SeriesNumber = series
        image.SeriesDescription = description
        image.ProtocolName = description
        image.InstanceNumber = number
        minute, second = divmod(series * 240 + number, 60)
        for what in ("Series", "Acquisition", "Content"):
            setattr(image, f"{what}Date", self.day)
            setattr(image, f"{what}Time", f"10{16 + minute:02d}{second:02d}")
        image.InstanceCreationDate = self.day
        image.InstanceCreationTime = image.ContentTime
        image.AcquisitionNumber = 1
        image.ImageComments = f"{self.person.family}, {self.description}"
        image.BurnedInAnnotation = "NO"
        image.LossyImageCompression = "00"
        image.SoftwareVersions = "phantom 1"
        image.PatientOrientation = ""
        return image

    def _in_plane(self, image: Any, plane: Plane, thickness: float) -> None:
        image.FrameOfReferenceUID = self.frame
        image.PositionReferenceIndicator = ""
        image.PixelSpacing = [plane.spacing, plane.spacing]
        image.ImageOrientationPatient = plane.image_orientation()
        image.ImagePositionPatient = plane.image_position()
        image.SliceThickness = thickness
        image.SliceLocation = plane.position
        del image.PatientOrientation

    def _mr(self) -> Iterator[Any]:
        localizer = [Plane("axial", 20, 256, 256, 1.0), Plane("coronal", 0, 256, 256, 1.0)]
        localizer.append(Plane("sagittal", 2, 256, 256, 1.0))
        t1 = [Plane("axial", -50 + 5 * n, 256, 256, 0.9) for n in range(27)]
        flair = [Plane("axial", -45 + 5.5 * n, 256, 256, 0.9) for n in range(22)]
        yield from self._mr_series(1, "localizer", "LOCALIZER", localizer, ("GR", 5.0, 2.5, None))
        yield from self._mr_series(2, "T1 MPRAGE AX", "T1", t1, ("GR", 2300.0, 2.98, 900.0))
        yield from self._mr_series(3, "T2 FLAIR AX", "FLAIR", flair, ("SE", 9000.0, 120.0, 2500.0))

    def _mr_series(
        self,
        series: int,
        description: str,
        contrast: str,
        planes: list[Plane],
        timing: tuple[str, float, float, float | None],
    ) -> Iterator[Any]:
        sequence, repetition, echo, inversion = timing
        for number, plane in enumerate(planes, 1):
            image = self._image(headers.MR_IMAGE, series, description, number, headers.EXPLICIT)
            image.Manufacturer, image.ManufacturerModelName = "SIEMENS", "Phantom 3T"
            image.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
            image.BodyPartExamined, image.PatientPosition = "HEAD", "HFS"
            image.ScanningSequence = [sequence, "IR"] if inversion else sequence
            image.SequenceVariant, image.ScanOptions, image.MRAcquisitionType = "SK", "", "2D"
            image.SequenceName = "*tfl2d1" if sequence == "GR" else "*tir2d1"
            image.RepetitionTime, image.EchoTime, image.EchoTrainLength = repetition, echo, 1
            if inversion:
                image.InversionTime = inversion
            image.MagneticFieldStrength, image.ImagingFrequency = 3, 123.25
            image.FlipAngle, image.EchoNumbers, image.NumberOfAverages = 9, 1, 1
            image.SpacingBetweenSlices = 5.5
            self._in_plane(image, plane, 5.0)
            headers.set_pixels(image, head(plane, contrast, self.rng), bits=12)
            image.WindowCenter, image.WindowWidth = 450, 900
            yield image

    def _ct(self) -> Iterator[Any]:
        topogram = self._ct_image(1, "Topogram 1.0", 1, ["ORIGINAL", "PRIMARY", "LOCALIZER"])
        view = Plane("coronal", 0, 512, 512, 0.9)
        self._in_plane(topogram, view, 0.6)
        self._ct_pixels(topogram, scout(512, 512, 0.9, self.rng), (40, 500))
        yield topogram
        for number in range(1, 29):
            plane = Plane("axial", 150 - 10 * number, 512, 512, 0.76)
            image = self._ct_image(2, "Thorax 5.0 B31f", number, ["ORIGINAL", "PRIMARY", "AXIAL"])
            self._in_plane(image, plane, 5.0)
            self._ct_pixels(image, chest(plane, self.rng), (40, 400))
            yield image
        for number in range(1, 13):
            plane = Plane("coronal", -66 + 11 * number, 320, 400, 0.95)
            image = self._ct_image(3, "Lunge cor 3.0 B70f", number, ["DERIVED", "SECONDARY", "AXIAL"])
            self._in_plane(image, plane, 3.0)
            self._ct_pixels(image, chest(plane, self.rng, noise=30), (-600, 1500))
            yield image

    def _ct_image(self, series: int, description: str, number: int, kind: list[str]) -> Any:
        # Implicit VR, so that more than one transfer syntax takes the whole way.
        image = self._image(headers.CT_IMAGE, series, description, number, headers.IMPLICIT)
        image.Manufacturer, image.ManufacturerModelName = "Philips", "Phantom 64"
        image.ImageType = kind
        image.BodyPartExamined, image.PatientPosition = "CHEST", "HFS"
        image.KVP, image.XRayTubeCurrent, image.ExposureTime = 120, 210, 500
        image.ConvolutionKernel, image.GantryDetectorTilt = description.rpartition(" ")[2], 0
        image.DataCollectionDiameter, image.ReconstructionDiameter = 500, 389
        image.ContrastBolusAgent = "Phantomate 350"
        return image

    def _ct_pixels(self, image: Any, hounsfield: Any, window: tuple[int, int]) -> None:
        stored = np.clip(hounsfield + 1024, 0, 4095).astype("<u2")
        headers.set_pixels(image, stored, bits=12)
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
        image.WindowCenter, image.WindowWidth = window

    def _us(self) -> Iterator[Any]:
        for number in range(1, 5):
            image = self._us_image(headers.US_IMAGE, 1, "2D stills", number)
            headers.set_pixels(image, fan(480, 640, self.rng, phase=number / 5), bits=8)
            yield image
        for number in range(1, 4):
            image = self._us_image(headers.US_IMAGE, 2, "Colour Doppler", number)
            grey = fan(480, 640, self.rng, phase=number / 4)
            headers.set_pixels(image, colour_flow(grey, number / 4), bits=8)
            image.UltrasoundColorDataPresent = 1
            yield image
        for number, frames in ((1, 24), (2, 16)):
            image = self._us_image(headers.US_MULTI_FRAME, 3, "Cine 4CH", number)
            pictures = [fan(300, 400, self.rng, phase=frame / 12) for frame in range(frames)]
            headers.set_pixels(image, np.stack(pictures), bits=8, frames=frames)
            image.NumberOfFrames = frames
            image.FrameIncrementPointer = 0x00181063
            image.FrameTime, image.CineRate, image.RecommendedDisplayFrameRate = 40, 25, 25
            image.StartTrim, image.StopTrim = 1, frames
            yield image

    def _sc(self) -> Iterator[Any]:
        for number in (1, 2):
            image = self._image(headers.SECONDARY_CAPTURE, 1, "Screenshots", number, headers.EXPLICIT)
            image.ImageType, image.ConversionType = ["DERIVED", "SECONDARY", "SCREEN SAVE"], "WSD"
            image.Manufacturer, image.BodyPartExamined = "Phantom Workstation", "HEAD"
            headers.set_pixels(image, fan(240, 320, self.rng, phase=number / 3), bits=8)
            yield image

    def _us_image(self, sop_class: str, series: int, description: str, number: int) -> Any:
        image = self._image(sop_class, series, description, number, headers.EXPLICIT)
        image.Manufacturer, image.ManufacturerModelName = "GE Ultrasound", "Phantom E95"
        image.ImageType = ["ORIGINAL", "PRIMARY", "TTE", "0001"]
        image.BodyPartExamined = "HEART"
        image.TransducerData = ["M5S", "", ""]
        image.UltrasoundColorDataPresent = 0
        image.SequenceOfUltrasoundRegions = [_region()]
        return image


def _region() -> Dataset:
    """US Region Calibration (PS3.3 C.8.5.5): 0.03 cm a pixel."""
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 2
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 399, 299
    region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 3, 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.03, 0.03
    return region
