"""The base of all sections of configuration files."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

_NUMBERS = (int, float, int | None, float | None)


class Section(BaseModel):
    """Base of all sections: closed, immutable, documented (see ``described``)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_no_truth_values(cls, document: Any) -> Any:
        """``true`` is not 1, though Python says so."""
        for key, value in document.items() if isinstance(document, dict) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field and field.annotation in _NUMBERS:
                raise ValueError(f"{key}: expected a number")
        return document
