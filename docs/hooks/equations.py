"""Equations become MathML while the site is built: pages need no script, no font and no network to show them."""

from __future__ import annotations

import html
import re

_LIMITS = re.compile(r"\\(min|max|inf|sup)_(?:\{([^{}]*)\}|(\\?\w+))")
_BARS = re.compile(r"(?<!\\)(?<!\\left)(?<!\\right)\|([^|]*[^|\\])\|")
_NAMED = re.compile(r"(<m[io][^>]*>(?:log|exp|arccos|tr)</m[io]>)(?!<mo[^>]*>&#x00028;)")
_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content, page, config, files):
    """Replace the equations of a page (called by MkDocs)."""
    return _EQUATION.sub(lambda found: mathml(html.unescape(found[3]), block=found[2] == "["), content)


def mathml(tex: str, *, block: bool) -> str:
    """Return an equation in TeX as MathML; one of its own line can be scrolled where it is too wide."""
    from latex2mathml.converter import convert

    for side in ("left", "right"):  # bars that are a pair, not an operator
        tex = tex.replace(rf"\{side[0]}vert", rf"\{side}|").replace(rf"\{side[0]}Vert", rf"\{side}\|")
    tex = _BARS.sub(_paired, tex).strip()
    if block:  # what is minimised over stands below
        tex = _LIMITS.sub(lambda it: rf"\underset{{{it[2] or it[3]}}}{{\{it[1]}}}", tex)
    made = convert(tex, display="block" if block else "inline")
    made = _NAMED.sub(r'\1<mspace width="0.17em" />', made)
    return f'<div class="equation">{made}</div>' if block else made


def _paired(found: re.Match[str]) -> str:
    """Bars around something whole are a pair: | is set as an operator else, with space around it."""
    inside = found[1]
    whole = all(inside.count(one) == inside.count(other) for one, other in ("{}", "()", "[]"))
    return rf"\left|{inside}\right|" if whole and inside.strip() == inside else found[0]
