"""The one error tree of the gateway.

::

    FionaError
    ├── TransientError            may pass by itself: try again later
    │   ├── PeerUnavailable       a peer (SFTP server, research PACS) can't be reached or broke off
    │   │   └── TargetDown        a target failed several times in a row; one delivery at a time tries it
    │   ├── ProofAwaited          a target has everything; its proof comes later
    │   ├── RedcapUnavailable     REDCap is down, slow, or answered with something that is not REDCap
    │   │   └── RedcapSilent      it did not answer a moment ago; one call at a time tries it
    │   ├── OptOutUnavailable     the hospital's opt-out list is configured and can't be read, or is too old
    │   ├── OriginalUnavailable   the disk does not give an archived file; says nothing about the object
    │   ├── CopyLost              a copy may have lost bytes to a power loss; it is made again
    │   ├── CopyUnavailable       the disk does not give a verified copy or package; says nothing about it
    │   ├── LedgerLost            the ledger is gone, empty, too old or damaged; it is built anew
    │   ├── StorageFull           no room, no inodes, or the reserve is reached
    │   ├── SendingHeld           an operator holds all sending (config/enabled)
    │   ├── WithdrawalAsked       many requests were withdrawn at once; a person decides, nothing is sent
    │   ├── Superseded            another request or late images took the place of this transfer
    │   └── Busy                  somebody else holds the lock of this study
    └── PermanentError            will not pass: a person must act
        ├── UsageError            the command was called wrongly
        ├── ConfigurationError    a configuration, rule or project file is wrong
        ├── KeyMismatch           a project key is missing or is not the one that was used before
        ├── UnreadableDicom       bytes that are no DICOM, or broken before what we need
        ├── RefusedDicom          readable, but refused on purpose (nesting, size, kind, not understood)
        ├── NotVerified           the gate: bytes in hand are not those of a passed verification
        ├── ResidualIdentifier    the verification found something identifying (never says the value)
        ├── RequestRefused        a transfer request that can't be carried out as written
        │   ├── RequestChanged    it says something else in REDCap than what was carried out
        │   ├── RemovalAwaited    not before the removal of an older copy is confirmed
        │   └── ConsentWithdrawn  the participant withdrew the consent
        ├── ReleaseAwaited        the gate: a person has to look at the verified copy first
        ├── RedcapRejected        REDCap understood and said no
        ├── DeliveryRefused       a target said no, or holds something else under our name
        │   ├── PeerNotTrusted    a target shows another host key or certificate than it should
        │   └── ContentUnproven   a target has everything, but maybe as older bytes under the same UIDs
        ├── PatternTooSlow        a regular expression of the site runs too long (never says the value)
        ├── UnknownStudy          no such study here
        └── StartFailed           the services can't be started as things are

Messages say what happened, where, and what to do. They never hold a value of an identifying
attribute: names, ids, dates of birth, accession numbers, participants and events stay out.
"""

from __future__ import annotations


class FionaError(Exception):
    """Base of every error that the gateway raises on purpose."""


class TransientError(FionaError):
    """May pass by itself; whoever catches it may try again later."""


class PeerUnavailable(TransientError):
    """A peer can't be reached, timed out, or broke off in the middle."""


class TargetDown(PeerUnavailable):
    """A target failed several times in a row and is left alone until one delivery has got through to it."""


class ProofAwaited(TransientError):
    """A target was sent everything and has not yet said what it has; asking again sends nothing."""


class RedcapUnavailable(TransientError):
    """REDCap gave no usable answer (408, 5xx, time-out, connection, a web page, a redirect to elsewhere)."""


class RedcapSilent(RedcapUnavailable):
    """REDCap was not called: it did not answer others in time, and it is another call's turn to try."""


class OptOutUnavailable(TransientError):
    """The opt-out list is configured and can't be read, or is too old: nobody is taken for willing."""


class OriginalUnavailable(TransientError):
    """The disk or mount does not give an original; the object itself may be sound, and is never left out."""


class CopyLost(TransientError):
    """A working copy may have lost bytes to a power loss before it was verified; it is made again."""


class CopyUnavailable(TransientError):
    """The disk or mount does not give a verified copy or package; what it holds may be as it should be."""


class LedgerLost(TransientError):
    """The ledger is gone, empty, older than its records or damaged: says nothing about any study.

    ``fiona up`` builds it anew by itself, ``fiona rebuild`` by hand; what met it is tried again afterwards.
    """


class DagsterStorageDamaged(TransientError):
    """Dagster's own storage can't be read: ``fiona up`` puts it aside when it starts."""


class StorageFull(TransientError):
    """The disk has no room or no inodes left, or the configured reserve is reached."""


class SendingHeld(TransientError):
    """An operator holds all deliveries: the third digit of ``config/enabled`` is ``0``."""


class Superseded(TransientError):
    """The transfer that was worked on does not count any more; what took its place has work of its own."""


class WithdrawalAsked(TransientError):
    """More requests were withdrawn at once than the site allows; nothing is sent until a person decides."""


class Busy(TransientError):
    """Somebody else works on the same study at this moment."""


class PermanentError(FionaError):
    """Will not pass by itself; trying again changes nothing until a person acts."""


class UsageError(PermanentError):
    """The command was called in a way that makes no sense."""


class ConfigurationError(PermanentError):
    """A configuration, rule or project file is wrong; the message names file, line, key and expectation."""


class KeyMismatch(PermanentError):
    """A project's key is missing or differs from the fingerprint that was recorded at its first use."""


class UnreadableDicom(PermanentError):
    """The bytes are not DICOM, or are broken before what is needed; says position and reason."""


class RefusedDicom(PermanentError):
    """The object can be read but is refused on purpose: too deep, too large, or not understood."""


class NotVerified(PermanentError):
    """The gate: the ledger holds no passed verification record whose digests equal the bytes in hand."""


class ReleaseAwaited(PermanentError):
    """The gate: a verified copy that a person has to look at was not released, or was rejected."""


class ResidualIdentifier(PermanentError):
    """The verification found something identifying; names tag and rule, never the value."""


class RequestRefused(PermanentError):
    """A transfer request can't be carried out as it is written."""


class RequestChanged(RequestRefused):
    """The request says something else in REDCap by now; its record is not ours to write into."""


class RemovalAwaited(RequestRefused):
    """The study lies at a target under another participant or event, and nobody confirmed its removal."""


class ConsentWithdrawn(RequestRefused):
    """The participant withdrew the consent; nothing of this person is sent for the project."""


class RedcapRejected(PermanentError):
    """REDCap understood the call and refused it.

    Attributes:
        status: HTTP status of the answer.
        whole: it would be refused whatever records it held: rights, token, dictionary, parameters.
    """

    def __init__(self, message: str, status: int = 400, *, whole: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.whole = whole


class DeliveryRefused(PermanentError):
    """A target refused, its host key changed, or it holds other content under our name."""


class PeerNotTrusted(DeliveryRefused):
    """A target is not who it should be: another host key, or a certificate that nobody vouches for."""


class ContentUnproven(DeliveryRefused):
    """A target lists everything, but some of it may be older bytes under the same UIDs.

    Attributes:
        instances: mapped SOP Instance UIDs in question; for the ledger only.
    """

    def __init__(self, message: str, instances: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.instances = instances


class PatternTooSlow(PermanentError):
    """A regular expression that the site wrote takes too long for a value; names the rule, not the value."""


class UnknownStudy(PermanentError):
    """The ledger knows no study with this StudyInstanceUID."""


class StartFailed(PermanentError):
    """The services can't be started as things are: a port is taken, or what precedes the start failed."""


class ErasureUnfinished(StartFailed):
    """An erasure was cut short; nobody else writes below the data root until it is finished."""


def is_permanent(error: FionaError) -> bool:
    """Whether an error waits for a person to change something here.

    Rights, a token or a dictionary that REDCap refuses everything for are mended there, and nobody tells us:
    such a call is tried again, later and later.
    """
    return isinstance(error, PermanentError) and not (isinstance(error, RedcapRejected) and error.whole)
