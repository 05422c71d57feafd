"""From a verified working copy to a package: names, documents, pictures, then the bytes.

Belongs here: what a package of a study consists of, for a transfer and for an export alike. Stays out: the
ledger, requests, where packages go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fiona_dagster.config import PackageSettings
from fiona_dagster.errors import NotVerified
from fiona_dagster.transfers.beside import folder_of, listed
from fiona_dagster.transfers.documents import (
    INDEX,
    REPORT_PAGE,
    TABLE,
    index_page,
    record_json,
    series_records,
    series_rows,
    series_table,
)
from fiona_dagster.transfers.layout import PackedFile, PackedSeries, lay_out, require_unchanged
from fiona_dagster.transfers.nifti import Converted, Partial, digest_of
from fiona_dagster.transfers.package import (
    PackageInfo,
    Progress,
    build_package,
    read_manifest,
    software_version,
)
from fiona_dagster.transfers.pictures import glimpse, picture
from fiona_dagster.transfers.signature import SigningKey
from fiona_dagster.transfers.triple import write_triples
from fiona_dagster.transfers.writing import WHOLE, Blocks, changed


def assemble(
    folder: Path,
    verified: Mapping[str, str],
    target: Path,
    *,
    manifest: Mapping[str, Any],
    report: Mapping[str, Any],
    key: SigningKey,
    look: PackageSettings,
    types: Mapping[str, Sequence[str]] | None = None,
    images: Converted | None = None,
    progress: Progress | None = None,
) -> PackageInfo:
    """Packs the working copy of a study.

    Args:
        folder: the working copy.
        verified: SHA-256 of each file of it, from the verification record.
        target: where the ZIP shall stand.
        manifest: see :func:`~fiona_dagster.transfers.package.build_package`.
        report: of the de-identification and its verification.
        key: signs the package.
        look: how the project wants its packages.
        types: new SeriesInstanceUID -> types that the site's rules gave the series.
        images: NIfTI images made of the copy, if the project wants them in its packages.
        progress: called with (bytes packed, bytes in all).

    Raises:
        NotVerified: a file differs from the verification record, or they are not the same files.
        UnreadableDicom: a file is no DICOM.
    """
    types = types or {}
    laid_out = lay_out(
        [(name, folder / name) for name in sorted(verified)],
        template=look.layout,
        project=str(manifest.get("project", "")),
        participant=str(manifest.get("participant", "")),
        event=str(manifest.get("event", "")),
        separator=look.separator,
    )
    rows = series_rows(laid_out, types)
    manifest = {**manifest, **_contents(laid_out, verified, target, types, look=look, images=images)}
    head = {"software": software_version(), **manifest}
    every = [file for series in laid_out for file in series.files]
    packed = every if "dicom" in look.deliver else []
    looked_at: dict[str, Blocks] = {}
    page = index_page(
        head,
        rows,
        lambda index: _picture(laid_out[index], verified, looked_at if packed else None),
        report,
    )
    if not packed:
        for file in every:  # what the documents say of it is compared all the same
            _require_verified(file, verified)
    files = [(file.name, file.path) for file in packed]
    expected = {file.name: verified[file.record] for file in packed}
    if images is not None:
        files += images.files
        expected |= {name: digest_of(path) for name, path in images.files}
    return build_package(
        files,
        target,
        manifest,
        expected,
        key=key,
        report=report,
        documents={INDEX: page, TABLE: series_table(rows), REPORT_PAGE: _report_page(report)},
        record=record_json(series_records(laid_out, types)),
        looked_at=looked_at,
        unchanged=lambda: require_unchanged(every),
        progress=progress,
    )


def partial_of(package: Path) -> tuple[Partial, ...]:
    """Series that a package lacks as NIfTI, wholly or partly, as its manifest says."""
    found = read_manifest(package).get("nifti_partial", ())
    return tuple(
        Partial(each["SeriesInstanceUID"], int(each["SeriesNumber"]), each["reason"]) for each in found
    )


def _contents(
    laid_out: Sequence[PackedSeries],
    verified: Mapping[str, str],
    target: Path,
    types: Mapping[str, Sequence[str]],
    *,
    look: PackageSettings,
    images: Converted | None,
) -> dict[str, Any]:
    """What the manifest says when there is anything but the DICOM files; writes the triples beside."""
    if look.deliver == ("dicom",):
        return {}
    found: dict[str, Any] = {"contents": sorted(look.deliver)}
    if images is not None:
        found["nifti_partial"] = [
            {"SeriesInstanceUID": each.series, "SeriesNumber": each.number, "reason": each.reason}
            for each in images.partial
        ]
    if "tgz" in look.deliver:
        found["beside"] = listed(write_triples(laid_out, verified, folder_of(target), types))
    return found


def _report_page(report: Mapping[str, Any]) -> bytes:
    from fiona_dagster.deid import report as reports

    return reports.page(report.get("deidentification", {}), report.get("verification", {}))


def _require_verified(file: PackedFile, verified: Mapping[str, str]) -> None:
    try:
        same = digest_of(file.path) == verified[file.record]
    except OSError:
        same = False
    if not same:
        raise changed()


def _picture(
    series: PackedSeries, verified: Mapping[str, str], later: dict[str, Blocks] | None
) -> bytes | str:
    """A picture of the middle of a series; ``later`` takes what is to be compared when the file is packed."""
    file = series.files[len(series.files) // 2]
    if file.record not in verified:
        raise NotVerified("a picture was to be made of a file without a verification record")
    if later is None or file.header.size <= WHOLE:
        return picture(file.path, verified[file.record])
    shown, later[file.name] = glimpse(file.path)
    return shown
