"""Where packages and instances go, and what proves that they arrived.

Each target is one function that either returns a :class:`Proof` or raises. Kind, time and counts of a
proof identify nobody; names at the other side, mapped UIDs and the like stand in ``private``, for the
ledger only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

from fiona_dagster.errors import DeliveryRefused, PeerUnavailable

ProofKind = Literal[
    "sftp-readback",
    "sftp-digest",
    "sftp-md5sum-server",
    "folder-readback",
    "s3-checksum",
    "s3-readback",
    "agreement",
    "dicom-commitment",
    "dicom-find",
    "dicom-find-count",
    "dicom-compare",
    "qido-instances",
    "wado-compare",
]
"""How receipt was proven; ``agreement``: not at all, as it was agreed (a write-only drop box)."""
AGREED = "agreement"


@dataclass(frozen=True)
class Proof:
    """Evidence that a target has what was to be delivered.

    Attributes:
        kind: how it was proven.
        target: the target's name in config.json, or its kind.
        time: when, UTC ISO 8601.
        counts: plain numbers, such as files, bytes, instances.
        digests: hexadecimal digests of what lies there, by algorithm.
        private: what may identify (remote name, mapped UIDs); for the ledger, never for Dagster or logs.
    """

    kind: ProofKind
    target: str
    time: str
    counts: Mapping[str, int]
    digests: Mapping[str, str] = field(default_factory=dict)
    private: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def proven(self) -> bool:
        """False: delivered, unproven by agreement."""
        return self.kind != AGREED

    def to_json(self) -> dict[str, Any]:
        """What is no secret: for Dagster and the log; the rest is private."""
        return {
            "kind": self.kind,
            "target": self.target,
            "time": self.time,
            "counts": dict(self.counts),
            "digests": dict(self.digests),
        }

    def to_private_json(self) -> dict[str, Any]:
        """Everything, for the ledger."""
        return {**self.to_json(), "private": dict(self.private)}


def has_side_files(name: str) -> bool:
    """Whether checksum files belong beside a delivered file: not beside those that lie beside archives."""
    return not name.endswith((".md5sum", ".json"))


def together(proofs: Sequence[Proof]) -> Proof:
    """One proof for several files of a delivery, of which the last is the package.

    Args:
        proofs: of each file, at one target. What was not proven for one of them is not proven for all.
    """
    last = proofs[-1]
    if len(proofs) == 1:
        return last
    counts = Counter[str]()
    for proof in proofs:
        counts.update(proof.counts)
    counts["flushed"] = min(proof.counts.get("flushed", 0) for proof in proofs)
    weakest = next((proof for proof in proofs if not proof.proven), last)
    return replace(weakest, counts=dict(counts), digests=last.digests, private=last.private, time=last.time)


class InstancesRefused(DeliveryRefused):
    """A research PACS refused instances for good.

    Attributes:
        instances: mapped SOP Instance UID -> DIMSE status (four hex digits) or reason; for the ledger only.
    """

    def __init__(self, message: str, instances: Mapping[str, str]) -> None:
        super().__init__(message)
        self.instances = dict(instances)


class InstancesMissing(PeerUnavailable):
    """A research PACS does not have every instance yet; another attempt may bring them.

    Attributes:
        instances: mapped SOP Instance UID -> what is known; for the ledger only.
    """

    def __init__(self, message: str, instances: Mapping[str, str]) -> None:
        super().__init__(message)
        self.instances = dict(instances)


class ArrivedDamaged(PeerUnavailable):
    """What arrived is not what was sent: it is removed, and sent anew. The target answers."""


def utc_now() -> str:
    """The time now as it is written in proofs."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
