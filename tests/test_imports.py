"""The layers of the house: imports run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "otgen"
ALLOWED = {
    "types": set(),
    "ot": {"types"},
    "nn": {"types", "ot"},
    "data": {"types", "ot"},
    "eval": {"types", "ot", "nn", "data"},
    "train": {"types", "ot", "nn", "data"},
    "models": {"types", "ot", "nn", "data", "eval", "train"},
    "plot": {"types", "ot"},
}


def parts_imported(path: Path) -> set[str]:
    """The top-level parts of otgen that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("otgen.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if part == "__init__":
        return
    assert parts_imported(path) - {part} <= ALLOWED[part]


def test_pmap_is_said_in_one_file():
    said = {path.name for path in ROOT.rglob("*.py") if "jax.pmap" in path.read_text()}
    assert said == {"parallel.py"}


def test_mathematics_knows_no_network_and_no_disk():
    for path in (ROOT / "ot").glob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("import flax", "import orbax", "open(", "device_count")), path.name
