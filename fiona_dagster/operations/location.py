"""Asks the webserver about the code location: ``python -m ...operations.location URL NAME [reload]``.

A program of its own, so that the supervisor never waits for an answer. Prints one line; exit code 0
when the location is loaded, 1 when it is not, 3 when it is being loaded.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

LOADING = "loading"

_ENTRY = """
    __typename
    ... on WorkspaceLocationEntry {
      loadStatus
      locationOrLoadError { __typename ... on PythonError { message causes { message } } }
    }
    ... on PythonError { message causes { message } }
"""
_STATE = (
    f"query State($name: String!) {{ answer: workspaceLocationEntryOrError(name: $name) {{ {_ENTRY} }} }}"
)
_RELOAD = (
    "mutation Reload($name: String!) "
    f"{{ answer: reloadRepositoryLocation(repositoryLocationName: $name) {{ {_ENTRY} }} }}"
)


def ask_location(url: str, name: str, *, reload: bool = False, timeout: float = 120) -> str | None:
    """Whether a code location is loaded.

    Args:
        url: the webserver, without a path.
        name: the location.
        reload: load it again first.
        timeout: seconds.

    Returns:
        ``None`` when it is loaded, ``LOADING`` when it is being loaded, otherwise why not in one line.
    """
    body = json.dumps({"query": _RELOAD if reload else _STATE, "variables": {"name": name}}).encode()
    request = urllib.request.Request(  # noqa: S310 - the supervisor's own http address
        f"{url}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            document = json.load(answer)
    except (OSError, ValueError) as error:
        return f"the webserver gave no answer ({type(error).__name__})"
    return _problem(document)


def _problem(document: Any) -> str | None:
    entry = (document.get("data") or {}).get("answer")
    if not isinstance(entry, dict):
        return "the webserver did not understand the request"
    if entry.get("__typename") != "WorkspaceLocationEntry":
        return _reason(entry)
    location = entry.get("locationOrLoadError") or {}
    if location.get("__typename") == "PythonError":
        return _reason(location)
    if entry.get("loadStatus") == "LOADING" or not location:
        return LOADING
    return None


def _reason(error: Any) -> str:
    """The innermost cause: what is around it says only that our module was being imported."""
    texts = [error.get("message"), *(cause.get("message") for cause in error.get("causes") or [])]
    lines = [line for text in texts if text for line in str(text).strip().splitlines()[-1:]]
    return (lines or [str(error.get("__typename"))])[-1].removeprefix("fiona_dagster.errors.")


if __name__ == "__main__":
    problem = ask_location(sys.argv[1], sys.argv[2], reload=sys.argv[3:] == ["reload"])
    sys.stdout.write(f"{problem or 'loaded'}\n")
    sys.exit({None: 0, LOADING: 3}.get(problem, 1))
