"""What people read of a package: the series table, the index page, the record of each series.

Belongs here: text and tables from the de-identified headers, the same bytes for the same study. Stays out:
pictures (``transfers.pictures``), names (``transfers.layout``). Nothing here ever sees an original, but for
the types that the site's rules gave a series.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from fiona_dagster.studies.attributes import RECORD_TAGS, record_value
from fiona_dagster.studies.values import number
from fiona_dagster.transfers.layout import (
    FRAMES,
    MODALITY,
    SERIES_NUMBER,
    SLICE_LOCATION,
    PackedSeries,
    whole_number,
)

INDEX, TABLE, REPORT_PAGE = "index.html", "series.csv", "report.html"
_ROWS, _COLUMNS, _DESCRIPTION = 0x00280010, 0x00280011, 0x0008103E
COLUMNS = (
    "folder",
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "ClassifyType",
    "instances",
    "bytes",
    "frames",
    "Rows",
    "Columns",
    "SOPClassUID",
    "TransferSyntaxUID",
)
"""Of ``series.csv``; names with capitals are DICOM keywords or keys of the series record."""


def series_rows(laid_out: Sequence[PackedSeries], types: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """A row for each series.

    Args:
        laid_out: the series of the package.
        types: new SeriesInstanceUID -> the types that the site's rules gave it.
    """
    rows = []
    for series in laid_out:
        headers = [file.header for file in series.files]
        first = headers[0]
        rows.append(
            {
                "folder": series.folder,
                "SeriesInstanceUID": first.series,
                "Modality": first.text(MODALITY),
                "SeriesNumber": first.text(SERIES_NUMBER),
                "SeriesDescription": first.text(_DESCRIPTION),
                "ClassifyType": ", ".join(types.get(first.series, ())),
                "instances": str(len(headers)),
                "bytes": str(sum(header.size for header in headers)),
                "frames": str(sum(max(1, whole_number(header, FRAMES)) for header in headers)),
                "Rows": first.text(_ROWS),
                "Columns": first.text(_COLUMNS),
                "SOPClassUID": first.sop_class,
                "TransferSyntaxUID": " ".join(sorted({header.transfer_syntax for header in headers})),
            }
        )
    return rows


def series_table(rows: Sequence[Mapping[str, str]]) -> bytes:
    """``series.csv`` (RFC 4180); a text that a spreadsheet would take for a formula gets a ``'`` first."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow(COLUMNS)
    for row in rows:
        table.writerow(
            "'" + row[column] if row[column][:1] in ("=", "+", "-", "@", "\t", "\r") else row[column]
            for column in COLUMNS
        )
    return text.getvalue().encode()


def series_records(
    laid_out: Sequence[PackedSeries], types: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The original's series JSON (behaviour reference, 2.1) of each series, from the de-identified headers.

    ``IncomingConnection`` is left out: who sent the originals is nobody's business outside.
    """
    records = []
    for series in laid_out:
        headers = [file.header for file in series.files]
        record: dict[str, Any] = {}
        for key, tag in RECORD_TAGS.items():
            value = headers[0].value(tag)
            if value is not None:
                record[key] = record_value(key, value)
        places = [
            (place, header.text(SLICE_LOCATION))
            for header in headers
            if (place := number(header.value(SLICE_LOCATION))) is not None
        ]
        if places:
            record["SliceLocation"] = min(places)[1]
        record["NumFiles"] = str(len(headers))
        record["ClassifyType"] = list(types.get(headers[0].series, ()))
        records.append(dict(sorted(record.items())))
    return records


def record_json(document: object) -> bytes:
    """A series record, or several, as a file."""
    return (json.dumps(document, indent=1, sort_keys=True, default=str) + "\n").encode("ascii")


_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.4em .7em;"
    "border-bottom:1px solid #ddd;vertical-align:top}dl{display:grid;grid-template-columns:max-content 1fr;"
    "gap:.2em 1.2em}dt{color:#666}dd{margin:0}img{background:#000;image-rendering:auto}"
    ".none{display:inline-block;width:9em;padding:2em .5em;background:#eee;color:#666;text-align:center}"
    "code{font-size:90%;overflow-wrap:anywhere}"
)
_FACTS = (
    ("project", "Project"),
    ("participant", "Participant"),
    ("event", "Event"),
    ("StudyInstanceUID", "Study"),
    ("revision", "Revision"),
    ("software", "Made by"),
)


def index_page(
    manifest: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    show: Callable[[int], bytes | str],
    report: Mapping[str, Any],
) -> bytes:
    """``index.html``: one page that needs nothing beside it and runs nothing.

    Args:
        manifest: what the manifest says about the package.
        rows: see :func:`series_rows`.
        show: gives for the index of a row its picture (PNG), or why there is none.
        report: of the de-identification and its verification.
    """
    name = " ".join(str(manifest.get(key, "")) for key in ("project", "participant", "event"))
    facts = "".join(
        f"<dt>{title}</dt><dd>{escape(str(manifest[key]))}</dd>" for key, title in _FACTS if key in manifest
    )
    linked = "dicom" in manifest.get("contents", ("dicom",))
    body = "".join(_row(row, show(index), linked=linked) for index, row in enumerate(rows))
    deidentified = report.get("deidentification", {})
    held, left_out = deidentified.get("held_back", {}), int(deidentified.get("left_out", 0))
    held_text = ", ".join(f"{count} of kind {kind}" for kind, count in sorted(held.items())) or "none"
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width">
<title>{escape(name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(name)}</h1>
<dl>{facts}</dl>
<h2>Series</h2>
<table>
<tr><th>Picture</th><th>Folder</th><th>Series</th><th>Instances</th></tr>
{body}</table>
<h2>What else is here</h2>
<p>De-identified by the rules in <a href="report.html">report.html</a>
(the same as data: <a href="report.json">report.json</a>); objects held back: {escape(held_text)};
left out since they can't be processed: {left_out}.
{_other_contents(manifest)}The series once more as a table: <a href="series.csv">series.csv</a>.
Every file with size and SHA-256: <a href="manifest.json">manifest.json</a>.</p>
<p>The pictures are small, show the middle of each series and are no images for reading.
<code>fiona verify PACKAGE.zip --key PROJECT.pem</code> proves that nothing was changed,
and who made the package.</p>
</body>
</html>
"""
    return page.encode("utf-8", "replace")


def _other_contents(manifest: Mapping[str, Any]) -> str:
    """What is there besides DICOM files, and what of it is not whole."""
    said = []
    if "nifti" in manifest.get("contents", ()):
        partial = manifest.get("nifti_partial", ())
        lacking = "; ".join(f"series {each['SeriesNumber']}: {each['reason']}" for each in partial)
        said.append(f"Images as NIfTI lie in the folders here; not whole: {escape(lacking or 'none')}.")
    if beside := manifest.get("beside"):
        said.append(f"Beside this package belong {len(beside)} files, which the manifest lists.")
    return "".join(f"{text}\n" for text in said)


def _row(row: Mapping[str, str], shown: bytes | str, *, linked: bool) -> str:
    if isinstance(shown, bytes):
        data = base64.b64encode(shown).decode("ascii")
        picture = f'<img alt="series {escape(row["SeriesNumber"])}" src="data:image/png;base64,{data}">'
    else:
        picture = f'<span class="none">no picture: {escape(shown)}</span>'
    said = [row["Modality"], row["SeriesNumber"], row["SeriesDescription"], row["ClassifyType"]]
    text = "<br>".join(escape(part) for part in said if part)
    folder = escape(row["folder"])
    place = f'<a href="{folder}/">{folder}</a>' if linked else ""
    uid = escape(row["SeriesInstanceUID"])
    return (
        f"<tr><td>{picture}</td><td>{place}</td>"
        f"<td>{text}<br><code>{uid}</code></td><td>{escape(row['instances'])}</td></tr>\n"
    )
