"""The MPPS SCP as a process of its own: ``python -m receiver.mpps``.

Belongs here: N-CREATE and N-SET of Modality Performed Procedure Steps (PS3.4 section F.7) on MPPSPORT. It
is the only place of the receiver that imports pynetdicom, and the Storage SCP never imports this module.

An answer of Success means that the step is durable: its line in the journal of evidence first, then its
file. Killed in between, the modality has no answer and asks again, which does no harm.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, _config, evt

from fiona_dagster.config import UMASK, DataRoot, Settings, load_settings_in_force
from fiona_dagster.dicom import VERIFICATION, is_uid
from fiona_dagster.errors import ConfigurationError, FionaError, StorageFull
from fiona_dagster.landing import Caller, Use, append_evidence, quarantine_file, step_file, write_step
from receiver import steps
from receiver.admission import Admission, printable
from receiver.log import log_to_stderr
from receiver.steps import StepRefused
from receiver.throttle import ThrottledLog

log = logging.getLogger("fiona.mpps")

_MEMORY = 1 << 30
"""Bytes that this process may hold: pynetdicom collects what a peer sends without a limit of its own."""
_ASSOCIATIONS = 16

Answer = tuple[int | Dataset, Dataset | None]


class MppsServer:
    """Serves MPPS on one port until :meth:`stop`.

    Args:
        root: the data root.
        settings: ``config.json`` with MPPSPORT.

    Raises:
        ConfigurationError: the address can't be listened on.
    """

    def __init__(self, root: DataRoot, settings: Settings) -> None:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it quotes values
        _config.LOG_HANDLER_LEVEL = "none"
        self._root = root
        self._mutex = threading.Lock()
        entity = AE(ae_title=settings.DICOMAETITLE)
        entity.maximum_associations = _ASSOCIATIONS
        entity.acse_timeout = settings.receiver.artim_seconds
        entity.network_timeout = entity.dimse_timeout = settings.receiver.idle_seconds
        self._admission = Admission(settings.receiver, settings.DICOMAETITLE)
        self._chatter = ThrottledLog(log)
        entity.add_supported_context(steps.MPPS)
        entity.add_supported_context(VERIFICATION)
        handlers: list[Any] = [
            (evt.EVT_N_CREATE, self._handler(self._create)),
            (evt.EVT_N_SET, self._handler(self._set)),
            (evt.EVT_REQUESTED, self._judge),
            (evt.EVT_REJECTED, self._log_rejection),
        ]
        host, port = settings.DICOMIP, settings.MPPSPORT or 0
        try:
            server: Any = entity.start_server((host, port), block=False, evt_handlers=handlers)
        except OSError as error:
            raise ConfigurationError(
                f"can't listen on {host}:{port} ({error.strerror}); change DICOMIP or MPPSPORT in config.json"
            ) from None
        self._server = server
        self.address: tuple[str, int] = server.socket.getsockname()[:2]

    def stop(self) -> None:
        """Ends all associations."""
        self._server.shutdown()

    def _judge(self, event: Any) -> None:
        """Who may send objects may send steps; pynetdicom's own check knows titles alone."""
        association = event.assoc
        asked = association.requestor.primitive
        rejection = self._admission.who(
            str(asked.calling_ae_title).strip(),
            str(asked.called_ae_title).strip(),
            association.requestor.address,
        )
        if rejection is not None:
            association.acse.send_reject(*rejection.cause)
            self._log_rejection(event)
            association.kill()

    def _log_rejection(self, event: Any) -> None:
        requestor = event.assoc.requestor
        title = printable(str(requestor.primitive.calling_ae_title).strip())
        self._chatter.say(logging.WARNING, "rejected an association of %s@%s", title, requestor.address)

    def _handler(self, serve: Callable[[Any], Answer]) -> Callable[[Any], Answer]:
        def handle(event: Any) -> Answer:
            try:
                with self._mutex, warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # pydicom's quote values
                    return serve(event)
            except StorageFull as error:
                log.error("no room for a performed procedure step: %s", error)  # noqa: TRY400
                return steps.RESOURCE_LIMITATION, None
            except Exception as error:  # noqa: BLE001 - one request must never take others with it
                last = traceback.extract_tb(error.__traceback__)[-1]
                log.error(  # noqa: TRY400 - a traceback would quote values
                    "MPPS: internal fault: %s in %s:%s", type(error).__name__, last.name, last.lineno
                )
                return steps.PROCESSING_FAILURE, None

        return handle

    def _create(self, event: Any) -> Answer:
        given = str(event.request.AffectedSOPInstanceUID or "")
        instance = given or str(generate_uid(prefix=None))  # PS3.7 section 10.1.5.1.4
        data = _bytes(event.request.AttributeList)
        try:
            self._check_new(instance)
            self._write(steps.decode(data, _syntax(event)), instance, event, first=True)
        except StepRefused as refusal:
            return self._refuse(event, "N-CREATE", instance, data, refusal)
        answer = None
        if not given:
            answer = Dataset()
            answer.AffectedSOPInstanceUID = instance
        return 0x0000, answer

    def _check_new(self, instance: str) -> None:
        if not is_uid(instance):
            raise StepRefused(steps.INVALID_INSTANCE, "Affected SOP Instance UID is malformed")
        if step_file(self._root, instance).exists():
            raise StepRefused(steps.DUPLICATE, "this step exists already", keep=False)

    def _set(self, event: Any) -> Answer:
        instance = str(event.request.RequestedSOPInstanceUID or "")
        data = _bytes(event.request.ModificationList)
        try:
            step = self._existing(instance)
            steps.update(step, steps.decode(data, _syntax(event)))
            self._write(step, instance, event)
        except StepRefused as refusal:
            return self._refuse(event, "N-SET", instance, data, refusal)
        return 0x0000, None

    def _existing(self, instance: str) -> Dataset:
        if not is_uid(instance) or not step_file(self._root, instance).exists():
            raise StepRefused(steps.NO_SUCH_INSTANCE, "no such step", keep=False)
        step = steps.read(step_file(self._root, instance).read_bytes())
        if str(step.PerformedProcedureStepStatus) != steps.IN_PROGRESS:
            raise StepRefused(
                steps.PROCESSING_FAILURE,
                "Performed Procedure Step Object may no longer be updated",
                error_id=steps.MAY_NO_LONGER_BE_UPDATED,
                keep=False,
            )
        return step

    def _write(self, step: Dataset, instance: str, event: Any, *, first: bool = False) -> None:
        described = steps.describe(step, instance, _caller(event))
        if first and described.status != steps.IN_PROGRESS:
            raise StepRefused(steps.INVALID_VALUE, "a new step must be IN PROGRESS")
        content = steps.encode(step, instance)
        append_evidence(self._root, described)
        write_step(self._root, instance, content)
        log.info(
            "step %s of %s: %s, %d series, %d instances",
            *(instance, described.calling_ae, described.status, len(described.series)),
            sum(len(instances) for instances in described.series.values()),
        )

    def _refuse(self, event: Any, service: str, instance: str, data: bytes, refusal: StepRefused) -> Answer:
        caller = _caller(event)
        uid = instance if is_uid(instance) else ""
        log.warning("refused %s of %s from %s: %s", service, uid or "?", caller.calling_ae, refusal)
        if refusal.keep:
            self._keep(data, caller, uid, service, refusal)
        status = Dataset()
        status.Status = refusal.status
        status.ErrorComment = str(refusal)[:64]
        if refusal.error_id:
            status.ErrorID = refusal.error_id
        return status, None

    def _keep(self, data: bytes, caller: Caller, instance: str, service: str, refusal: StepRefused) -> None:
        """Into quarantine: bytes of a data set without file meta."""
        fd, name = tempfile.mkstemp(dir=self._root.quarantine, prefix=".mpps-")
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        reason = {
            "code": "mpps",
            "message": f"{service} of a Modality Performed Procedure Step: {refusal}",
            "status": f"{refusal.status:04X}",
            "source": "mpps",
            "calling_ae": caller.calling_ae,
            "called_ae": caller.called_ae,
            "caller_ip": caller.ip,
            "SOPClassUID": steps.MPPS,
            "SOPInstanceUID": instance,
        }
        quarantine_file(self._root, Path(name), reason)


def _bytes(stream: Any) -> bytes:
    return b"" if stream is None else bytes(stream.getvalue())


def _syntax(event: Any) -> str:
    return str(event.context.transfer_syntax)


def _caller(event: Any) -> Caller:
    requestor = event.assoc.requestor
    called = event.assoc.requestor.primitive.called_ae_title
    return Caller(str(requestor.ae_title).strip(), str(called).strip(), str(requestor.address))


def run(root: DataRoot) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code 0.

    Prints ``listening on HOST:PORT`` to stdout, flushed, as soon as connections are answered.

    Raises:
        ConfigurationError: MPPSPORT is not set, or the address can't be listened on.
        ErasureUnfinished, Busy: an erasure has the data root to itself, or was cut short.
    """
    os.umask(UMASK)
    log_to_stderr()
    settings, _ = load_settings_in_force(root)
    if settings.MPPSPORT is None:
        raise ConfigurationError(f"{root.config_file}: MPPSPORT: not set; there is nothing to serve")
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    root.make()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Use(root):
        server = MppsServer(root, settings)
        sys.stdout.write("listening on {}:{}\n".format(*server.address))
        sys.stdout.flush()
        ended.wait()
        server.stop()
    return 0


def main() -> int:
    """Runs on the data root of the environment; one line and exit code 2 when it can't start."""
    try:
        return run(DataRoot.from_environment())
    except FionaError as error:
        sys.stderr.write("fiona: " + " ".join(str(error).split()) + "\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
