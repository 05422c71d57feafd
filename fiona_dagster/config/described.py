"""JSON schemas with what the docstrings of settings say.

pydantic reads them for itself (``use_attribute_docstrings``), whenever a model is imported: a quarter of the
start of every process, for a text that only a schema shows.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from fiona_dagster.config.section import Section


def described(model: type[Section]) -> dict[str, Any]:
    """The JSON schema of a model; each of its settings, and of sections in it, has its docstring.

    Args:
        model: of a whole file.
    """
    schema = model.model_json_schema()
    parts = {model.__name__: schema, **schema.get("$defs", {})}
    for section in _sections(Section):
        for name, setting in parts.get(section.__name__, {}).get("properties", {}).items():
            said = _said(section).get(name)
            if said is not None:
                setting.setdefault("description", said)
    return schema


def _sections(base: type[Section]) -> Iterator[type[Section]]:
    for section in base.__subclasses__():
        yield section
        yield from _sections(section)


def _said(section: type[Section]) -> dict[str, str]:
    """Setting -> docstring, of a section and of those that it extends."""
    said: dict[str, str] = {}
    for part in reversed(section.__mro__):
        if issubclass(part, Section):
            said |= _docstrings(part.__module__).get(part.__name__, {})
    return said


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Class -> attribute -> docstring, of the classes of a module."""
    source = inspect.getsource(sys.modules[module])
    return {each.name: _of(each) for each in ast.parse(source).body if isinstance(each, ast.ClassDef)}


def _of(section: ast.ClassDef) -> dict[str, str]:
    said = {}
    for attribute, text in zip(section.body, section.body[1:], strict=False):
        match attribute, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                said[name] = inspect.cleandoc(words)
    return said
