"""Settings for a process that must stay small: read and checked in a process of its own.

pydantic costs 15 MB. A child that ends at once bears them; what comes back are plain objects with the same
attributes.
"""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any, NoReturn, cast

from fiona_dagster.config.root import DataRoot
from fiona_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from fiona_dagster.config.settings import Settings


class PlainSection:
    """A section of the settings without its model: the same attributes, and as immutable."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are immutable: {name}")


class SettingsApart:
    """Reads the settings in a process of its own, while this one does something else.

    The caller must not have started threads yet, since a process is forked.

    Args:
        root: the data root.
    """

    def __init__(self, root: DataRoot) -> None:
        self._root = root
        self._pipe, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._pipe)
                with os.fdopen(write_end, "wb") as pipe:
                    pipe.write(_read(root))
            finally:
                os._exit(0)
        os.close(write_end)

    def result(self) -> tuple[Settings, str | None]:
        """Waits for what was read; once.

        Returns:
            The settings, and why the newest file is not in force (``None`` when it is). Sections are
            :class:`PlainSection`: attributes only, no methods of the models.

        Raises:
            ConfigurationError: nothing usable; or the reading process died.
        """
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(self._pid, 0)
        if not answer:
            raise ConfigurationError(
                f"{self._root.config_file}: the process that reads it died; see its message above"
            )
        settings, message = pickle.loads(answer)  # noqa: S301 - from our own child, through our own pipe
        if settings is None:
            raise ConfigurationError(message)
        return cast("Settings", settings), message


def load_settings_apart(root: DataRoot) -> tuple[Settings, str | None]:
    """What :func:`~fiona_dagster.config.load.load_settings_in_force` says, without importing pydantic here.

    See :class:`SettingsApart`.
    """
    return SettingsApart(root).result()


def _read(root: DataRoot) -> bytes:
    from fiona_dagster.config.load import load_settings_in_force

    try:
        settings, problem = load_settings_in_force(root)
    except ConfigurationError as error:
        return pickle.dumps((None, str(error)))
    return pickle.dumps((_plain(settings), problem))


def _plain(value: Any) -> Any:
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        return PlainSection({name: _plain(getattr(value, name)) for name in type(value).model_fields})
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(inner) for inner in value)
    return value
