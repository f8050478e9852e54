"""The layers of the house: imports run one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "otgen"
# What each part may import: packages of mathematics one by one, then the layers above them.
ALLOWED = {
    "types": set(),
    "optional": set(),
    "sizes": set(),
    "progress": {"types"},
    "ot.check": {"types"},
    "ot.products": {"types", "ot.check"},
}
for part, below in (
    ("ot.inert", "types"),
    ("ot.conjugate", "types ot.check"),
    ("ot.costs", "types ot.check ot.products ot.inert"),
    ("ot.sinkhorn", "types ot.check ot.products ot.inert ot.costs"),
    ("ot.barycenter", "types ot.check ot.products ot.costs ot.sinkhorn"),
    ("ot.dual", "types ot.check ot.products ot.inert ot.costs"),
    ("ot.structured", "types ot.check ot.products ot.inert ot.costs ot.dual"),
    ("ot.exact", "types ot.check ot.costs"),
    ("ot.latent", "types ot.check ot.products"),
    ("ot.semidiscrete", "types ot.check ot.products ot.inert ot.costs ot.latent"),
    ("ot.gaussian", "types ot.check ot.products ot.costs ot.exact"),
    ("ot.coupling", "types ot.check ot.products ot.inert ot.costs ot.sinkhorn ot.exact ot.latent ot.semidiscrete"),
):
    ALLOWED[part] = set(below.split())
ALLOWED |= {
    "ot": set(),  # the face of the mathematics
    "nn": {"types", "ot", "theory"},
    "data": {"types", "ot"},
    "theory": {"types", "ot"},
    "eval": {"types", "ot", "nn", "data"},
    "store": {"types", "ot"},
    "train": {"types", "ot", "nn", "data", "store"},
    "maps": {"types", "ot", "nn", "data", "eval", "train"},
    "models": {"types", "ot", "nn", "data", "theory", "eval", "store", "train", "maps"},
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
        found |= {_part(name.split(".")[1:]) for name in names if name.startswith("otgen.")}
    return found


def _part(names: list[str]) -> str:
    """The part that a module below otgen belongs to: within the mathematics a package or a single file of it."""
    return ".".join(names[: 2 if names[0] == "ot" and len(names) > 1 else 1])


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    names = path.relative_to(ROOT).with_suffix("").parts
    if names == ("__init__",):
        return
    part = _part([name for name in names if name != "__init__"])
    imported = parts_imported(path) - {part, "optional", "sizes", "progress"}
    if not part.startswith("ot"):
        imported = {name.partition(".")[0] for name in imported}
    assert imported <= ALLOWED[part]


def test_rooms_are_few():
    """What a folder shows at once: a reader finds a file by its name."""
    for folder, most in (("ot", 14), ("models", 14), ("../experiments", 16)):
        rooms = [it for it in (ROOT / folder).iterdir() if it.name[0] != "_"]
        assert len(rooms) <= most, folder


def test_pmap_is_said_in_one_file():
    said = {path.name for path in ROOT.rglob("*.py") if "jax.pmap" in path.read_text()}
    assert said == {"parallel.py"}


def test_mathematics_knows_no_network_and_no_disk():
    for path in (ROOT / "ot").rglob("*.py"):
        text = path.read_text()
        assert not any(word in text for word in ("import flax", "import orbax", "open(", "device_count")), path.name


EXPERIMENTS = ROOT.parent / "experiments"
METHODS = {path.stem for path in EXPERIMENTS.glob("*.py")} - {"__init__"}


def modules_imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, whole, and of what it imports from them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.py")), ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_no_experiment_imports_a_method_script(path):
    """What scripts share is in experiments/lab, which knows none of them, and neither benches nor sweeps."""
    parts = {name.split(".")[1] for name in modules_imported(path) if name.startswith("experiments.")}
    assert not parts & METHODS
    if path.is_relative_to(EXPERIMENTS / "lab"):
        assert parts <= {"lab"}


def test_the_library_imports_no_experiment():
    for path in ROOT.rglob("*.py"):
        assert not any(name.split(".")[0] == "experiments" for name in modules_imported(path)), path.name
