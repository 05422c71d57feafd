"""Asks the webserver to load the code location again: ``python -m fiona_dagster.operations.reload URL NAME``.

A program of its own, so that the supervisor never waits for an answer. Prints one line; exit code 0
when the location is loaded.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

_MUTATION = """
mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry {
      locationOrLoadError { __typename ... on PythonError { message } }
    }
    ... on PythonError { message }
  }
}
"""


def reload_location(url: str, name: str, timeout: float = 120) -> str | None:
    """Reloads one code location.

    Args:
        url: the webserver, without a path.
        name: the location.
        timeout: seconds.

    Returns:
        ``None`` when it is loaded, otherwise why not in one line.
    """
    body = json.dumps({"query": _MUTATION, "variables": {"name": name}}).encode()
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
    entry = (document.get("data") or {}).get("reloadRepositoryLocation")
    if not isinstance(entry, dict):
        return "the webserver did not understand the request"
    if entry.get("__typename") != "WorkspaceLocationEntry":
        return str(entry.get("message") or entry.get("__typename")).strip().splitlines()[0]
    location = entry.get("locationOrLoadError") or {}
    if location.get("__typename") == "PythonError":
        return str(location.get("message")).strip().splitlines()[-1]
    return None


if __name__ == "__main__":
    problem = reload_location(sys.argv[1], sys.argv[2])
    sys.stdout.write(f"{problem or 'loaded'}\n")
    sys.exit(1 if problem else 0)
