"""What a compressed image says about itself, to be held against the header of its object.

Belongs here: frame headers of JPEG (ISO 10918-1), JPEG-LS (14495-1) and JPEG 2000 (15444-1). Stays out: the
pictures, and what is no picture (``deid.codestreams``).
"""

from __future__ import annotations

from dataclasses import dataclass

_SOC_SIZ = b"\xff\x4f\xff\x51"
_FRAMES = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_JPEG_LS, _SCAN, _COD, _SOT = 0xF7, 0xDA, 0xFF52, 0xFF90


@dataclass(frozen=True)
class Coded:
    """What one compressed image says.

    Attributes:
        precision: bits of a sample.
        signed: whether samples are; JPEG and JPEG-LS have no signed ones.
        lossy: the picture is not what it was.
        transformed: colours go through a transform of JPEG 2000 (annex G), which the decoder takes back.
    """

    precision: int
    signed: bool = False
    lossy: bool = False
    transformed: bool = False


def coded(image: bytes) -> Coded | None:
    """Reads the header of an image; None: it is not understood."""
    try:
        return _jpeg(image) if image.startswith(b"\xff\xd8") else _jpeg_2000(image)
    except (IndexError, ValueError):
        return None


def _u16(image: bytes, at: int) -> int:
    return image[at] << 8 | image[at + 1]


def _jpeg(image: bytes) -> Coded:
    at, precision = 2, 0
    while True:
        while image[at] == 0xFF and image[at + 1] == 0xFF:  # fill bytes (ISO 10918-1 B.1.1.2)
            at += 1
        if image[at] != 0xFF:
            raise ValueError
        marker, content = image[at + 1], at + 4
        if marker in _FRAMES:
            precision = image[content]
            if marker != _JPEG_LS:
                return Coded(precision, lossy=marker not in _LOSSLESS)
        elif marker == _SCAN and precision:  # of JPEG-LS: components, then NEAR (ISO 14495-1 C.2.3)
            return Coded(precision, lossy=image[content + 1 + 2 * image[content]] > 0)
        elif marker == _SCAN:
            raise ValueError
        at += 2 + _u16(image, at + 2)


def _jpeg_2000(image: bytes) -> Coded:
    start = image.index(_SOC_SIZ)  # bare, or inside a JP2
    samples = {image[start + 42 + 3 * n] for n in range(_u16(image, start + 40))}
    if len(samples) != 1:  # components of different kinds: no Image Pixel module says that
        raise ValueError
    said = samples.pop()
    at = start + 2
    while (marker := _u16(image, at)) != _SOT:
        if marker == _COD:
            transform, reversible = image[at + 8], image[at + 13]
            return Coded((said & 0x7F) + 1, bool(said & 0x80), reversible == 0, transform == 1)
        at += 2 + _u16(image, at + 2)
    raise ValueError
