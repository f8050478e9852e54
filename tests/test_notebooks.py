"""The stored notebooks are executed, small and clean; executed again they run."""

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TOUR = "00_tour.ipynb"
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def errors_of(notebook):
    """Names of errors, and what was written to stderr: warnings and progress bars."""
    return [
        output.get("ename", output.get("text"))
        for output in outputs_of(notebook)
        if output.output_type == "error" or output.get("name") == "stderr"
    ]


def test_there_is_a_tour():
    assert TOUR in {path.name for path in NOTEBOOKS}


@every_notebook
def test_notebooks_are_stored_as_executed(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # in order, in a fresh kernel
    assert 10 <= len(code) <= 20
    assert not errors_of(notebook)
    pictures = [output for output in outputs_of(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5
    assert path.stat().st_size < 700_000


@every_notebook
def test_notebooks_explain_what_they_do(path):
    notebook = nbformat.read(path, 4)
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert notebook.cells[0].cell_type == "markdown"
    assert text[0].startswith("# ")
    assert sum(len(it) for it in text) > 2500
    assert "$" in "".join(text)
    assert all(len(cell.source.splitlines()) <= 25 for cell in notebook.cells if cell.cell_type == "code")


@every_notebook
def test_notebooks_name_no_machine(path):
    stored = path.read_text()
    assert not re.findall(r"(?<![\w.])/(?:home|work|tmp|root|usr|opt|Users|mnt|data)/[^\s\"]*", stored)
    assert not re.findall(r"[A-Z]:\\\\Users", stored)
    notebook = nbformat.read(path, 4)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert not any(cell.metadata for cell in notebook.cells)


@pytest.mark.slow
@every_notebook
def test_notebooks_run(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.setenv("TQDM_DISABLE", "1")  # lines of progress are not for a file
    monkeypatch.delenv("OTGEN_DATA", raising=False)  # no data folder is needed
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()
    assert not errors_of(notebook)
    assert not list(tmp_path.iterdir())  # they write nothing
    assert any("image/png" in output.get("data", {}) for output in outputs_of(notebook))
