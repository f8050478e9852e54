"""The API reference: one page per public module of otgen, made while the site is built.

Reads the source with `ast` and imports nothing of otgen, so that the site is built without JAX. A module's page holds
what mkdocstrings makes of its docstrings, a package's page a table of the names that it offers and of its modules.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TITLES = {  # of the packages, in this order
    "ot": "Transport",
    "theory": "Theory",
    "models": "Models",
    "eval": "Evaluation",
    "data": "Data",
    "train": "Training",
    "nn": "Networks",
    "plot": "Figures",
}


def modules() -> list[str]:
    """Every public module of otgen that is not a package, such as otgen.ot.sinkhorn."""
    paths = sorted((ROOT / "otgen").rglob("*.py"))
    return [_dotted(path) for path in paths if not path.stem.startswith("_")]


def packages(inside: str = "otgen") -> list[str]:
    """A package and those in it, each followed by its own."""
    names = [f"{inside}.{path.parent.name}" for path in ROOT.joinpath(*inside.split(".")).glob("*/__init__.py")]
    ranks = {f"otgen.{name}": rank for rank, name in enumerate(TITLES)}
    names.sort(key=lambda name: (ranks.get(name, len(ranks)), name))
    return [inside, *(it for name in names for it in packages(name))]


def offered(module: str) -> dict[str, str]:
    """Public names that a module takes from elsewhere in otgen to offer them, and where each is defined."""
    found, constants = {}, _constants(module)
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otgen"):
            for alias in node.names:
                if alias.asname == alias.name or alias.name in constants.get("__all__", ()):
                    found[alias.name] = _home(f"{node.module}.{alias.name}")
    for name, value in constants.items():
        if name == "_LAZY":
            found |= {part: f"{module}.{part}" for part in value}
        if name == "_FUNCTIONS":
            found |= {part: _home(f"{where}.{part}") for part, where in value.items()}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def defined(module: str) -> list[str]:
    """Public functions and classes that a module defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [it.name for it in _tree(module).body if isinstance(it, kinds) and not it.name.startswith("_")]


def summary(target: str) -> str:
    """The first line of the docstring of a module, function or class; empty if it has none."""
    if _file(target) is not None:
        text = ast.get_docstring(_tree(target))
    else:
        module, _, name = target.rpartition(".")
        kinds = (ast.FunctionDef, ast.ClassDef)
        nodes = [it for it in _tree(module).body if isinstance(it, kinds) and it.name == name]
        text = ast.get_docstring(nodes[0]) if nodes else None
    return escaped(" ".join((text or "").split("\n\n")[0].split()))


def escaped(text: str) -> str:
    """Text in which <x, y> is no HTML tag, | no column and [a][b] no link; code in backticks stays."""
    parts = text.split("`")
    for k in range(0, len(parts), 2):
        parts[k] = parts[k].replace("<", "&lt;").replace("|", "&#124;").replace("[", "&#91;").replace("*", "&#42;")
    return "`".join(parts)


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown, of every page of the reference."""
    made = {page_of("otgen"): _front()}
    for package in packages()[1:]:
        made[page_of(package)] = _package(package)
    for module in modules():
        made[page_of(module)] = _module(module)
    return made


def page_of(module: str) -> str:
    """Path below docs/ of the page of a module or package."""
    path = "/".join(["reference", *module.split(".")[1:]])
    return f"{path}/index.md" if module in packages() else f"{path}.md"


def nav() -> list:
    """The reference as a part of the navigation."""
    return [{"The names of otgen": "reference/index.md"}, *_entries("otgen")]


def _entries(package: str) -> list:
    """What is in a package: packages first, each a part of its own, then modules."""
    parts: list = []
    for inner in _inside(package, packages()):
        parts.append({_title(inner): [page_of(inner), *_entries(inner)]})
    return [
        *parts,
        *({it if package == "otgen" else it.split(".")[-1]: page_of(it)} for it in _inside(package, modules())),
    ]


def _inside(package: str, names: list[str]) -> list[str]:
    return [it for it in names if it.rpartition(".")[0] == package]


def on_config(config):
    """Put the reference at the end of the navigation (called by MkDocs)."""
    config.nav = [*config.nav, {"API reference": nav()}]
    return config


def on_files(files, config):
    """Add the pages (called by MkDocs)."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def _front() -> str:
    return (
        "# The names of otgen\n\n"
        "`import otgen as og` gives these; everything else lives in the modules they come from.\n"
        "`data`, `eval`, `models`, `nn`, `plot` and `train` load when they are first named.\n\n"
        + _table("otgen")
        + "\nConventions that hold everywhere: [Glossary](../glossary.md). Precision, status and tolerances:\n"
        "[Numerics](../numerics.md).\n"
    )


def _title(package: str) -> str:
    short = package.removeprefix("otgen.")
    return f"{TITLES[short]}: {package}" if short in TITLES else short.rpartition(".")[2]


def _package(package: str) -> str:
    lines = [f"# {package}", "", escaped(ast.get_docstring(_tree(package)) or ""), ""]
    if offered(package):
        lines += [f"## Names of `{package}`", "", _table(package), ""]
    inside = [*_inside(package, packages()), *_inside(package, modules())]
    links = [(it, os.path.relpath(page_of(it), os.path.dirname(page_of(package)))) for it in inside]
    rows = [f"| [`{it}`]({link}) | {summary(it)} |" for it, link in links]
    return "\n".join([*lines, "## Modules", "", "| module | what it is |", "|---|---|", *rows, ""])


def _module(module: str) -> str:
    return f"# {module}\n\n::: {module}\n"  # with the names that it offers from elsewhere


def _table(module: str) -> str:
    folder = os.path.dirname(page_of(module))
    lines = ["| name | defined in | what it is |", "|---|---|---|"]
    for name, target in offered(module).items():
        where = target if _file(target) is not None else target.rpartition(".")[0]
        is_documented = _file(target) is None and target.rpartition(".")[2] in defined(where)
        link = f"[`{name}`][{target}]" if is_documented else f"[`{name}`]({os.path.relpath(page_of(where), folder)})"
        lines.append(f"| {link} | `{where}` | {summary(target)} |")
    return "\n".join(lines) + "\n"


def _home(target: str) -> str:
    """Follow a name that is passed on from module to module to where it is defined."""
    if _file(target) is not None:
        return target
    module, _, name = target.rpartition(".")
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otgen"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _home(f"{node.module}.{alias.name}")
    return target


def _constants(module: str) -> dict:
    found = {}
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name in ("_LAZY", "_FUNCTIONS", "__all__"):
                found[name] = ast.literal_eval(node.value)
    return found


def _file(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((it for it in (base.with_suffix(".py"), base / "__init__.py") if it.is_file()), None)


def _tree(module: str) -> ast.Module:
    return ast.parse(_file(module).read_text())


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)
