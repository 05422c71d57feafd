"""What an account of the data root finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, order=True)
class Finding:
    """Something that has no known state.

    Attributes:
        code: one word for programs.
        study: StudyInstanceUID, "" where there is none.
        path: the file, relative to the data root, or the key of a row.
        message: what is wrong and what to do; nothing identifying.
        handled: who will take care of it by itself, "" if nobody does.
    """

    code: str
    study: str
    path: str
    message: str
    handled: str = ""


RECEIVER = "the receiver, when it starts"
MAINTENANCE = "the job maintenance, within the hour, or the next start of the receiver"


@dataclass
class Account:
    """The result of one look.

    Attributes:
        unaccounted: what nobody will take care of by itself.
        pending: what is cleaned up without anybody's help, and by whom.
        checked: how much was looked at.
    """

    unaccounted: list[Finding] = field(default_factory=list)
    pending: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)

    def add(self, code: str, study: str, path: str, message: str, handled: str = "") -> None:
        """Books one finding."""
        finding = Finding(code, study, path, message, handled)
        (self.pending if handled else self.unaccounted).append(finding)

    def of_study(self, study: str) -> Account:
        """Only what belongs to one study."""
        return Account(
            [finding for finding in self.unaccounted if finding.study == study],
            [finding for finding in self.pending if finding.study == study],
            self.checked,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able picture."""
        return {
            "unaccounted": [asdict(finding) for finding in sorted(self.unaccounted)],
            "pending": [asdict(finding) for finding in sorted(self.pending)],
            "checked": self.checked,
        }
