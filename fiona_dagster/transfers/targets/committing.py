"""Storage commitment as proof of a delivery to a research PACS (PS3.4 annex J): asked, awaited, judged.

The PACS may answer at once or much later, on an association of its own to our receiver; until then the
delivery ends with ``ProofAwaited`` and sends nothing when it is tried again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from fiona_dagster.config import DataRoot, DicomTarget
from fiona_dagster.dicom.commitment import CommitmentReport, request_commitment
from fiona_dagster.dicom.instances import Instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.errors import DeliveryRefused, PeerNotTrusted, PeerUnavailable, ProofAwaited
from fiona_dagster.landing.asked import AskedCommitment, all_asked, forget_asked, keep_answer, keep_asked
from fiona_dagster.transfers.targets import InstancesMissing, utc_now


class Commitment:
    """What one target was asked to keep safe of one delivery.

    Args:
        target: where to.
        root: the data root.
        name: the target's name in config.json.
        digests: mapped SOP Instance UID -> SHA-256 of what is to be there.
        transfer: number of the transfer in the ledger; 0: there is none.
    """

    def __init__(
        self, target: DicomTarget, root: DataRoot, name: str, digests: Mapping[str, str], transfer: int = 0
    ) -> None:
        self._root = root
        self._name = name
        self._hours = target.commitment_hours
        self._instances = tuple(sorted(digests))
        text = "\n".join(f"{uid} {digests[uid]}" for uid in self._instances)
        self._what = hashlib.sha256(text.encode()).hexdigest()
        self._transfer = transfer
        self._asked: AskedCommitment | None = None
        for asked in all_asked(root) if self._hours else ():
            if asked.target == name and asked.what == self._what:
                self._asked = asked
            elif asked.target == name and transfer and asked.transfer == transfer:
                forget_asked(root, asked.transaction)  # it was about what this transfer had before

    @property
    def refused(self) -> frozenset[str]:
        """What the PACS lists and does not keep safe, as it said: it is sent again."""
        return frozenset(self._asked.refused if self._asked is not None else ())

    def sent_again(self) -> None:
        """Something was sent once more: it is to be asked for anew.

        An answer that came, or still comes, is about what lay there before.
        """
        if self._asked is not None:
            self._settle(self._asked)

    def proves(self, peer: Peer, instances: Sequence[Instance]) -> bool:
        """Whether the PACS promised to keep all of it safe.

        Args:
            peer: the PACS.
            instances: what it lists now.

        Returns:
            False: it is not asked, does not offer it, or did not answer in time; C-FIND has to do.

        Raises:
            ProofAwaited: it was asked and did not answer yet.
            PeerNotTrusted: it is not who its certificate should say.
            InstancesMissing: it does not keep some of it; these are sent again.
        """
        if not self._hours:
            return False
        if self._asked is None and not self._ask(peer, instances):
            return False
        asked = self._asked
        assert asked is not None  # noqa: S101 - by construction
        if asked.refused:
            named = {uid: f"commitment refused, reason {why:04X}" for uid, why in asked.refused.items()}
            raise InstancesMissing(
                f"target {self._name}: the PACS lists all instances and does not promise to keep "
                f"{len(named)} of them; trying again sends only these",
                named,
            )
        if asked.answered:
            self._settle(asked)
            return True
        age = datetime.now(UTC) - datetime.fromisoformat(asked.time)
        if age > timedelta(hours=self._hours):
            self._settle(asked)
            return False
        raise ProofAwaited(
            f"target {self._name}: the PACS lists all instances and has not yet answered the request for "
            f"storage commitment; after {self._hours:g} hours its list has to do"
        )

    def _ask(self, peer: Peer, instances: Sequence[Instance]) -> bool:
        transaction = f"2.25.{secrets.randbits(127)}"
        asked = AskedCommitment(
            utc_now(),
            transaction,
            self._name,
            peer.called,
            self._what,
            self._instances,
            transfer=self._transfer,
        )
        keep_asked(self._root, asked)  # before it is asked: the answer may be here first
        references = [(each.sop_class, each.sop_instance) for each in instances]
        try:
            request_commitment(peer, transaction, references, lambda report: self._keep(peer, report))
        except (PeerUnavailable, PeerNotTrusted):
            forget_asked(self._root, transaction)
            raise
        except DeliveryRefused:
            forget_asked(self._root, transaction)
            return False
        found = [each for each in all_asked(self._root) if each.transaction == transaction]
        self._asked = found[0] if found else asked
        return True

    def _keep(self, peer: Peer, report: CommitmentReport) -> None:
        failed = {instance: why for (_, instance), why in report.failed.items()}
        committed = tuple(instance for _, instance in report.committed)
        keep_answer(self._root, report.transaction, peer.called, committed, failed)

    def _settle(self, asked: AskedCommitment) -> None:
        forget_asked(self._root, asked.transaction)
        self._asked = None
