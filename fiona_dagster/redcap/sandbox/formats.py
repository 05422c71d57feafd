"""json, csv and xml as REDCap writes and reads them (redcap-api.md sections 1 and 8)."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

Cell = str | int
ExportRow = dict[str, Cell]

CONTENT_TYPES = {
    "json": "application/json; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "xml": "text/xml; charset=utf-8",
    "text": "text/html; charset=utf-8",
}
DELIMITERS = {",": ",", ";": ";", "tab": "\t", "|": "|", "^": "^", "": ","}

_XML_HEAD = '<?xml version="1.0" encoding="UTF-8" ?>\n'
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Answer:
    """What goes back over the wire."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class ApiError(Exception):
    """An answer other than 200.

    Attributes:
        status: HTTP status.
        text: REDCap's words.
    """

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.text = text
        self.status = status


def error_answer(error: ApiError, return_format: str) -> Answer:
    """An error in the wanted format; xml where that is unknown."""
    if return_format == "json":
        body = _json({"error": error.text})
    elif return_format == "csv":
        body = f"ERROR: {error.text}"
    else:
        return_format = "xml"
        body = f"{_XML_HEAD}<hash><error>{escape(_plain(error.text))}</error></hash>"
    return Answer(error.status, CONTENT_TYPES[return_format], encode(body))


def text_answer(text: str) -> Answer:
    """Bare text, as ``content=version`` gives it."""
    return Answer(200, CONTENT_TYPES["text"], encode(text))


def in_another_format(answer: Answer, value: float) -> Answer:
    """An error as XML or CSV with status 200, or as bare text: which one, the value's thousandths say."""
    text = json.loads(answer.body)["error"]
    wanted = ("xml", "csv", "text")[round(value * 1000) % 3]
    if wanted == "text":
        return replace(text_answer(text), status=answer.status)
    return replace(error_answer(ApiError(text), wanted), status=200)


def rows_answer(
    rows: Sequence[ExportRow], fmt: str, root: str, columns: Sequence[str], delimiter: str = ","
) -> Answer:
    """A list of rows."""
    if fmt == "json":
        body = _json(rows)
    elif fmt == "csv":
        body = to_csv(rows, columns, delimiter)
    else:
        items = "".join(f"<item>{_elements(row)}</item>" for row in rows)
        body = f"{_XML_HEAD}<{root}>{items}</{root}>"
    return Answer(200, CONTENT_TYPES[fmt], encode(body))


def object_answer(row: ExportRow, fmt: str, root: str) -> Answer:
    """One object, as ``content=project`` gives it."""
    if fmt == "json":
        return Answer(200, CONTENT_TYPES[fmt], encode(_json(row)))
    if fmt == "csv":
        return Answer(200, CONTENT_TYPES[fmt], encode(to_csv([row], list(row))))
    return Answer(200, CONTENT_TYPES[fmt], encode(f"{_XML_HEAD}<{root}>{_elements(row)}</{root}>"))


def count_answer(number: int, fmt: str, *, bare: bool = False) -> Answer:
    """A count: ``{"count":3}`` (or bare ``3``), ``3``, ``<count>3</count>``."""
    if bare or fmt == "csv":
        body = str(number)
    else:
        body = _json({"count": number}) if fmt == "json" else f"{_XML_HEAD}<count>{number}</count>"
    return Answer(200, CONTENT_TYPES[fmt], encode(body))


def ids_answer(ids: Sequence[str], fmt: str) -> Answer:
    """Record names: a list, a column headed ``id``, or ``<ids><id>``."""
    if fmt == "json":
        body = _json(list(ids))
    elif fmt == "csv":
        body = to_csv([{"id": name} for name in ids], ["id"])
    else:
        body = f"{_XML_HEAD}<ids>{''.join(f'<id>{escape(_plain(name))}</id>' for name in ids)}</ids>"
    return Answer(200, CONTENT_TYPES[fmt], encode(body))


def to_csv(rows: Sequence[Mapping[str, Cell]], columns: Sequence[str], delimiter: str = ",") -> str:
    """CSV with a header line; nothing at all when there are no rows."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, delimiter=delimiter, lineterminator="\r\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def parse_rows(data: str, fmt: str, delimiter: str = ",") -> list[dict[str, str]] | None:
    """Rows of an import; None for a bare JSON object, which REDCap answers with a count of 0.

    Raises:
        ApiError: the data can't be read in that format.
    """
    try:
        if fmt == "json":
            return _from_json(data)
        if fmt == "csv":
            return _from_csv(data, delimiter)
        return _from_xml(data)
    except (ValueError, csv.Error, ET.ParseError):
        pass
    raise ApiError("The data being imported is not formatted correctly")


def _from_json(data: str) -> list[dict[str, str]] | None:
    document = json.loads(data)
    if isinstance(document, dict):
        return None
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise ValueError
    return [{str(key): _scalar(value) for key, value in row.items()} for row in document]


def _scalar(value: Any) -> str:
    if isinstance(value, dict | list):
        raise ValueError  # noqa: TRY004 - told to the caller as unreadable data
    if isinstance(value, bool):
        return str(int(value))
    return "" if value is None else str(value)


def _from_csv(data: str, delimiter: str) -> list[dict[str, str]]:
    # newline="": what stands inside quotes stays as it is
    reader = csv.reader(
        io.StringIO(data.removeprefix("\ufeff"), newline=""), delimiter=delimiter, strict=True
    )
    lines = [line for line in reader if line]
    if not lines:
        return []
    head = lines[0]
    if any(len(line) != len(head) for line in lines):
        raise ValueError
    return [dict(zip(head, line, strict=True)) for line in lines[1:]]


class _WithoutDoctype(ET.TreeBuilder):
    """Refuses the declaration that entities are made in, wherever values may say the same words."""

    def doctype(self, *_: object) -> None:
        raise ValueError


def _from_xml(data: str) -> list[dict[str, str]]:
    parser = ET.XMLParser(target=_WithoutDoctype())  # noqa: S314 - there can be no entities
    root = ET.fromstring(data.encode("utf-8", "replace"), parser)  # noqa: S314
    return [{cell.tag: cell.text or "" for cell in item} for item in root.iter("item")]


def _elements(row: Mapping[str, Cell]) -> str:
    return "".join(
        f"<{name}>{f'<![CDATA[{_cdata(value)}]]>' if value != '' else ''}</{name}>"
        for name, value in row.items()
    )


def _cdata(value: Cell) -> str:
    return _plain(str(value)).replace("]]>", "]]]]><![CDATA[>")


def _plain(text: str) -> str:
    return _NOT_IN_XML.sub("", text)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encode(text: str) -> bytes:
    """UTF-8; broken surrogates become question marks."""
    return text.encode("utf-8", "replace")
