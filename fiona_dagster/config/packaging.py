"""How a project's packages are laid out: the section ``package`` of a project file."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from fiona_dagster.config.section import Section

LAYOUT_FIELDS = (
    "project",
    "participant",
    "event",
    "modality",
    "series number",
    "description",
    "study date",
)
"""What may stand in angle brackets in a layout."""

_FIELD = re.compile(r"<([^<>/]*)>")
_LITERAL = re.compile(r"[A-Za-z0-9_+\-]*")


class PackageSettings(Section):
    """What a project's packages look like."""

    layout: str = "<participant>/<event>/<modality>/<series number>_<description>"
    """Folders of a series inside the package, at most five; values come from the de-identified headers, a
    folder whose values are all missing is left out. Files are numbered below it."""

    separator: Literal["_", "-"] = "_"
    """What stands in folder names in place of characters that values may not have there. With ``-`` their
    underscores become ``-`` too, so that ``_`` stands only where ``layout`` writes it."""

    formats: tuple[Literal["zip", "tgz", "nifti"], ...] = ("zip",)
    """What ``fiona export`` writes unless told otherwise: ``zip``, the package as it is delivered; ``tgz``,
    the original's three files for each series; ``nifti``, images by dcm2niix, named after BIDS."""

    deliver: tuple[Literal["dicom", "nifti", "tgz"], ...] = ("dicom",)
    """What is delivered. The ZIP holds the ``dicom`` files, images as ``nifti``, or both; the original's
    three files for each series (``tgz``) go beside it. With ``tgz`` alone it holds manifest and report."""

    export_folder: str = ""
    """Absolute path of a folder outside the data root, for the asset ``export`` in Dagster; without one there
    is no such asset. ``fiona export`` is told its folder."""

    @field_validator("export_folder")
    @classmethod
    def _export_folder(cls, value: str) -> str:
        if value and not value.startswith("/"):
            raise ValueError("an absolute path is wanted")
        return value

    @field_validator("deliver")
    @classmethod
    def _deliver(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("what is delivered: dicom, nifti or tgz, or several of them, each once")
        return value

    @field_validator("layout")
    @classmethod
    def _layout(cls, value: str) -> str:
        folders = value.strip("/").split("/")
        if not 1 <= len(folders) <= 5 or not all(folders):
            raise ValueError("a layout is one to five folder names with / between them")
        for field in _FIELD.findall(value):
            if field not in LAYOUT_FIELDS:
                known = ", ".join(f"<{name}>" for name in LAYOUT_FIELDS)
                raise ValueError(f"no field <{field}>; there are {known}")
        if not all(_LITERAL.fullmatch(_FIELD.sub("", folder)) for folder in folders):
            raise ValueError("besides fields only letters, digits, _, + and - may stand in a layout")
        return "/".join(folders)
