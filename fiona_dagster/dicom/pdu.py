"""Protocol data units of the upper layer (PS3.8 section 9.3) as bytes; no sockets here."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fiona_dagster.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from fiona_dagster.dicom.uids import APPLICATION_CONTEXT, clean_uid
from fiona_dagster.errors import UnreadableDicom

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ = 0x01, 0x02, 0x03
P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = 0x04, 0x05, 0x06, 0x07

MAX_ASSOCIATE = 256 * 1024
"""Largest A-ASSOCIATE-RQ that is read, bytes; 128 contexts with every transfer syntax need a quarter."""

MAX_CONTEXTS = 128
"""Presentation contexts of one request: their ids are odd and fit a byte (PS3.8 section 9.3.2.2)."""

# PS3.8 table 9-18, result of a presentation context.
ACCEPTED, ABSTRACT_SYNTAX_REFUSED, TRANSFER_SYNTAX_REFUSED = 0, 3, 4

# PS3.8 table 9-21: result, source, reason.
REJECT_CONTEXT_NAME = (1, 1, 2)
REJECT_CALLING_AE = (1, 1, 3)
REJECT_CALLED_AE = (1, 1, 7)
REJECT_PROTOCOL = (1, 2, 2)
REJECT_CONGESTION = (2, 3, 1)
REJECT_LIMIT = (2, 3, 2)

# PS3.8 table 9-26, reasons of an abort by the provider.
ABORT_UNRECOGNIZED, ABORT_UNEXPECTED, ABORT_BAD_VALUE = 1, 2, 6
ABORT_NO_REASON = 0

_HEADER, _ONE_VALUE = struct.Struct(">BBI"), struct.Struct(">BBIIBB")


@dataclass(frozen=True)
class ProposedContext:
    """One presentation context of a request: its odd id, what it is for, how it may be encoded."""

    identifier: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class AnsweredContext:
    """Our answer to one presentation context: result and, when accepted, the transfer syntax."""

    identifier: int
    result: int
    transfer_syntax: str


@dataclass(frozen=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2). ``max_pdu`` is what the peer receives, 0 for no limit.

    ``scp_roles`` are SOP classes that the requestor offers to be the SCP of (PS3.7 D.3.3.4).
    """

    protocol_version: int
    called_ae: str
    calling_ae: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu: int = 16384
    raw_titles: bytes = bytes(32)
    scp_roles: tuple[str, ...] = ()


def ae_title(raw: bytes) -> str:
    """An AE title without padding; characters that no AE title may have are kept for the caller to judge."""
    return raw.decode("latin-1").strip("\0 ")


def is_ae_title(text: str) -> bool:
    """Whether ``text`` is an AE title: 1 to 16 printable ASCII characters, no backslash (PS3.5 6.2)."""
    return 0 < len(text) <= 16 and all(" " <= c <= "~" and c != "\\" for c in text)


def _items(body: bytes, what: str) -> list[tuple[int, bytes]]:
    items: list[tuple[int, bytes]] = []
    at = 0
    while at < len(body):
        if at + 4 > len(body):
            raise UnreadableDicom(f"{what}: item header is cut")
        kind, length = struct.unpack_from(">BxH", body, at)
        if at + 4 + length > len(body):
            raise UnreadableDicom(f"{what}: item 0x{kind:02X} is longer than the PDU")
        items.append((kind, body[at + 4 : at + 4 + length]))
        at += 4 + length
    return items


def _context(body: bytes) -> ProposedContext:
    if len(body) < 4:
        raise UnreadableDicom("A-ASSOCIATE-RQ: presentation context is cut")
    syntaxes = _items(body[4:], "presentation context")
    return ProposedContext(
        identifier=body[0],
        abstract_syntax=next((clean_uid(value) for kind, value in syntaxes if kind == 0x30), ""),
        transfer_syntaxes=tuple(clean_uid(value) for kind, value in syntaxes if kind == 0x40),
    )


def decode_associate_request(body: bytes) -> AssociateRequest:
    """Decodes what follows the six bytes of the PDU header.

    Raises:
        UnreadableDicom: lengths that don't fit together, or too many presentation contexts.
    """
    if len(body) < 68:
        raise UnreadableDicom("A-ASSOCIATE-RQ is cut")
    context_name = ""
    contexts: list[ProposedContext] = []
    max_pdu = 16384
    roles: list[str] = []
    for kind, value in _items(body[68:], "A-ASSOCIATE-RQ"):
        if kind == 0x10:
            context_name = clean_uid(value)
        elif kind == 0x20:
            contexts.append(_context(value))
        elif kind == 0x50:
            for sub, data in _items(value, "user information"):
                if sub == 0x51 and len(data) == 4:
                    max_pdu = struct.unpack(">I", data)[0]
                elif sub == 0x54 and len(data) > 4 and data[-1] == 1:
                    roles.append(clean_uid(data[2:-2]))
    if len(contexts) > MAX_CONTEXTS:
        raise UnreadableDicom(f"A-ASSOCIATE-RQ: more than {MAX_CONTEXTS} presentation contexts")
    return AssociateRequest(
        protocol_version=struct.unpack_from(">H", body)[0],
        called_ae=ae_title(body[4:20]),
        calling_ae=ae_title(body[20:36]),
        application_context=context_name,
        contexts=tuple(contexts),
        max_pdu=max_pdu,
        raw_titles=body[4:36],
        scp_roles=tuple(roles),
    )


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def encode_associate_request(
    called: str,
    calling: str,
    contexts: Sequence[ProposedContext],
    max_pdu: int,
    scp_roles: Sequence[str] = (),
) -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2).

    Args:
        called: AE title of the peer.
        calling: ours.
        contexts: what is proposed, at most :data:`MAX_CONTEXTS`.
        max_pdu: largest P-DATA-TF that we receive, bytes.
        scp_roles: SOP classes that we offer to be the SCP of (PS3.7 D.3.3.4).
    """
    titles = called.encode("ascii", "replace")[:16].ljust(16) + calling.encode("ascii", "replace")[:16].ljust(
        16
    )
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, APPLICATION_CONTEXT.encode())
    for context in contexts:
        syntaxes = b"".join(
            _item(0x40, syntax.encode("ascii", "replace")) for syntax in context.transfer_syntaxes
        )
        abstract = _item(0x30, context.abstract_syntax.encode("ascii", "replace"))
        body += _item(0x20, bytes([context.identifier, 0, 0, 0]) + abstract + syntaxes)
    user = _user_information(max_pdu)
    user += _scp_roles(scp_roles)
    body += _item(0x50, user)
    return _HEADER.pack(ASSOCIATE_RQ, 0, len(body)) + body


def _scp_roles(classes: Sequence[str]) -> bytes:
    """SCP/SCU role selection: the requestor is SCP, and not SCU (PS3.7 D.3.3.4)."""
    raws = [uid.encode("ascii", "replace") for uid in classes]
    return b"".join(_item(0x54, struct.pack(">H", len(raw)) + raw + b"\0\1") for raw in raws)


def _user_information(max_pdu: int) -> bytes:
    user = _item(0x51, struct.pack(">I", max_pdu)) + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    return user + _item(0x55, IMPLEMENTATION_VERSION.encode())


@dataclass(frozen=True)
class AssociateAccept:
    """An A-ASSOCIATE-AC (PS3.8 9.3.3). ``max_pdu`` is what the peer receives, 0 for no limit."""

    contexts: tuple[AnsweredContext, ...]
    max_pdu: int = 16384


def decode_associate_accept(body: bytes) -> AssociateAccept:
    """Decodes what follows the six bytes of the PDU header.

    The titles in it are not tested (PS3.8 9.3.3), nor what it says of presentation contexts that nobody
    proposed: the caller looks for its own.

    Raises:
        UnreadableDicom: lengths that don't fit together, or too many presentation contexts.
    """
    if len(body) < 68:
        raise UnreadableDicom("A-ASSOCIATE-AC is cut")
    contexts: list[AnsweredContext] = []
    max_pdu = 16384
    for kind, value in _items(body[68:], "A-ASSOCIATE-AC"):
        if kind == 0x21:
            if len(value) < 4:
                raise UnreadableDicom("A-ASSOCIATE-AC: presentation context is cut")
            # A context that is refused may leave its transfer syntax out, or put anything there.
            syntax = ""
            if value[2] == ACCEPTED:
                items = _items(value[4:], "presentation context")
                syntax = next((clean_uid(data) for sub, data in items if sub == 0x40), "")
            contexts.append(AnsweredContext(value[0], value[2], syntax))
        elif kind == 0x50:
            for sub, data in _items(value, "user information"):
                if sub == 0x51 and len(data) == 4:
                    max_pdu = struct.unpack(">I", data)[0]
    if len(contexts) > MAX_CONTEXTS:
        raise UnreadableDicom(f"A-ASSOCIATE-AC: more than {MAX_CONTEXTS} presentation contexts")
    return AssociateAccept(tuple(contexts), max_pdu)


def encode_associate_accept(
    request: AssociateRequest,
    answers: Sequence[AnsweredContext],
    max_pdu: int,
    scp_roles: Sequence[str] = (),
) -> bytes:
    """A-ASSOCIATE-AC (PS3.8 9.3.3).

    Args:
        request: what is answered; its titles are sent back as they came.
        answers: one for each proposed context.
        max_pdu: largest P-DATA-TF that we receive, bytes.
        scp_roles: SOP classes that the requestor may be the SCP of, as it offered.
    """
    body = struct.pack(">HH", 1, 0) + request.raw_titles + bytes(32)
    body += _item(0x10, APPLICATION_CONTEXT.encode())
    for answer in answers:
        syntax = _item(0x40, answer.transfer_syntax.encode("ascii", "replace"))
        body += _item(0x21, bytes([answer.identifier, 0, answer.result, 0]) + syntax)
    body += _item(0x50, _user_information(max_pdu) + _scp_roles(scp_roles))
    return _HEADER.pack(ASSOCIATE_AC, 0, len(body)) + body


def encode_reject(cause: tuple[int, int, int]) -> bytes:
    """A-ASSOCIATE-RJ with (result, source, reason)."""
    return _HEADER.pack(ASSOCIATE_RJ, 0, 4) + bytes([0, *cause])


def decode_reject(body: bytes) -> tuple[int, int, int]:
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4).

    Raises:
        UnreadableDicom: it is cut.
    """
    if len(body) < 4:
        raise UnreadableDicom("A-ASSOCIATE-RJ is cut")
    return body[1], body[2], body[3]


def encode_release_request() -> bytes:
    """A-RELEASE-RQ."""
    return _HEADER.pack(RELEASE_RQ, 0, 4) + bytes(4)


def encode_release_response() -> bytes:
    """A-RELEASE-RP."""
    return _HEADER.pack(RELEASE_RP, 0, 4) + bytes(4)


def encode_abort(reason: int) -> bytes:
    """A-ABORT by the service provider."""
    return _HEADER.pack(ABORT, 0, 4) + bytes([0, 0, 2, reason])


def encode_user_abort() -> bytes:
    """A-ABORT by the service user, who need not say why (PS3.8 9.3.8)."""
    return _HEADER.pack(ABORT, 0, 4) + bytes(4)


def data_values(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Message control header and fragment of each presentation data value in a P-DATA-TF (PS3.8 9.3.5).

    Raises:
        UnreadableDicom: lengths that don't fit together.
    """
    at = 0
    while at < len(body):
        if at + 6 > len(body):
            raise UnreadableDicom("P-DATA-TF is cut")
        length, _, control = struct.unpack_from(">IBB", body, at)
        if length < 2 or at + 4 + length > len(body):
            raise UnreadableDicom("presentation data value does not fit its PDU")
        yield control, body[at + 6 : at + 4 + length]
        at += 4 + length


def encode_command(context: int, command: bytes, max_pdu: int) -> bytes:
    """P-DATA-TF with one command set, split where the peer's limit asks for it.

    Args:
        context: presentation context id.
        command: the encoded command set.
        max_pdu: what the peer receives, bytes; 0 for no limit.
    """
    step = len(command) if max_pdu == 0 else max(max_pdu - 6, 64)
    if len(command) <= step:
        return _ONE_VALUE.pack(P_DATA, 0, len(command) + 6, len(command) + 2, context, 0x03) + command
    out = b""
    for at in range(0, len(command), step):
        part = command[at : at + step]
        last = 0x02 if at + step >= len(command) else 0x00
        out += _HEADER.pack(P_DATA, 0, len(part) + 6)
        out += struct.pack(">IBB", len(part) + 2, context, 0x01 | last) + part
    return out
