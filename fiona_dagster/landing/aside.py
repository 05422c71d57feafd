"""An instance came again with another data set: it is kept aside until a person decides."""

from __future__ import annotations

import threading
from pathlib import Path

from fiona_dagster.config import DataRoot
from fiona_dagster.dicom import StorageUids
from fiona_dagster.landing.compare import digest_of
from fiona_dagster.landing.conflicts import SUPERSEDED, kept_at
from fiona_dagster.landing.files import make_directory, rename_new, sync_directory
from fiona_dagster.landing.prefix import archive_prefix
from fiona_dagster.landing.quarantine import write_json_new
from fiona_dagster.landing.receipt import Caller, Kind, now


class Aside:
    """The conflicts of one ``site/`` tree, as one process adds to them. Threads may share it.

    Args:
        root: the data root.
    """

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self._doubtful: set[Path] = set()
        self._mutex = threading.Lock()

    def keep(self, caller: Caller, temp_path: Path, archived: Path, uids: StorageUids) -> tuple[Kind, str]:
        """Moves an object into its study's folder of conflicts, with the reason beside it, flushed.

        Args:
            caller: who sent it.
            temp_path: its whole file, flushed; moved or removed.
            archived: the file that has its place in the archive.
            uids: as judged.

        Returns:
            ``conflict``, or ``repeat`` if these bytes were kept already, and the path below the data root.

        Raises:
            OSError: it could not be kept, or its name not be flushed.
        """
        folder = self._root.conflicts / uids.study
        make_directory(folder)
        sync_directory(folder.parent)
        path = folder / f"{archive_prefix(uids)}.{uids.sop_instance}.{digest_of(temp_path)[:16]}.dcm"
        reason = {
            "time": now(),
            "code": "conflict",
            "message": "same SOP Instance UID with another data set; accept or reject it",
            "StudyInstanceUID": uids.study,
            "SeriesInstanceUID": uids.series,
            "SOPInstanceUID": uids.sop_instance,
            "archived": archived.relative_to(self._root.path).as_posix(),
            "calling_ae": caller.calling_ae,
            "called_ae": caller.called_ae,
            "caller_ip": caller.ip,
        }
        kept = kept_at(self._root, uids.study, path.name)
        if kept is not None:  # it waits for a decision, or a person has decided about these very bytes
            kind: Kind = "repeat"
            if self._dispel(kept):
                temp_path.replace(kept)
            else:
                temp_path.unlink()
            path = kept if kept.parent.parent.name == SUPERSEDED else path
        else:
            kind = "conflict"
            write_json_new(path.with_suffix(".json"), reason)
            if not rename_new(temp_path, path):
                temp_path.unlink()
                kind = "repeat"
        try:
            sync_directory(folder)
        except OSError:
            self._doubt(path)
            raise
        return kind, path.relative_to(self._root.path).as_posix()

    def _doubt(self, path: Path) -> None:
        """Notes a file whose directory entry could not be flushed."""
        with self._mutex:
            self._doubtful.add(path)

    def _dispel(self, path: Path) -> bool:
        """Whether a file was in doubt; from now on it is not."""
        with self._mutex:
            known = path in self._doubtful
            self._doubtful.discard(path)
            return known
