"""Variants of a model by name on the command line: known names, or FIELD=VALUE of its configuration."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Any

COMMA = re.compile(r",(?![^(\[{]*[)\]}])")  # outside brackets


def names(words: str) -> list[str]:
    """Return the variants in a text with commas, each once; a comma inside brackets belongs to a value."""
    return list(dict.fromkeys(name.strip() for name in COMMA.split(words) if name.strip()))


def change(variant: str, model: type, skip: tuple[str, ...] = ()) -> tuple[str, Any]:
    """Return the field that a variant FIELD=VALUE changes, and its value: a Python literal, or else the text itself.

    Args:
      variant: the text.
      model: dataclass of the configuration.
      skip: its fields that are not to be changed here.

    Raises:
      ValueError: for another field.
    """
    name, _, text = variant.partition("=")
    if name not in {field.name for field in dataclasses.fields(model)} - set(skip):
        raise ValueError(f"{variant!r}: a model has no field {name!r} to change here.")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def built(variant: str, model: type, fields: dict[str, Any]) -> Any:
    """Return the configuration of a variant.

    Raises:
      ValueError: for a value that a field cannot have, such as a word for a number.
    """
    try:
        return model(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"variant {variant!r}: the field cannot have such a value ({error}).") from error
