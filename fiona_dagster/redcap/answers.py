"""What a REDCap server's answer means: data, a refusal, or nothing that REDCap said.

Error bodies come as JSON, CSV, XML or plain text (redcap-api.md section 8), whatever was asked for.
Their texts may quote values of participants; :func:`redact` keeps those out of our errors.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from typing import Any

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable

_HTML = re.compile(r"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_XML_ERROR = re.compile(r"<error>\s*(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?\s*</error>", re.IGNORECASE | re.DOTALL)
_CSV_ERROR = re.compile(r'\s*"?error:\s*', re.IGNORECASE)
_BAN = re.compile(
    r"\b(temporarily|has been|have been|is|are) (banned|blocked)\b",
    re.IGNORECASE,
)
_WHOLE = re.compile(
    r"not found in the project as real data fields|the parameter \W?\w+\W? (is|are) not valid"
    r"|redcap_event_name are invalid|do not have (API|permissions? to use)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"|\u201c([^\u201d]*)\u201d|\u2018([^\u2019]*)\u2019")
_PLAIN_WORD = re.compile(r"[a-z][a-z/-]*")
_KNOWN_WORDS = frozenset(
    re.findall(
        r"\S+",
        "API REDCap Import/Update Import Update Export Delete Record Records The You One There User This It "
        "Please No Not Invalid Error ERROR A An In",
    )
)
_HIDDEN = "…"
_LONGEST = 300


def is_transient(status: int) -> bool:
    """Whether a status may pass by itself: request time-out, rate limit, server faults."""
    return status in (408, 429) or status >= 500


def error_text(body: str) -> str | None:
    """The error that a body carries, as REDCap wrote it, or None when it carries none."""
    start = body.lstrip("\ufeff \t\r\n")
    if start.startswith("{"):
        try:
            document = json.loads(start)
        except ValueError:
            return None
        return str(document["error"]) if isinstance(document, dict) and "error" in document else None
    if match := _CSV_ERROR.match(start):
        return start[match.end() :].strip().strip('"')
    if start.startswith("<") and (found := _XML_ERROR.search(start)):
        return _unescape(found[1])
    return None


def is_html(body: str) -> bool:
    """Whether the body is a web page: a proxy, a maintenance notice, or a wrong address."""
    return _HTML.match(body[:4096].lstrip("\ufeff")) is not None


def is_ban(status: int, body: str) -> bool:
    """Whether the server shut us out for calling too often: a page, not REDCap's words, with any status."""
    return is_html(body) and (status < 300 or status in (401, 403, 429)) and _BAN.search(body) is not None


def is_somebody_else(status: int, body: str) -> bool:
    """Whether a server before REDCap refused or led away: while REDCap is upgraded, its address may be gone.

    That passes, or is a wrong address; the same call again at once is of no use in either case.
    """
    if status in (302, 303, 307):
        return True
    wordless = is_html(body) or not body.strip()
    return status in (401, 403, 404, 405) and wordless and error_text(body) is None


def judge(status: int, body: str, *, content: str, known: Iterable[str], sent: Iterable[str]) -> None:
    """Raises what an answer means unless it is a success.

    Args:
        status: HTTP status.
        body: decoded body.
        content: the call's ``content``, for messages.
        known: names (fields, forms, parameters) that may stand in our message.
        sent: values of ours that must not.

    Raises:
        RedcapUnavailable: 408, 429, 5xx, a ban, an HTML page with status 200, or a page or redirect of
            somebody else.
        RedcapRejected: everything else that isn't a success.
    """
    what = f"REDCap call content={content}"
    if is_ban(status, body):
        raise RedcapUnavailable(
            f"{what}: the server shut this address out for calling too often (status {status}); "
            "lower redcap.calls_per_minute, or have the address excepted there"
        )
    if is_transient(status):
        raise RedcapUnavailable(f"{what}: server answered with status {status}; try again later")
    if is_somebody_else(status, body):
        raise RedcapUnavailable(f"{what}: {_reason(status, body, known, sent)}")
    if status >= 300:
        reason = _reason(status, body, known, sent)
        raise RedcapRejected(f"{what}: {reason}", status, whole=_is_whole(status, error_text(body) or body))
    if is_html(body):
        raise RedcapUnavailable(
            f"{what}: a web page came with status {status}, perhaps maintenance or a proxy"
        )
    text = error_text(body)
    if text is not None:
        raise RedcapRejected(f"{what}: refused: {redact(text, known, sent)}", 400, whole=_is_whole(400, text))


def _is_whole(status: int, text: str) -> bool:
    """Whether no record can be what was refused (redcap-api.md section 8)."""
    return status in (401, 403, 404, 405) or _WHOLE.search(text) is not None


def _reason(status: int, body: str, known: Iterable[str], sent: Iterable[str]) -> str:
    text = error_text(body)
    if text is not None:
        return f"refused with status {status}: {redact(text, known, sent)}"
    if 300 <= status < 400:
        return f"redirected with status {status}; check redcap.url (https, trailing slash)"
    if is_html(body) or not body.strip():
        return f"status {status} without a REDCap error; check redcap.url and the token"
    return f"refused with status {status}: {redact(body, known, sent)}"


def parse_json(body: bytes, content: str) -> Any:
    """The JSON document of a body.

    Raises:
        RedcapUnavailable: the body is no JSON in UTF-8; such a thing is cut short or not REDCap's.
    """
    try:
        return json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        pass
    # raised here, not in the handler: the parser's error carries the whole body
    raise RedcapUnavailable(f"REDCap call content={content}: the answer is not JSON ({len(body)} bytes)")


def redact(text: str, known: Iterable[str] = (), sent: Iterable[str] = ()) -> str:
    """A server's error text without values: field names and plain words stay, the rest goes.

    Quoted strings, everything that we sent as a value, and words with digits or inner capitals are
    replaced; so are record and value of REDCap's ``"RECORD","FIELD","VALUE","reason"`` lines.

    Args:
        text: the text as the server wrote it.
        known: field, form and parameter names that may stay.
        sent: values that we sent in the call.
    """
    names = frozenset(known)
    values = sorted({value for value in sent if len(value) > 1 and value not in names}, key=len, reverse=True)
    shown: list[str] = []
    for line in _CSV_ERROR.sub("", text, count=1).splitlines()[:10]:
        words = _redact_line(line, names, values)
        if words not in shown:
            shown.append(words)
    joined = "; ".join(words for words in shown if words)
    return joined if len(joined) <= _LONGEST else joined[:_LONGEST] + _HIDDEN


def _redact_line(line: str, names: frozenset[str], values: list[str]) -> str:
    cells = next(csv.reader([line]), []) if line.lstrip().startswith('"') else []
    if len(cells) >= 4:
        field = cells[1] if cells[1] in names else _HIDDEN
        return f"{field}: {_redact_words(' '.join(cells[3:]), names, values)}"
    return _redact_words(line, names, values)


def _redact_words(text: str, names: frozenset[str], values: list[str]) -> str:
    for value in values:
        text = text.replace(value, _HIDDEN)

    def quoted(match: re.Match[str]) -> str:
        inner = next(group for group in match.groups() if group is not None)
        return f"'{inner}'" if inner in names else _HIDDEN

    head, colon, tail = _QUOTED.sub(quoted, text).partition(":")
    return " ".join([*_words(head + colon, names, listed=False), *_words(tail, names, listed=True)])


def _words(text: str, names: frozenset[str], *, listed: bool) -> list[str]:
    """What may be shown; after a colon (``listed``) servers list values, so only known names stay."""
    kept: list[str] = []
    for word in text.split():
        core = word.strip(".,:;()'")
        plain = core in _KNOWN_WORDS or _PLAIN_WORD.fullmatch(core) is not None
        if not core or core in names or (plain and not listed):
            kept.append(word)
        elif not kept or kept[-1] != _HIDDEN:
            kept.append(_HIDDEN)
    return kept


def field_names(keys: Iterable[str]) -> set[str]:
    """Of some keys those that look like field names, with the original name of checkbox columns."""
    names = {key for key in keys if _NAME.fullmatch(key)}
    return names | {name.partition("___")[0] for name in names}


def _unescape(text: str) -> str:
    for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#039;", "'"), ("&apos;", "'")):
        text = text.replace(entity, sign)
    return text.replace("&amp;", "&")
