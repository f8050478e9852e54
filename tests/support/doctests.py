"""The examples of docstrings: where they are, and how what they print is compared.

Examples are read from the source, so that neither decorators nor jit hide them. They may use og, jax, jnp and np
without importing them. Numbers with a point are compared to the digits that the docstring gives, at least three after
the point; everything else, white space apart, to the letter.
"""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import otgen

ROOT = Path(otgen.__file__).parent
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w])")


def modules():
    """Names of all modules of otgen."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def examples(module):
    """The doctests of a module, one for each docstring that has any."""
    found = importlib.import_module(module)
    path, parser = Path(found.__file__), doctest.DocTestParser()
    for node, name in _documented(ast.parse(path.read_text()), module):
        docstring = node.body[0]
        test = parser.get_doctest(docstring.value.value, vars(found), name, str(path), docstring.lineno - 1)
        if test.examples:
            yield test


def _documented(node, name):
    if ast.get_docstring(node):
        yield node, name
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _documented(child, f"{name}.{child.name}")


class Checker(doctest.OutputChecker):
    """Compares numbers as numbers, and the rest without regard to white space within brackets."""

    def check_output(self, want, got, optionflags):
        want, got = _plain(want), _plain(got)
        if NUMBER.sub("#", want) != NUMBER.sub("#", got):
            return False
        return all(_close(*pair) for pair in zip(NUMBER.findall(want), NUMBER.findall(got), strict=True))


def _plain(text):
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"\s(?=[\])])|(?<=[\[(])\s", "", text)


def _close(want, got):
    if "." not in want or "e" in want:
        return want == got
    digits = max(3, len(want.partition(".")[2]))
    return abs(float(want) - float(got)) <= 0.5001 * 10.0**-digits + 1e-5 * abs(float(want))


def public():
    """What a user can name: dotted names from `og` on, and the functions and classes they stand for."""
    for name, part in _members(otgen):
        if not inspect.ismodule(part):
            yield name, part
        elif hasattr(part, "__path__"):
            for inner, piece in _members(part):
                pieces = _members(piece) if inspect.ismodule(piece) else [("", piece)]
                yield from ((f"{name}.{inner}.{last}".strip("."), it) for last, it in pieces)
        else:
            yield from ((f"{name}.{last}", it) for last, it in _members(part))


def _members(module):
    """What a module offers: `__all__`, or what it defines itself and what it imports by `import ... as` the same."""
    tree = ast.parse(Path(module.__file__).read_text())
    names = set(getattr(module, "__all__", ())) or {
        *(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)),
        *(alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names),
        *getattr(module, "_LAZY", ()),
        *getattr(module, "_FUNCTIONS", ()),
    }
    for name in sorted(names - {None}):
        found = getattr(module, name)
        if not name.startswith("_") and (callable(found) or inspect.ismodule(found)):
            yield name, found
