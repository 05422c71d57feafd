"""A small research PACS on loopback: C-ECHO, C-STORE, C-FIND in Study Root (on pynetdicom)."""

from __future__ import annotations

import logging
import os
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import config as pydicom_config
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

AE_TITLE = "RESEARCH"

SUCCESS, PENDING, CANCELLED = 0x0000, 0xFF00, 0xFE00
OUT_OF_RESOURCES, CANNOT_UNDERSTAND, NOT_SUPPORTED = 0xA700, 0xC000, 0xA900

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


class ResearchPacs:
    """Keeps instances as ``folder/<Study>/<SOPInstanceUID>.dcm`` and lists them, until closed.

    Args:
        folder: made if missing; what lies there already is listed too.
        port: 0 for a free one.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, str, str]] = {}
        for path in folder.glob("*/*.dcm"):
            self._note(_read_uids(path))
        entity = AE(ae_title=AE_TITLE)
        entity.require_called_aet = True
        entity.maximum_pdu_size = 131072
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context(Verification)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        handlers: Any = [
            (evt.EVT_CONN_OPEN, _no_delay),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
        ]
        server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
        self._server = server
        self.port = int(server.socket.getsockname()[1])

    def __enter__(self) -> ResearchPacs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()

    def describe(self) -> dict[str, Any]:
        """What a target in config.json needs to know."""
        return {"host": "127.0.0.1", "port": self.port, "ae_title": AE_TITLE, "files": str(self.folder)}

    def sop_instance_uids(self) -> set[str]:
        """What it has."""
        with self._lock:
            return set(self._known)

    def _note(self, uids: tuple[str, str, str]) -> None:
        with self._lock:
            self._known[uids[2]] = uids

    def _store(self, event: Any) -> int:
        try:
            with warnings.catch_warnings(), pydicom_config.disable_value_validation():
                warnings.simplefilter("ignore")
                study, series = _uids_of(event.dataset)[:2]
        except Exception:  # noqa: BLE001 - whatever pydicom says: not stored
            return CANNOT_UNDERSTAND
        sop_instance = str(event.request.AffectedSOPInstanceUID)
        if not all(_is_uid(uid) for uid in (study, series, sop_instance)):
            return NOT_SUPPORTED
        target = self.folder / study / f"{sop_instance}.dcm"
        try:
            target.parent.mkdir(mode=0o700, exist_ok=True)
            part = target.with_name(f".{target.name}.part")
            with part.open("wb") as stream:
                stream.write(event.encoded_dataset())
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(target)
        except OSError:
            return OUT_OF_RESOURCES
        self._note((study, series, sop_instance))
        return SUCCESS

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        level = str(query.get("QueryRetrieveLevel", ""))
        if level not in ("STUDY", "SERIES", "IMAGE"):
            yield NOT_SUPPORTED, None
            return
        with self._lock:
            known = sorted(self._known.values())
        wanted = [_list_of(query.get(keyword)) for keyword in _UIDS]
        matching = [
            uids
            for uids in known
            if all(not ask or uid in ask for ask, uid in zip(wanted, uids, strict=True))
        ]
        depth = {"STUDY": 1, "SERIES": 2, "IMAGE": 3}[level]
        for key in sorted({uids[:depth] for uids in matching}):
            if event.is_cancelled:
                yield CANCELLED, None
                return
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            for keyword, uid in zip(_UIDS, key, strict=False):
                setattr(answer, keyword, uid)
            count = sum(1 for uids in known if uids[:depth] == key)
            if level != "IMAGE":
                setattr(answer, f"NumberOf{level.capitalize()}RelatedInstances", count)
            yield PENDING, answer


def _list_of(value: object) -> set[str]:
    """List of UID matching (PS3.4 C.2.2.2.2)."""
    many = value if isinstance(value, MultiValue | list) else [value]
    return {str(each) for each in many if each}


def _uids_of(dataset: Dataset) -> tuple[str, str, str]:
    study, series, sop_instance = (str(dataset.get(keyword) or "") for keyword in _UIDS)
    return study, series, sop_instance


def _read_uids(path: Path) -> tuple[str, str, str]:
    with pydicom_config.disable_value_validation():
        return _uids_of(dcmread(path, stop_before_pixels=True, specific_tags=list(_UIDS)))


def _is_uid(uid: str) -> bool:
    parts = uid.split(".")
    return 0 < len(uid) <= 64 and all(part.isascii() and part.isdigit() for part in parts)


def _no_delay(event: Any) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
