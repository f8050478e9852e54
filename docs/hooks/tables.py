"""Cells of tables in the site: numbers stay in one line, and bars in code are shown without GitHub's backslash."""

from __future__ import annotations

import re

_CELL = re.compile(r"(<t[dh][^>]*>)(.*?)(</t[dh]>)", re.DOTALL)
_CODE = re.compile(r"<code>.*?</code>", re.DOTALL)
_NUMBERS = re.compile(r"[-\d.e±/%(); ]*(?: to [-\d.e±/%(); ]*)?(?: s; \d+\))?")


def on_page_content(content, page, config, files):
    """Rewrite the cells of a page, and keep a number with its spread (called by MkDocs)."""
    made = _CELL.sub(lambda found: found[1] + cell(found[2]) + found[3], content)
    return made.replace(" ± ", "&nbsp;±&nbsp;")


def cell(inside: str) -> str:
    """Return what a cell holds, with bars as they are meant, and with spaces that do not break if all are numbers."""
    if _NUMBERS.fullmatch(inside.strip()):
        return inside.strip().replace(" ", "&nbsp;")
    return _CODE.sub(lambda code: code[0].replace(r"\|", "|"), inside)
