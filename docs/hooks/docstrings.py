"""Docstrings are plain text with equations; here they are made safe to be read as Markdown."""

from __future__ import annotations

import re

import griffe

_KEPT = re.compile(r"(`[^`]*`|(?<![\w*])\*\w[^*]*\w\*(?![\w*]))")  # code, *emphasis*
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_START = re.compile(r"(\s*\**\s*)(.*)")  # a list's star, the stars of **options


class PlainText(griffe.Extension):
    """Keep <x, y> from becoming a tag, [K][M] a link, and a star of a product an emphasis."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Escape the docstring of an object as it is loaded."""
        if obj.docstring:
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", plain(obj.docstring.value))  # the name griffe knows


def plain(text: str) -> str:
    """Escape what Markdown would eat, outside backticks, emphasis, doctests and indented blocks."""
    made, code, before, doctest = [], False, "", None
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith(">>>"):
            doctest = indent
        elif doctest is not None and (not line.strip() or indent < doctest):
            doctest = None
        # Four spaces after an empty line are code; elsewhere they go on with an argument's description.
        code = line.startswith("    ") and (code or not before.strip())
        made.append(line if code or doctest is not None else _line(line))
        before = line
    return "\n".join(made)


def _line(line: str) -> str:
    start, rest = _START.match(line).groups()
    parts = _KEPT.split(rest)
    parts[::2] = [it.replace("<", "&lt;").replace("*", r"\*") for it in parts[::2]]
    return start + re.sub(r"\](\s*)\[", r"]\1\\[", "".join(parts))
