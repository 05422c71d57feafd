"""The demo's scanner: sends a generated study by C-STORE, as a modality would."""

from __future__ import annotations

from fiona_dagster.demo.phantoms import DemoStudy
from fiona_dagster.dicom.instances import read_instance
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sender import store_files
from fiona_dagster.errors import DeliveryRefused, PeerUnavailable


def send_study(
    study: DemoStudy,
    host: str,
    port: int,
    *,
    calling_ae_title: str = "DEMOSCANNER",
    called_ae_title: str = "FIONA",
    timeout: float = 30.0,
) -> int:
    """Sends all instances of a study.

    Args:
        study: what, see :func:`fiona_dagster.demo.phantoms.make_studies`.
        host: receiver.
        port: its port.
        calling_ae_title: ours.
        called_ae_title: the receiver's.
        timeout: seconds that any wait may take.

    Returns:
        Number of instances that were acknowledged with Success.

    Raises:
        PeerUnavailable: no association, or no answer.
        DeliveryRefused: an instance was refused.
    """
    peer = Peer(host, port, called_ae_title, calling_ae_title, timeout)
    results = store_files(peer, [read_instance(path) for path in study.files])
    failed = [result for result in results if not result.stored]
    if failed:
        error = PeerUnavailable if all(result.may_pass for result in failed) else DeliveryRefused
        raise error(f"{peer.name}: {len(failed)} of {len(results)} instances were not accepted")
    return len(results)
