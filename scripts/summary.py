"""Judges a test report for CI: counts skips, and refuses those that have no excuse.

Usage: ``summary.py JUNIT_XML SHARED_FOLDER STATUS``; ends with ``N passed, N failed`` and the exit code.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET  # our own pytest wrote the file
from pathlib import Path


def main(report: Path, shared: Path, status: int) -> int:
    """Prints the summary of ``report`` and returns the exit code, at least ``status``."""
    if not report.is_file():
        print(f"fiona: no tests ran (exit code {status}); see above", file=sys.stderr)
        return status or 1
    passed, failed, reasons = 0, 0, []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif skipped is None or skipped.get("type") == "pytest.xfail":
            passed += 1
        else:
            reasons.append(skipped.get("message", ""))
    print(f"{len(reasons)} skipped")
    for reason in sorted(set(reasons)):
        print(f"  {reasons.count(reason)} x {reason}")
    if shared.is_dir() and any("shared" in reason.lower() for reason in reasons):
        print(f"fiona: {shared} is there, but tests that read it were skipped", file=sys.stderr)
        status = status or 1
    if passed == 0:
        print("fiona: no test passed", file=sys.stderr)
        status = status or 1
    print(f"{passed} passed, {failed} failed")
    return status or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
