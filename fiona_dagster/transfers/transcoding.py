"""A verified copy in another transfer syntax, without loss: for a research PACS that refuses the one it has.

Belongs here: decompressing, and how a native data set is written (PS3.5 annex A). Every value stays as it is,
byte for byte; pixels are what a decoder makes of them. Nothing is ever compressed. Stays out: when that is
allowed and to whom it is sent (``targets.transcoded``).
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from fiona_dagster.deid.copies import file_start
from fiona_dagster.deid.elements import PIXEL_DATA, SHORT, DicomFile, Element, Streamed
from fiona_dagster.deid.encoding import encode, flat
from fiona_dagster.deid.files import opened
from fiona_dagster.deid.pixels import OFFSET_LENGTHS, OFFSET_TABLE, TOTAL_LENGTH, Geometry, geometry
from fiona_dagster.deid.writing import part_of, write
from fiona_dagster.dicom.dictionary import ATTRIBUTES
from fiona_dagster.dicom.uids import EXPLICIT_LITTLE, IMPLICIT_LITTLE
from fiona_dagster.errors import RefusedDicom
from fiona_dagster.transfers.coded import coded

if TYPE_CHECKING:
    import numpy as np
    from pydicom.pixels.decoders.base import Decoder

MAX_DECODED = 0xFFFFFFFE
"""Bytes of native pixel data: their length is a number of 32 bits (PS3.5 section 8.1.1)."""

_PHOTOMETRIC, _PLANAR, _SIGNED, _LOSSY = 0x00280004, 0x00280006, 0x00280103, 0x00282110
_WAVEFORM, _WAVEFORM_BITS = 0x54001010, 0x54001004
_RLE = "1.2.840.10008.1.2.5"
_REVERSIBLE, _IRREVERSIBLE = "YBR_RCT", "YBR_ICT"
_DECODERS = r"pydicom|pylibjpeg|libjpeg|openjpeg|jpeg_ls|numpy|fiona_dagster\.transfers\.transcoding"
_WARNINGS = threading.Lock()
_SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
_WIDTH = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "SV", "UV", "OV"), 8),
}
"""Bytes of one number of a VR."""


def transcode(source: Path, target: Path, transfer_syntax: str) -> None:
    """Writes a copy in Explicit or Implicit VR Little Endian.

    Args:
        source: a de-identified file.
        target: appears whole, or not at all.
        transfer_syntax: what it is to have.

    Raises:
        RefusedDicom: it can't be done without loss: no decoder, or what the decoder gives does not fit the
            header.
        UnreadableDicom: the file is damaged.
    """
    if transfer_syntax not in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
        raise RefusedDicom("copies are only written in Explicit or Implicit VR Little Endian anew")
    with opened(source, lambda _: False) as found:
        elements = [each for each in found.elements if each.tag & 0xFFFF]
        pixels = found.find(PIXEL_DATA)
        if pixels is not None and pixels.encapsulated:
            elements = _decompressed(found, pixels, elements, source)
        _require_native(elements)
        if not found.little:
            elements = _swapped(elements)
        implicit = transfer_syntax == IMPLICIT_LITTLE
        if not implicit:
            elements = _with_representations(elements, _number(elements, _SIGNED, 0) == 1)
        sop_instance = bytes(next(each.value for each in elements if each.tag == 0x00080018))
        start = file_start(found.sop_class, sop_instance.rstrip(b"\0 ").decode("ascii"), transfer_syntax)
        original = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with part_of(target, flush=False) as out:
                write(out, _chain(start, encode(elements, implicit, True)), original, found.release)
        finally:
            os.close(original)
        with opened(target, lambda _: False) as made:
            _require_same(made.elements, elements)


def decoded_size(path: Path) -> int:
    """Bytes that the pixel data of a file take when they are not compressed; 0 where it does not say.

    Raises:
        UnreadableDicom: the file is damaged.
    """
    with opened(path, lambda _: False) as found:
        shape = geometry(found)
        return shape.frame * shape.frames


def _require_native(elements: Sequence[Element]) -> None:
    """Refuses what would stay compressed in a native data set, as an icon may be (PS3.5 section A.4)."""
    for each in elements:
        if each.encapsulated:
            raise RefusedDicom("compressed data beside the pixel data, as of an icon, are not decompressed")
        for item in each.items or ():
            _require_native(item)


def _chain(start: bytes, pieces: Iterable[Any]) -> Iterator[Any]:
    yield start
    yield from flat(pieces)


def _number(elements: Sequence[Element], tag: int, default: int) -> int:
    value = next((each.value for each in elements if each.tag == tag), b"")
    return int.from_bytes(value, "little") if len(value) == 2 else default


# -- compressed pixel data ----------------------------------------------------------------------


class _Frames:
    """The decoded frames of an object, one at a time, in the words of its header.

    Args:
        path: the file; it is never held as a whole.
        start: where the value of its pixel data begins.
        decoder: of its transfer syntax.
        shape: what the header says.

    Attributes:
        shown: Photometric Interpretation of what was decoded; the same for all of them.
        lossy: the compressed frames say that they are not what they were.
    """

    def __init__(self, path: Path, start: int, decoder: Decoder, shape: Geometry) -> None:
        self._path = path
        self._start = start
        self._decoder = decoder
        self._shape = shape
        self.shown = ""
        self.lossy = False

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for frame in self.decoded():
            seen += 1
            yield frame
        if seen != self._shape.frames:
            raise RefusedDicom("compressed pixel data hold another number of frames than the header says")
        if seen * self._shape.frame % 2:
            yield b"\0"

    def decoded(self) -> Iterator[bytes]:
        """What the decoder gives, until it has no more."""
        with self._path.open("rb") as file, self._path.open("rb") as again:
            file.seek(self._start)
            again.seek(self._start)
            images, frames = self._images(again), self._arrays(file)
            while True:
                with _decoding():
                    image, (array, said) = next(images, None), next(frames, (None, None))
                if array is None or said is None or image is None:
                    return
                shown = str(said["photometric_interpretation"])
                if self.shown not in ("", shown):
                    raise RefusedDicom("compressed frames are of different colour spaces")
                self.shown = shown
                self._check(image)
                yield self._fitting(array)

    def _images(self, file: BinaryIO) -> Iterator[bytes]:
        """The compressed frames."""
        from pydicom.encaps import generate_frames

        return generate_frames(file, number_of_frames=self._shape.frames)

    def _arrays(self, file: BinaryIO) -> Iterator[tuple[Any, Any]]:
        """The decoded frames as numbers."""
        shape = self._shape
        return self._decoder.iter_array(
            file,
            as_rgb=False,
            pixel_keyword="PixelData",
            rows=shape.rows,
            columns=shape.columns,
            number_of_frames=shape.frames,
            samples_per_pixel=shape.samples,
            bits_allocated=shape.allocated,
            bits_stored=shape.stored,
            pixel_representation=int(shape.signed),
            photometric_interpretation=shape.photometric,
            # JPEG has its own order, whatever a header says (PS3.5 section 8.2.1); decoders of others set it.
            planar_configuration=0,
            # Bits beside those stored may be an overlay, or all there is where High Bit is not the usual one.
            correct_unused_bits=False,
        )

    def _check(self, image: bytes) -> None:
        """Holds against the header what a compressed frame says about itself; of RLE it says nothing.

        Decoders extend signs, of JPEG-LS always and of JPEG 2000 where the two disagree: that touches nothing
        but unused bits, unless there are fewer bits than the header says.

        Raises:
            RefusedDicom: it contradicts the header, so that nobody knows what the values are.
        """
        shape = self._shape
        if self._decoder.UID == _RLE:
            return
        said = coded(image)
        if said is None:
            raise RefusedDicom("a compressed frame does not say what it is")
        moved = shape.high != shape.stored - 1 and said.precision <= shape.high
        unsigned = said.precision < shape.stored and said.signed != shape.signed
        colours = shape.photometric in (_REVERSIBLE, _IRREVERSIBLE) and not said.transformed
        if said.precision > shape.allocated or moved or unsigned or colours:
            raise RefusedDicom("a compressed frame contradicts its header: bits, signs or colours")
        self.lossy = self.lossy or said.lossy

    def _fitting(self, array: np.ndarray[Any, Any]) -> bytes:
        """The frame in as many bits as the header says; a decoder may use fewer where they suffice."""
        bits = 8 * array.dtype.itemsize
        if bits < self._shape.allocated and array.dtype.kind in "iu":
            array = array.astype(f"{array.dtype.kind}{self._shape.allocated // 8}")
        frame = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        if len(frame) != self._shape.frame:
            raise RefusedDicom("compressed pixel data are of another size than the header says")
        return frame


@contextmanager
def _decoding() -> Iterator[None]:
    """Whatever a decoder raises or warns of is no decoding without loss; texts of pydicom quote values.

    Warnings are filtered for the whole process: by one at a time, and only those of decoders.
    """
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("error", module=_DECODERS)
        try:
            yield
        except Exception as error:
            if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
                raise  # of this machine, not of the object: Pillow's own OSError has no number
            why = type(error).__name__
            raise RefusedDicom(f"compressed pixel data can't be decoded ({why})") from None


def _decompressed(found: DicomFile, pixels: Element, elements: list[Element], path: Path) -> list[Element]:
    shape = geometry(found)
    size = shape.frame * shape.frames
    if not size or size > MAX_DECODED or shape.allocated % 8:
        raise RefusedDicom(
            "compressed pixel data whose header does not say their size, or that are too large"
        )
    frames = _Frames(path, pixels.at, _decoder(found.transfer_syntax), shape)
    for _ in frames.decoded():
        break  # the first one says how it is to be shown
    shown = "YBR_FULL" if frames.shown in _SUBSAMPLED else frames.shown
    vr = "OB" if shape.allocated <= 8 else "OW"
    made = {
        PIXEL_DATA: Element(PIXEL_DATA, vr, streamed=Streamed(size + size % 2, frames)),
        _PHOTOMETRIC: Element(_PHOTOMETRIC, "CS", shown.encode("ascii")),
    }
    if shape.samples > 1:
        made[_PLANAR] = Element(_PLANAR, "US", b"\0\0")
    if frames.lossy and found.find(_LOSSY) is None:
        made[_LOSSY] = Element(_LOSSY, "CS", b"01")  # PS3.3 section C.7.6.1.1.5: once lossy, always said
    dropped = {OFFSET_TABLE, OFFSET_LENGTHS, TOTAL_LENGTH, *made}
    kept = [each for each in elements if each.tag not in dropped]
    return sorted([*kept, *made.values()], key=lambda each: each.tag)


def _decoder(transfer_syntax: str) -> Decoder:
    from pydicom.pixels.decoders.base import get_decoder

    try:
        decoder = get_decoder(transfer_syntax)
    except NotImplementedError:
        raise RefusedDicom(f"nobody decodes transfer syntax {transfer_syntax} here") from None
    if not decoder.is_available:
        raise RefusedDicom(
            f"no decoder of {decoder.UID.name} is installed: pip install 'fiona-dagster[transcode]'"
        )
    return decoder


# -- how a data set is written ------------------------------------------------------------------


def _swapped(elements: list[Element]) -> list[Element]:
    """Big endian numbers as little endian ones (PS3.5 section 7.3)."""
    made = []
    for each in elements:
        width = _WIDTH.get(each.vr)
        if each.items is not None:
            made.append(replace(each, items=[_swapped(item) for item in each.items]))
        elif width and each.streamed is None:
            import numpy as np

            if len(each.value) % width:
                raise RefusedDicom("numbers of a big endian object are cut off")
            value = np.frombuffer(each.value, f">u{width}")
            made.append(replace(each, value=value.byteswap().tobytes(), at=-1))
        else:
            made.append(each)
    return made


def _with_representations(elements: list[Element], signed: bool) -> list[Element]:
    """Value representations as an explicit data set needs them, where the dictionary has several."""
    signed = _number(elements, _SIGNED, int(signed)) == 1
    allocated = _number(elements, 0x00280100, 16)
    made = []
    for each in elements:
        vr = each.vr
        said = ATTRIBUTES.get(each.tag, ("",))[0]
        if each.items is not None:
            items = [_with_representations(item, signed) for item in each.items]
            made.append(replace(each, items=items))
            continue
        if each.tag >> 16 & 1 and 0x10 <= each.tag & 0xFFFF <= 0xFF:
            vr = "LO"  # a private creator (PS3.5 section 7.8.1)
        elif said.endswith("OW") and len(said) > 2 and vr not in ("OB", "OW", "UN"):
            vr = "OW"
        elif said == "US or SS" and vr in ("US", "SS"):
            vr = "SS" if signed else "US"
        elif said == "OB or OW" and vr == "OB":
            eight = _number(elements, _WAVEFORM_BITS, 16) if each.tag == _WAVEFORM else allocated
            vr = "OB" if each.tag in (PIXEL_DATA, _WAVEFORM) and eight <= 8 else "OW"
        if len(each.value) > 0xFFFF and vr.encode() in SHORT:
            vr = "UN"  # PS3.5 section 6.2.2: what has no room for its length
        made.append(replace(each, vr=vr))
    return made


def _require_same(made: Sequence[Element], wanted: Sequence[Element]) -> None:
    """Looks at what was written, as it is read again.

    Raises:
        RefusedDicom: it does not say the same.
    """
    same = [each.tag for each in made] == [each.tag for each in wanted]
    for one, other in zip(made, wanted, strict=False):
        if other.items is not None:
            same = same and one.items is not None and len(one.items) == len(other.items)
            for item, expected in zip(one.items or (), other.items, strict=False):
                _require_same(item, expected)
        elif other.streamed is not None:
            same = same and len(one.value) == other.streamed.length
        else:
            size = len(other.value)
            same = (
                same and one.items is None and one.value[:size] == other.value and len(one.value) - size < 2
            )
    if not same:
        raise RefusedDicom("a copy in another transfer syntax does not say the same; it is not sent")
