"""The report of a de-identification and its verification, as people read it.

Belongs here: rows for tables, and the page. Stays out: what was done (``deidentify``) and found (``verify``).
The report is plain data (JSON); nothing in it or made from it identifies anybody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from pydicom.datadict import keyword_for_tag

MEANINGS = {
    "C": "cleaned, or a date shifted",
    "D": "replaced by a stand-in",
    "K": "kept",
    "U": "UID replaced",
    "U*": "references kept with new UIDs",
    "X": "removed",
    "Z": "emptied",
    "private": "private element removed",
    "unknown": "in no dictionary, removed",
    "uid": "UID replaced",
}
"""Actions of PS3.15 table E.1-1a in short; others explain themselves."""


def tag_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tag, keyword, action, meaning and number of elements, for every attribute that was acted upon."""
    rows = []
    for tag, actions in report.get("tags", {}).items():
        for action, count in sorted(actions.items()):
            meaning = MEANINGS.get(action, action)
            rows.append(
                {
                    "tag": tag,
                    "keyword": keyword(tag),
                    "action": action,
                    "meaning": meaning,
                    "elements": int(count),
                }
            )
    return rows


def keyword(tag: str) -> str:
    """Keyword of ``(gggg,eeee)``; "" for private attributes and those that the dictionary lacks."""
    try:
        return keyword_for_tag(int(tag.strip("()").replace(",", ""), 16))
    except ValueError:
        return ""


def rule_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Rules, key and software that a copy was made by."""
    for code in report.get("profile", ()):
        yield "profile", f"{code['meaning']} ({code['code']})"
    named = ("project", "options", "rules_digest", "key_fingerprint", "generation", "software")
    for name in named:
        if name in report:
            value = report[name]
            yield name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def finding_rows(findings: Iterable[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Tag, keyword, rule and number of files of what the search found."""
    counts = Counter((str(found["tag"]), str(found["rule"])) for found in findings)
    return [
        {"tag": tag, "keyword": keyword(tag.rpartition(".")[2]), "rule": rule, "files": count}
        for (tag, rule), count in sorted(counts.items())
    ]


_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.85em;word-break:break-all}
.good{color:#116329}.bad{color:#a40e26}@media print{body{margin:0;max-width:none}}"""


def page(report: Mapping[str, Any], verification: Mapping[str, Any]) -> bytes:
    """The report of one study as a page (HTML, self-contained, no scripts); the same report, the same bytes.

    Args:
        report: as ``StudyReport.to_json``, with ``held_back``, ``left_out`` and ``received`` of a transfer.
        verification: as ``Verification.to_json``.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width">\n<title>De-identification report</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>De-identification report</h1>\n",
        _instances(report),
        _section("By what rules", ("", ""), [list(row) for row in rule_rows(report)]),
        _search(verification),
        _section(
            "What was done",
            ("action", "meaning", "elements"),
            [
                [action, MEANINGS.get(action, action), count]
                for action, count in sorted(report.get("actions", {}).items())
            ],
        ),
        _section(
            "What was done, by attribute",
            ("tag", "attribute", "action", "elements"),
            [[row["tag"], row["keyword"], row["meaning"], row["elements"]] for row in tag_rows(report)],
        ),
        "<p>Elements are counted in all instances together and at every depth. Attributes that are not "
        "listed were kept as they are. The same as data, with a digest of every file: report.json.</p>\n"
        "</body>\n</html>\n",
    ]
    return "".join(parts).encode("utf-8", "replace")


def _instances(report: Mapping[str, Any]) -> str:
    held = sorted(report.get("held_back", {}).items())
    kept = len(report.get("files", ())) - sum(count for _, count in held)
    rows: list[list[Any]] = [["de-identified", kept]]
    rows += [[f"held back: {kind}", count] for kind, count in held]
    reasons = Counter(str(failure["reason"]) for failure in report.get("failures", ()))
    rows += [[f"not processed: {reason}", count] for reason, count in sorted(reasons.items())]
    return _section("Instances", ("", "number"), rows)


def _search(verification: Mapping[str, Any]) -> str:
    passed = bool(verification.get("passed"))
    said = "passed" if passed else "not passed"
    text = (
        f'<h2>Verification</h2>\n<p class="{"good" if passed else "bad"}">Every copy was read again by other '
        f"code than the one that wrote it, and searched: <strong>{said}</strong>, "
        f"{len(verification.get('files', {}))} files.</p>\n"
    )
    searched = [[kind, count] for kind, count in sorted(verification.get("searched", {}).items())]
    text += _section("Searched for", ("kind of term", "terms"), searched)
    for title, name in (("Found, so that nothing may leave", "findings"), ("Weak hits", "warnings")):
        rows = [
            [row["tag"], row["keyword"], row["rule"], row["files"]]
            for row in finding_rows(verification.get(name, ()))
        ]
        if rows:
            text += _section(title, ("tag", "attribute", "rule", "files"), rows)
    return text


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head) if any(head) else ""
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return f"<h2>{escape(title)}</h2>\n<table>\n<tr>{heads}</tr>\n{body}</table>\n"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="n">{value}</td>'
    return f"<td>{escape(str(value))}</td>"
