"""Records of the sandbox: their values by place, files, data access groups; and the file repository."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from fiona_dagster.redcap.sandbox.database import Database, now

_VALUES = (
    "SELECT record, event, form, instance, field, value FROM item WHERE project = ? {} AND field IN ({})"
)
_AT = "WHERE (project, record, event, form, instance, field) = (?, ?, ?, ?, ?, ?)"
_BY_RECORD = ("record", "item", "file", "member")


class Place(NamedTuple):
    """Where values stand."""

    record: str
    event: str = ""
    """Unique event name; empty in classic projects."""
    form: str = ""
    """Repeating instrument; empty for everything else."""
    instance: int = 0
    """0 unless something repeats."""


class Records(Database):
    """What projects hold."""

    def records(self, project: str, since: str = "", until: str = "") -> list[str]:
        """Names of records, optionally those modified between two local times (inclusive)."""
        with self._lock:
            rows = self._db.execute(
                "SELECT record FROM record WHERE project = ? AND modified >= ? AND (? = '' OR modified <= ?)",
                (project, since, until, until),
            ).fetchall()
        return [row[0] for row in rows]

    def values(
        self, project: str, fields: Collection[str], records: Collection[str] | None = None
    ) -> dict[Place, dict[str, str]]:
        """Stored values of some fields, by place; ``records`` None means all."""
        found: dict[Place, dict[str, str]] = {}
        with self._lock:
            if records is None:
                chunks = [(_VALUES.format("", _marks(fields)), (project, *fields))]
            else:
                query = _VALUES.format("AND record = ?", _marks(fields))
                chunks = [(query, (project, record, *fields)) for record in records]
            for sql, arguments in chunks:
                for record, event, form, instance, field, value in self._db.execute(sql, arguments):
                    found.setdefault(Place(record, event, form, instance), {})[field] = value
        return found

    def places(self, project: str, record: str | None = None) -> list[Place]:
        """Every place of a project, or of one record, in which anything is stored."""
        query = """SELECT DISTINCT record, event, form, instance FROM item
                   WHERE project = ? AND record = coalesce(?, record)"""
        with self._lock:
            return [Place(*row) for row in self._db.execute(query, (project, record))]

    def last_instance(self, project: str, record: str, event: str, form: str) -> int:
        """Highest instance number of a repeating form or event in a record; 0 for none."""
        with self._lock:
            row = self._db.execute(
                """SELECT max(instance) FROM item WHERE project = ? AND record = ? AND event = ?
                   AND form = ?""",
                (project, record, event, form),
            ).fetchone()
        return row[0] or 0

    def put(self, project: str, place: Place, values: Mapping[str, str]) -> dict[str, str]:
        """Stores values in one place (an empty one erases); returns those that changed anything."""
        with self.transaction():
            old = self.values(project, list(values), [place.record]).get(place, {})
            changed = {field: value for field, value in values.items() if old.get(field, "") != value}
            for field, value in changed.items():
                key = (project, *place, field)
                if value:
                    self._db.execute(
                        "INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, value)
                    )
                else:
                    self._db.execute(f"DELETE FROM item {_AT}", key)  # noqa: S608 - a constant
            return changed

    def file(self, project: str, place: Place, field: str) -> bytes | None:
        """The bytes of a stored file."""
        with self._lock:
            query = f"SELECT content FROM file {_AT}"  # noqa: S608 - a constant
            row = self._db.execute(query, (project, *place, field)).fetchone()
        return row[0] if row else None

    def put_file(self, project: str, place: Place, field: str, content: bytes | None) -> None:
        """Stores the bytes of a file; None removes them."""
        with self.transaction():
            key = (project, *place, field)
            if content is None:
                self._db.execute(f"DELETE FROM file {_AT}", key)  # noqa: S608 - a constant
            else:
                self._db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", (*key, content))

    def members(self, project: str) -> dict[str, str]:
        """Record -> unique name of its data access group."""
        with self._lock:
            query = "SELECT record, dag FROM member WHERE project = ?"
            return dict(self._db.execute(query, (project,)).fetchall())

    def join(self, project: str, record: str, dag: str) -> None:
        """Puts a record into a data access group; empty takes it out."""
        with self.transaction():
            self._db.execute("DELETE FROM member WHERE project = ? AND record = ?", (project, record))
            if dag:
                self._db.execute("INSERT INTO member VALUES (?, ?, ?)", (project, record, dag))

    def documents(self, project: str) -> list[tuple[int, int | None, str, bytes | None]]:
        """The file repository: id, folder that it is in, name, bytes (None: a folder)."""
        query = "SELECT id, folder, name, content FROM document WHERE project = ? ORDER BY id"
        with self._lock:
            return self._db.execute(query, (project,)).fetchall()

    def add_document(self, project: str, folder: int | None, name: str, content: bytes | None) -> int:
        """Adds a file or folder to the file repository; returns its id."""
        with self.transaction():
            cursor = self._db.execute(
                "INSERT INTO document VALUES (NULL, ?, ?, ?, ?)", (project, folder, name, content)
            )
            return cursor.lastrowid or 0

    def delete_document(self, project: str, number: int) -> None:
        """Takes a file out of the file repository."""
        with self.transaction():
            self._db.execute("DELETE FROM document WHERE project = ? AND id = ?", (project, number))

    def touch(self, project: str, record: str) -> bool:
        """Marks a record as modified now, making it if need be; returns whether it was made."""
        with self.transaction():
            made = not self.has_record(project, record)
            self._db.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", (project, record, now()))
        return made

    def has_record(self, project: str, record: str) -> bool:
        """Whether there is such a record."""
        with self._lock:
            query = "SELECT 1 FROM record WHERE project = ? AND record = ?"
            return self._db.execute(query, (project, record)).fetchone() is not None

    def delete(self, project: str, record: str) -> None:
        """Deletes a record with everything that belongs to it."""
        with self.transaction():
            for table in _BY_RECORD:
                self._db.execute(
                    f"DELETE FROM {table} WHERE project = ? AND record = ?",  # noqa: S608 - our tables
                    (project, record),
                )

    def delete_place(self, project: str, place: Place, columns: Collection[str]) -> None:
        """Deletes some columns of one place of a record."""
        self.touch(project, place.record)
        self.put(project, place, dict.fromkeys(columns, ""))

    def rename(self, project: str, old: str, new: str) -> None:
        """Gives a record another name."""
        with self.transaction():
            for table in _BY_RECORD:
                self._db.execute(
                    f"UPDATE {table} SET record = ? WHERE project = ? AND record = ?",  # noqa: S608
                    (new, project, old),
                )


def _marks(items: Collection[str]) -> str:
    return ", ".join("?" * len(items))
