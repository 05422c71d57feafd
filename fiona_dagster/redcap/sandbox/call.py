"""One call of the API, with what its handlers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fiona_dagster.redcap.sandbox import formats
from fiona_dagster.redcap.sandbox.formats import Answer, ApiError, ExportRow
from fiona_dagster.redcap.sandbox.params import Params
from fiona_dagster.redcap.sandbox.store import Access, Project, Store

NO_IMPORT = "You do not have API Import/Update privileges"
NO_EXPORT = "You do not have API Export privileges"
NO_DESIGN = "You do not have Project Design/Setup privileges"


@dataclass(frozen=True)
class Call:
    """Who asks what of which project."""

    store: Store
    access: Access
    project: Project
    params: Params
    files: Mapping[str, tuple[str, bytes]]

    def need(self, right: str, text: str) -> None:
        """Refuses callers without a right."""
        if right not in self.access.rights:
            raise ApiError(text, 403)

    def rows(self, rows: Sequence[ExportRow], root: str, columns: Sequence[str] = ()) -> Answer:
        """An answer of rows in the wanted format."""
        head = list(columns) or (list(rows[0]) if rows else [])
        return formats.rows_answer(rows, self.params.format, root, head, self.params.delimiter)

    def data(self) -> list[dict[str, str]]:
        """Rows that were sent."""
        rows = formats.parse_rows(self.params.get("data"), self.params.format, self.params.delimiter)
        if rows is None:
            raise ApiError("The data being imported is not formatted correctly")
        return rows

    def count(self, number: int) -> Answer:
        """A bare number."""
        return formats.count_answer(number, self.params.return_format, bare=True)

    def change_setup(self, what: str, **changes: Any) -> None:
        """Replaces parts of the project's set-up; needs the right of design."""
        self.need("design", NO_DESIGN)
        store, name = self.store, self.project.name
        with store.transaction():
            store.change_project(name, self.project.dictionary, replace(self.project.setup, **changes))
            store.write_log(name, self.access.user, "manage", f"Manage/Design: {what} (API)")


def not_valid(parameter: str, value: str) -> ApiError:
    """REDCap's words for a value that names nothing."""
    return ApiError(f"The following values in the parameter \"{parameter}\" are not valid: '{value}'")
