"""Who may send: calling AE titles, IP networks, called AE titles, and the reason codes of a refusal.

Belongs here: the rules of ``receiver.allowed_*``. Stays out: places and limits (:mod:`places`), sockets.
Neither an AE title nor an address proves who somebody is; a client certificate does (:mod:`tls`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fiona_dagster.dicom import APPLICATION_CONTEXT, pdu

if TYPE_CHECKING:
    from fiona_dagster.config import ReceiverSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


@dataclass(frozen=True)
class Rejection:
    """Why an association is rejected.

    Attributes:
        cause: result, source and reason of A-ASSOCIATE-RJ (PS3.8 table 9-21).
        kind: one word for counting, see :data:`KINDS`.
        why: for the log; names the setting that decided.
    """

    cause: tuple[int, int, int]
    kind: str
    why: str


KINDS = ("protocol", "calling_ae", "network", "called_ae", "limit", "draining", "tls")
"""Every ``Rejection.kind``."""

PROTOCOL = Rejection(pdu.REJECT_PROTOCOL, "protocol", "protocol version")
CONTEXT_NAME = Rejection(pdu.REJECT_CONTEXT_NAME, "protocol", "application context name")
MALFORMED = Rejection(pdu.REJECT_CALLING_AE, "calling_ae", "calling AE title is malformed")
UNKNOWN = Rejection(
    pdu.REJECT_CALLING_AE, "calling_ae", "calling AE title is not in receiver.allowed_callers"
)
ELSEWHERE = Rejection(
    pdu.REJECT_CALLING_AE,
    "network",
    "calling AE title may not send from this address or without its certificate (receiver.allowed_callers)",
)
OUTSIDE = Rejection(pdu.REJECT_CALLING_AE, "network", "address is outside of receiver.allowed_networks")
NOT_THIS_CALLED = Rejection(
    pdu.REJECT_CALLED_AE, "called_ae", "caller may not use this called AE title (receiver.allowed_callers)"
)
NOT_CALLED = Rejection(pdu.REJECT_CALLED_AE, "called_ae", "called AE title is not in receiver.allowed_called")
FULL = Rejection(
    pdu.REJECT_LIMIT,
    "limit",
    "no place left (receiver.max_associations, receiver.max_associations_per_peer)",
)
DRAINING = Rejection(pdu.REJECT_CONGESTION, "draining", "the receiver is about to stop")


@dataclass(frozen=True)
class _Rule:
    title: str | None
    networks: Networks
    called: frozenset[str]
    certificates: frozenset[str] = frozenset()

    def holds(self, address: Address, certificate: frozenset[str]) -> bool:
        """Whether somebody with this certificate calls from where the rule wants it."""
        if self.networks and not _within(address, self.networks):
            return False
        return not self.certificates or bool(self.certificates & certificate)


class Admission:
    """The rules of one listener.

    Args:
        settings: the section ``receiver``.
        own_title: DICOMAETITLE, which we always answer to.
    """

    def __init__(self, settings: ReceiverSettings, own_title: str) -> None:
        self._open = settings.accept_unknown
        self._networks = _networks(settings.allowed_networks)
        self._called = frozenset((own_title, *settings.allowed_called)) if settings.allowed_called else None
        self._rules = tuple(
            _Rule(caller, (), frozenset())
            if isinstance(caller, str)
            else _Rule(
                caller.ae_title,
                _networks(caller.networks),
                frozenset(caller.called),
                frozenset(caller.certificates),
            )
            for caller in settings.allowed_callers
        )

    def judge(
        self, request: pdu.AssociateRequest, ip: str, certificate: frozenset[str] = frozenset()
    ) -> Rejection | None:
        """Whether a request may become an association, as far as it and its origin decide.

        Args:
            request: the A-ASSOCIATE-RQ.
            ip: the address that it came from.
            certificate: names of the client certificate that the connection stands on; empty for none.

        Returns:
            Why not; None if it may.
        """
        if not request.protocol_version & 1:
            return PROTOCOL
        if request.application_context != APPLICATION_CONTEXT:
            return CONTEXT_NAME
        if not pdu.is_ae_title(request.calling_ae):
            return MALFORMED
        return self.who(request.calling_ae, request.called_ae, ip, certificate)

    def who(
        self, calling: str, called: str, ip: str, certificate: frozenset[str] = frozenset()
    ) -> Rejection | None:
        """Whether this caller may send.

        A stranger and a known title from a wrong network get the same reason code (calling AE title not
        recognized), and called titles are looked at last: who tries titles learns nothing from the answers.

        Args:
            calling: calling AE title.
            called: called AE title.
            ip: IPv4 or IPv6 address.
            certificate: names of the client certificate; empty for none.

        Returns:
            Why not; None if it may.
        """
        address = _address(ip)
        if self._networks and not _within(address, self._networks):
            return OUTSIDE
        named = [rule for rule in self._rules if rule.title == calling]
        candidates = named + [rule for rule in self._rules if rule.title is None]
        here = [rule for rule in candidates if rule.holds(address, certificate)]
        if not here and (named or not self._open):
            return ELSEWHERE if named else UNKNOWN
        if here and not any(not rule.called or called in rule.called for rule in here):
            return NOT_THIS_CALLED
        if self._called is not None and called not in self._called:
            return NOT_CALLED
        return None


def printable(text: str) -> str:
    """An AE title for a log line or a file name: what no title may have becomes ``?``."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)


def _networks(texts: tuple[str, ...]) -> Networks:
    return tuple(map(ipaddress.ip_network, texts))


def _address(ip: str) -> Address:
    address = ipaddress.ip_address(ip.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _within(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)
